"""The chat panel without a browser: what a learner's hands do is setting values and clicking."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ftlab.generate import generate, turn
from ftlab.panels import chat_panel
from tests.test_generate import Steps, saying
from tests.throwaway import small_model, small_tokenizer
from tests.widgets import check_shared

QUESTION = [{"role": "user", "content": "Wer?"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def tuned() -> Any:
    """A small model with two adapters that answer differently."""
    torch.manual_seed(1)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(small_model(), config, adapter_name="one")
    model.add_adapter("two", config)
    return model


def make(model: Any, tokenizer: Any, foreground: bool = True, **options: Any) -> Any:
    return chat_panel(model, tokenizer, foreground=foreground, max_new_tokens=12, **options)


def type_in(panel: Any, question: str) -> Any:
    """Type into the box and press Send."""
    panel.question.value = question
    panel.buttons["Send"].click()
    return panel.wait(60)


def texts(panel: Any) -> list[list[str]]:
    return [[reply.text for reply in turn.replies] for turn in panel.turns]


# --- answers -------------------------------------------------------------------------------------


def test_base_and_adapter_answer_side_by_side_as_generate_does(tokenizer: Any) -> None:
    model = tuned()
    panel = type_in(make(model, tokenizer), "Wer?")
    expected = {
        name: generate(model, tokenizer, [QUESTION], max_new_tokens=12, adapter=name)[0]
        for name in ("base", "one", "two")
    }
    assert len(set(expected.values())) == 3
    assert texts(panel) == [[expected["base"], expected["one"]]] and panel.question.value == ""
    panel.clear()
    type_in(panel.set(adapter="two"), "Wer?")
    assert texts(panel) == [[expected["base"], expected["two"]]]
    assert [reply.name for reply in panel.turns[0].replies] == ["base", "two"]


def test_an_adapter_set_brings_its_adapters(tokenizer: Any, tmp_path: Any) -> None:
    from ftlab import AdapterSet

    tuned().save_pretrained(tmp_path)
    adapters = AdapterSet(small_model())
    for name in ("one", "two"):
        adapters.add(name, tmp_path / name)
    panel = type_in(make(adapters, tokenizer).set(adapter="two"), "Wer?")
    assert texts(panel) == texts(type_in(make(tuned(), tokenizer).set(adapter="two"), "Wer?"))
    assert adapters.active == "one"


def test_each_side_keeps_its_own_conversation(tokenizer: Any) -> None:
    model = tuned()
    panel = type_in(type_in(make(model, tokenizer, system="Kurz."), "Wer?"), "Und?")
    for side, name in enumerate(("base", "one")):
        messages = [
            {"role": "system", "content": "Kurz."},
            *QUESTION,
            {"role": "assistant", "content": texts(panel)[0][side]},
            {"role": "user", "content": "Und?"},
        ]
        again = generate(model, tokenizer, [messages], max_new_tokens=12, adapter=name)
        assert [texts(panel)[1][side]] == again


def test_a_fully_tuned_model_beside_the_one_it_came_from(tokenizer: Any) -> None:
    base, other = small_model(0), small_model(1)
    panel = type_in(make(other, tokenizer, base=base), "Wer?")
    assert [reply.name for reply in panel.turns[0].replies] == ["base", "tuned"]
    assert texts(panel) == [
        [generate(m, tokenizer, [QUESTION], max_new_tokens=12)[0] for m in (base, other)]
    ]
    alone = type_in(make(base, tokenizer), "Wer?")
    assert texts(alone) == [texts(panel)[0][:1]]
    assert "adapter" not in [control.description for control in controls(alone)]


def controls(panel: Any) -> Any:
    return panel.widget.children[1].children[0].children


def test_the_controls_are_the_options_of_generate(tokenizer: Any) -> None:
    model = small_model()
    panel = make(model, tokenizer, repetition_penalty=1.3)
    type_in(panel.set(temperature=1.5, top_p=0.9, seed=7, max_new_tokens=9), "Wer?")
    options = {"temperature": 1.5, "top_p": 0.9, "seed": 7, "max_new_tokens": 9}
    assert texts(panel)[0] == generate(
        model, tokenizer, [QUESTION], do_sample=True, repetition_penalty=1.3, **options
    )
    saying(model, tokenizer, "one\ntwo|three")
    for stop, answer in (("\\n", "one"), ("o\\nt|e\\n", "on"), ("", "one\ntwo|three")):
        type_in(panel.set(stop=stop, max_new_tokens=50, temperature=0), "Wer?")
        assert texts(panel)[-1] == [answer]


def test_thoughts_are_folded_and_kept_out_of_the_next_prompt(tokenizer: Any) -> None:
    model = saying(small_model(), tokenizer, "<think>1 + 1</think>Two.")
    panel = type_in(chat_panel(model, tokenizer, foreground=True), "?")
    html = panel.still()._repr_html_()
    assert "<details><summary>thoughts</summary>" in html and "<details open" not in html
    assert (panel.turns[0].replies[0].thoughts, texts(panel)) == ("1 + 1", [["Two."]])
    assert panel._messages(panel.turns[0], 0, panel.turns)[1]["content"] == "Two."


def test_chinese_and_hostile_text_is_shown_as_text(tokenizer: Any) -> None:
    text = "你好 👍 <img src=x onerror=alert(1)></div>"
    panel = chat_panel(saying(small_model(), tokenizer, text), tokenizer, foreground=True)
    type_in(panel, "<script>alert(2)</script>谁？")
    type_in(panel, "x")
    for html in (panel.still()._repr_html_(), panel._past.value, panel._now.value):
        assert "<img" not in html and "<script" not in html
        assert "你好 👍 &lt;img src=x" in html
    assert "谁？" in panel._past.value
    assert repr(panel.still()).startswith("you> <script>alert(2)</script>谁？\nmodel> 你好")


def test_the_answer_grows_on_the_page(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftlab.panels.chat.FRAME_SECONDS", 0)
    panel = chat_panel(saying(small_model(), tokenizer, "abcdef"), tokenizer, foreground=True)
    frames: list[str] = []
    panel._now.observe(lambda change: frames.append(change["new"]), names="value")
    type_in(panel, "?")
    shown = [frame.split("dir='auto'>")[-1].split("<")[0] for frame in frames]
    assert shown[:4] == ["a", "ab", "abc", "abcd"] and shown[-1] == "abcdef"


# --- ending --------------------------------------------------------------------------------------


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def slow(tokenizer: Any) -> Any:
    """A panel that answers in the background, and its model's steps."""
    model = saying(small_model(), tokenizer, "a" * 200)
    steps = Steps(model, pause=0.01)
    return chat_panel(model, tokenizer, foreground=False, max_new_tokens=200), steps


