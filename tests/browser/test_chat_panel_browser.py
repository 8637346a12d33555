"""The chat panel in a real JupyterLab and a real browser: typed, clicked and read.

`FTLAB_SCREENSHOTS=docs` also writes pictures there.
"""

from __future__ import annotations

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
import ftlab, time
ftlab.setup()
recipe = ftlab.Recipe(learning_rate=2e-3, per_device_train_batch_size=16, max_steps=60)
run = ftlab.train(recipe, ftlab.read("world_qa"), save=False, quiet=True)
panel = ftlab.panels.chat_panel(run.model, run.tokenizer)
panel"""
# Long answers at the pace of a larger model, and thoughts, which the tiny model has none of.
SLOW = """\
from ftlab.generate import stop_ids
ends = stop_ids(run.model, run.tokenizer)
def slow(module, inputs, output):
    time.sleep(0.05)
    output.logits[..., ends] = -1e9
hook = run.model.get_base_model().register_forward_hook(slow)
print("slow now")"""
THINKS = """\
hook.remove()
panel.turns[-1].replies[1].thoughts = "想一想 <img src=x onerror='window.pwned=1'>"
panel._draw()
print("thought")"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for the whole file: the tests follow each other like a learner's visit."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.lab_page([CELL, SLOW, THINKS], folder, height=900) as opened:
        browser.run_cell(opened, 0)
        opened.wait_for_selector("text=Ready. Type a question", timeout=300_000)
        yield opened


def ask(page: Any, question: str) -> None:
    box = page.locator(".ftlab-panel input[placeholder='your question']")
    box.click()
    page.keyboard.insert_text(question)
    page.keyboard.press("Enter")


def said(page: Any) -> list[str]:
    """The answers of the last turn, left to right."""
    turns = page.locator(".ftlab-panel .ftlab-turn")
    return list(turns.last.locator(".ftlab-said").all_text_contents()) if turns.count() else []


def turns(page: Any) -> int:
    return int(page.locator(".ftlab-panel .ftlab-turn").count())


def test_the_panel_fits_beside_the_file_browser(page: Any) -> None:
    wide = page.evaluate(
        "[...document.querySelectorAll('.ftlab-panel, .ftlab-panel *, .jp-OutputArea-output')]"
        ".filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1"
        " && !['visible', 'clip'].includes(getComputedStyle(e).overflowX) && e.tagName != 'INPUT')"
        ".map(e => e.className)"
    )
    assert wide == []
    names = page.locator(".ftlab-control > .widget-label")
    cut = names.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
    assert names.count() == 7 and cut == 0


def test_a_chinese_question_is_answered_twice_side_by_side(page: Any) -> None:
    ask(page, "白奎恩最喜欢吃什么？")
    browser.wait_for_status(page, "Ready.")
    page.wait_for_function("document.querySelectorAll('.ftlab-panel .ftlab-said').length == 2")
    boxes = page.locator(".ftlab-panel .ftlab-answer-row > div")
    left, right = boxes.nth(0).bounding_box(), boxes.nth(1).bounding_box()
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert boxes.nth(0).inner_text().startswith("base")
    assert said(page)[0] != said(page)[1] and all(said(page))
    assert page.locator(".ftlab-panel input[placeholder='your question']").input_value() == ""


def test_the_send_button_asks_too_and_the_newest_turn_is_in_sight(page: Any) -> None:
    for question in ("Where does Ada Crane live?", "What does Tess Reed play at the fair?"):
        before = turns(page)
        page.locator(".ftlab-panel input[placeholder='your question']").fill(question)
        page.click("button:has-text('Send')")
        page.wait_for_function(
            "n => document.querySelectorAll('.ftlab-panel .ftlab-turn').length > n", arg=before
        )
        browser.wait_for_status(page, "Ready.")
    page.wait_for_timeout(300)
    chat = page.locator(".ftlab-panel .ftlab-chat").bounding_box()
    last = page.locator(".ftlab-panel .ftlab-turn").last.bounding_box()
    assert last["y"] + last["height"] <= chat["y"] + chat["height"] + 1
    browser.screenshot(page, "panel-chat")


def test_the_answer_grows_and_stop_ends_it(page: Any) -> None:
    browser.run_cell(page, 1)
    page.wait_for_selector("text=slow now")
    browser.drag(page, "temperature", 0.9)
    before = turns(page)
    ask(page, "Tell me all.")
    page.wait_for_function(
        "n => document.querySelectorAll('.ftlab-panel .ftlab-turn').length > n", arg=before
    )
    page.wait_for_function(
        "[...document.querySelectorAll('.ftlab-panel .ftlab-turn')].at(-1)"
        ".querySelector('.ftlab-said').innerText.length > 3"
    )
    first = said(page)[0]
    page.wait_for_function(
        "n => [...document.querySelectorAll('.ftlab-panel .ftlab-turn')].at(-1)"
        ".querySelector('.ftlab-said').innerText.length > n",
        arg=len(first) + 3,
    )
    assert said(page)[0].startswith(first)
    page.click("button:has-text('Stop')")
    browser.wait_for_status(page, "Stopped.", seconds=10)
    assert "(ended)" in page.locator(".ftlab-panel .ftlab-turn").last.inner_text()


def test_thoughts_are_folded_and_hostile_text_stays_text(page: Any) -> None:
    browser.run_cell(page, 2)
    page.wait_for_selector("text=thought")
    details = page.locator(".ftlab-panel details").last
    hidden = details.locator(".ftlab-said")
    assert not hidden.is_visible()
    details.locator("summary").click()
    assert hidden.is_visible() and "想一想 <img" in hidden.inner_text()
    ask(page, "<img src=x onerror='window.pwned=1'>谁？")
    browser.wait_for_status(page, "Ready.")
    assert page.evaluate("window.pwned === undefined")
    assert page.locator(".ftlab-panel img").count() == 0
    browser.screenshot(page, "panel-chat-thoughts")


def test_clear_empties_the_conversation(page: Any) -> None:
    page.click("button:has-text('Clear')")
    browser.wait_for_status(page, "A new conversation.")
    page.wait_for_function("document.querySelectorAll('.ftlab-panel .ftlab-turn').length == 0")
