"""The data panel in a real JupyterLab and a real browser."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from benchmarks import browser  # noqa: E402

pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="no Chromium on this machine (apt-get install chromium)"
)

CELL = """\
import ftlab
from ftlab.panels import data_panel
panel = data_panel("messy", tokenizer=ftlab.load("tiny")[1], cutoff_len=100)
panel"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for the whole file: the tests follow each other like a learner's visit."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.lab_page([CELL], folder, height=1000) as opened:
        browser.run_cell(opened, 0)
        opened.wait_for_selector("text=Ready. Press Check.", timeout=300_000)
        yield opened


def choose(page: Any, name: str, words: str) -> None:
    """Pick the option that begins with `words` in the drop-down `name`."""
    box = page.locator(f".ftlab-panel .widget-dropdown:has-text('{name}') select").first
    box.locator("option").nth(5).wait_for(state="attached")
    options = box.locator("option").all_text_contents()
    box.select_option(label=next(o for o in options if o.replace("\xa0", " ").startswith(words)))


def test_check_shows_causes_and_the_first_row(page: Any) -> None:
    page.click("button:has-text('Check')")
    page.wait_for_selector("text=80 rows read, 59 kept, 21 rejected", timeout=120_000)
    assert page.locator(".ftlab-panel svg rect").count() > 5
    assert page.locator(".ftlab-panel td:has-text('mojibake')").count() == 1
    page.wait_for_selector(".ftlab-panel pre:has-text('instruction')")


def test_a_cause_leads_to_its_row_and_the_row_to_its_tokens(page: Any) -> None:
    choose(page, "rows", "control token")
    page.wait_for_selector(".ftlab-panel li:has-text('a control token inside the text')")
    trained = page.locator(".ftlab-panel :text-matches('of \\\\d+ tokens are trained')").last
    before = trained.inner_text()
    browser.screenshot(page, "data-panel")
    page.click(".ftlab-panel label:has-text('train_on_prompt')")
    page.wait_for_function(
        "before => [...document.querySelectorAll('.ftlab-panel *')].some(e =>"
        " /^\\d+ of \\d+ tokens are trained/.test(e.innerText || '') && e.innerText != before"
        " && !e.innerText.startsWith(before))",
        arg=before,
    )


def test_text_of_a_row_stays_text(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "hostile.jsonl"
    row = {"instruction": "<img src=x onerror='window.pwned=1'>", "output": "<script>1</script>"}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    box = page.locator(".ftlab-panel input[type=text]").first
    box.fill(str(file))
    page.click("button:has-text('Check')")
    page.wait_for_selector("text=1 rows read", timeout=60_000)
    page.wait_for_selector(".ftlab-panel pre:has-text('onerror')")
    assert page.evaluate("window.pwned === undefined")
    assert page.locator(".ftlab-panel img").count() == 0


def test_a_wrong_name_gets_one_sentence_and_the_panel_goes_on(page: Any) -> None:
    box = page.locator(".ftlab-panel input[type=text]").first
    box.fill("world_q")
    page.click("button:has-text('Check')")
    page.wait_for_selector(".ftlab-bad:has-text(\"did you mean 'world_qa'?\")", timeout=60_000)
    box.fill("world_qa")
    page.click("button:has-text('Check')")
    page.wait_for_selector("text=nothing found", timeout=120_000)