def test_stop_ends_the_answer_at_its_next_token(slow: Any) -> None:
    panel, steps = slow
    panel.ask("?")
    until(lambda: steps.count > 3)
    panel.buttons["Stop"].click()
    panel.wait(30)
    assert steps.count < 100 and not turn.locked()
    assert panel.turns[0].replies[0].note == "(ended)" and set(texts(panel)[0][0]) == {"a"}
    assert "Stopped." in panel._status.value


def test_a_new_question_ends_the_answer_before_it(slow: Any) -> None:
    panel, steps = slow
    panel.ask("one")
    until(lambda: steps.count > 3)
    panel.set(max_new_tokens=3).ask("two").wait(30)
    assert [turn.question for turn in panel.turns] == ["one", "two"]
    assert len(texts(panel)[0][0]) < 100 and texts(panel)[1] == ["aaa"]
    assert "more was to come" in panel._now.value


def test_a_second_panel_stops_the_first(slow: Any, tokenizer: Any) -> None:
    """Running the cell again makes another panel."""
    panel, steps = slow
    panel.ask("?")
    until(lambda: steps.count > 3)
    make(small_model(), tokenizer)
    panel.wait(30)
    assert steps.count < 100


def test_clear_begins_a_new_conversation(slow: Any) -> None:
    panel, steps = slow
    panel.ask("?")
    until(lambda: steps.count > 3)
    panel.buttons["Clear"].click()
    panel.wait(30)
    assert panel.turns == [] and panel._now.value == panel._past.value == ""
    panel.set(max_new_tokens=2).ask("again").wait(30)
    assert texts(panel) == [["aa"]]


def test_interrupt_ends_the_answer_in_the_foreground(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftlab.streaming import Stream

    plain, count = Stream.__next__, []

    def interrupted(self: Any) -> str:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(Stream, "__next__", interrupted)
    panel = type_in(make(saying(small_model(), tokenizer, "abcdef"), tokenizer), "?")
    assert "Interrupted." in panel._status.value and texts(panel) == [["ab"]]


# --- mistakes ------------------------------------------------------------------------------------


def test_a_mistake_is_said_and_the_panel_goes_on(tokenizer: Any) -> None:
    panel = type_in(make(small_model(), tokenizer), "word " * 100)
    assert "ftlab-bad" in panel._status.value and "the model reads 256" in panel._status.value
    type_in(panel, "Wer?")
    assert texts(panel)[1] == generate(small_model(), tokenizer, [QUESTION], max_new_tokens=12)


def test_an_error_of_the_model_is_shown_and_raised_by_wait(tokenizer: Any) -> None:
    model = small_model()
    model.model.forward = lambda **_: 1 / 0
    panel = make(model, tokenizer)
    panel.question.value = "?"
    panel.buttons["Send"].click()
    with pytest.raises(ZeroDivisionError):
        panel.wait(30)
    assert "ZeroDivisionError" in panel._status.value


def test_an_empty_question_is_none(tokenizer: Any) -> None:
    assert type_in(make(small_model(), tokenizer), "   ").turns == []


def test_only_what_both_ipywidgets_share_is_used(tokenizer: Any) -> None:
    seen = check_shared(type_in(make(tuned(), tokenizer), "?").widget)
    assert {"Text", "IntText", "Button", "Dropdown", "IntSlider", "FloatSlider", "HTML"} <= seen


def test_the_panel_shows_as_a_widget_with_words_beside_it(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    panel = make(small_model(), tokenizer)
    panel._ipython_display_()
    assert shown[0]["text/plain"].startswith("Chat panel")
    view = shown[0]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.widget.model_id
