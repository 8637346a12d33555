"""The calculator's panel in a real JupyterLab and a real browser, turned with the mouse."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

import ftlab  # noqa: E402
from benchmarks import browser  # noqa: E402

pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="no Chromium on this machine (apt-get install chromium)"
)

KEYS = {"model_name_or_path": "Qwen3-0.6B", "cutoff_len": 512}
RECIPE = ftlab.Recipe(**KEYS)
CELL = f"""\
import ftlab
panel = ftlab.panels.estimate_panel(ftlab.Recipe(**{KEYS}), device="RTX 3060")
panel"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for the whole file: the tests follow each other like a learner's visit."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.lab_page([CELL], folder, height=1000) as opened:
        browser.run_cell(opened, 0)
        opened.wait_for_selector(".ftlab-panel svg rect", timeout=300_000)
        yield opened


def wait_for_advice(page: Any, recipe: ftlab.Recipe) -> None:
    """Wait for the sentence that ftlab.estimate gives for this recipe."""
    words = ftlab.estimate(recipe, device="RTX 3060").advice().headline()
    page.wait_for_selector(f".ftlab-help p:text-is('{words}')", timeout=120_000)


def choose(page: Any, name: str, option: str) -> None:
    page.locator(f".ftlab-control:has-text('{name}') select").select_option(label=option)


def test_bars_cards_and_advice_are_shown(page: Any) -> None:
    wait_for_advice(page, RECIPE)
    assert page.locator(".ftlab-panel svg rect").count() > 5
    assert page.locator(".ftlab-panel td:has-text('H200')").count() >= 1
    browser.screenshot(page, "estimate-panel")


def test_the_mouse_moves_the_bytes_and_the_newest_position_counts(page: Any) -> None:
    browser.drag(page, "cutoff_len", 1.0)
    browser.drag(page, "cutoff_len", 0.0)  # while the first is still looking for advice
    shortest = RECIPE.replace(cutoff_len=128)
    needed = ftlab.estimate(shortest, device="RTX 3060").needed
    wait_for_advice(page, shortest)
    assert f"{needed / 1e9:.1f}" in page.locator(".ftlab-help p").first.inner_text()


def test_what_cannot_be_is_said_and_taken_back(page: Any) -> None:
    choose(page, "quantization_bit", "4 bits")
    choose(page, "finetuning_type", "full")
    page.wait_for_selector(".ftlab-bad:has-text('quantization_bit=4')", timeout=60_000)
    assert page.locator(".ftlab-panel svg rect").count() == 0
    choose(page, "finetuning_type", "lora")
    wait_for_advice(page, RECIPE.replace(cutoff_len=128, quantization_bit=4))
