"""The training panel in a real JupyterLab and a real browser: what a learner's hands do.

`FTLAB_SCREENSHOTS=docs` also writes the README's pictures there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from benchmarks import browser  # noqa: E402

pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="no Chromium on this machine (apt-get install chromium)"
)


CELL = """\
import ftlab
ftlab.setup()
data, test = ftlab.read("world_qa"), ftlab.read("world_qa_test").take(64)
recipe = ftlab.Recipe(learning_rate=2e-3, per_device_train_batch_size=16, max_steps=60,
                      eval_strategy="steps", eval_steps=15, per_device_eval_batch_size=64)
panel = ftlab.panel(recipe, data, eval_data=test)
panel"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for the whole file: the tests follow each other like a learner's visit."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.lab_page([CELL], folder) as opened:
        browser.open_panel(opened)
        yield opened


def lines(page: Any) -> int:
    """Curves in the large chart: each run has one, the current one also its raw values."""
    return int(page.locator(".ftlab-panel svg path[fill=none]").count())


def step(page: Any) -> int:
    text = page.locator(".ftlab-readout b").first.inner_text()
    return int(text.split()[0].replace(",", "")) if " of " in text else 0


def wait_for_step(page: Any, wanted: int) -> None:
    page.wait_for_function(
        'wanted => { const [ms, step, status] = window.ftlabLog.at(-1) || [0, 0, ""];'
        ' return status.startsWith("Training") && step >= wanted }',
        arg=wanted,
        timeout=120_000,
    )


def test_the_panel_fits_beside_the_file_browser(page: Any) -> None:
    browser.screenshot(page, "panel-idle")
    wide = page.evaluate(
        "[...document.querySelectorAll('.ftlab-panel, .ftlab-panel *, .jp-OutputArea-output')]"
        ".filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).overflowX != 'visible')"
        ".map(e => e.className)"
    )
    assert wide == []
    names = page.locator(".ftlab-control > .widget-label")
    cut = names.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
    assert names.count() >= 8 and cut == 0


def test_dragging_a_slider_draws_a_growing_curve(page: Any) -> None:
    browser.drag(page, "lora_rank", 0.35)
    wait_for_step(page, 2)
    wait_for_step(page, 32)
    browser.screenshot(page, "panel-training")
    browser.wait_for_status(page, "Finished")
    assert step(page) == 60
    steps = [seen for _, seen, status in browser.log(page) if status.startswith("Training")]
    assert len(set(steps)) >= 3 and steps == sorted(steps)


def test_a_second_drag_lays_a_new_curve_over_the_first(page: Any) -> None:
    before = lines(page)
    browser.drag(page, "lora_rank", 0.85)
    wait_for_step(page, 1)
    browser.wait_for_status(page, "Finished")
    assert lines(page) > before
    chart = page.locator(".ftlab-panel svg").text_content()
    assert "first run" in chart and "lora_rank" in chart


def test_arrow_keys_on_a_slider_train_too(page: Any) -> None:
    page.locator(".ftlab-control:has-text('learning_rate') .noUi-handle").focus()
    before = page.locator(".ftlab-control:has-text('learning_rate') .widget-readout").inner_text()
    page.keyboard.press("ArrowRight")
    wait_for_step(page, 1)
    browser.wait_for_status(page, "Finished")
    after = page.locator(".ftlab-control:has-text('learning_rate') .widget-readout").inner_text()
    assert float(after) > float(before)
    page.wait_for_function("document.querySelectorAll('.ftlab-answers tr').length == 4")
    page.wait_for_timeout(1500)
    browser.screenshot(page, "panel-overlay")


def test_stop_ends_the_run_at_its_next_step(page: Any) -> None:
    browser.drag(page, "max_steps", 0.98)
    wait_for_step(page, 2)
    page.click("button:has-text('Stop')")
    browser.wait_for_status(page, "Stopped at step")
    assert 2 <= step(page) < 290


def test_the_recipe_is_ready_to_copy(page: Any) -> None:
    page.click("button:has-text('Copy as YAML')")
    box = page.locator("textarea.ftlab-copy")
    box.wait_for(timeout=30_000)
    box.click()
    chosen = box.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)")
    assert "learning_rate: 0.0025" in chosen and "finetuning_type: lora" in chosen
