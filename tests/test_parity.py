"""Training and serving: the same tokens, or an error that shows where they part."""

from __future__ import annotations

import importlib

import pytest
from families import published, tokenizer_for
from throwaway import small_model

import ftlab
from ftlab.chat import parity, prompt_ids

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
]
ROW = {"messages": TALK, "source": "a.json:1"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("stock", ["qwen3", "qwen2_5", "llama3", "gemma", "gemma3", "phi3", "lfm2"])
def test_published_templates_train_what_they_serve(stock):
    enc = parity(tokenizer_for(published(stock)), ROW)
    assert enc.trained


def test_the_last_answer_alone_can_be_checked():
    """Qwen3.5's template drops the opened thoughts of earlier turns: only the last is as served."""
    tok = tokenizer_for(published("qwen3_5_think"))
    with pytest.raises(ftlab.ModelError, match="mask_history"):
        parity(tok, ROW)
    assert parity(tok, ROW, mask_history=True).trained


def test_a_pair_and_a_kto_row_are_checked_too():
    tok = tokenizer_for(CHATML)
    parity(tok, {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": TALK[1:2]})
    parity(tok, {"prompt": TALK[:3], "completion": TALK[3:], "label": True})


def test_what_generate_sends_is_the_beginning_of_what_was_trained(monkeypatch):
    tok, model = tokenizer_for(CHATML), small_model(vocab_size=300)
    sent = []
    plain = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **kw: (sent.append(kw["input_ids"]), plain(**kw))[1]
    )
    ftlab.generate(model, tok, [TALK[:3]], max_new_tokens=2)
    enc = ftlab.encode(tok, TALK)
    assert sent[0][0].tolist() == enc.input_ids[: sent[0].shape[1]]
    assert enc.labels[sent[0].shape[1]] == enc.input_ids[sent[0].shape[1]]


def test_a_prompt_with_another_header_is_shown_with_the_ids_around_it():
    tok = tokenizer_for(MARKED.replace("assistant\n' }}{% endif %}", "bot\n' }}{% endif %}"))
    with pytest.raises(ftlab.DataError, match=r"a\.json:1: .* at token \d+: trained is \[.*bot"):
        parity(tok, ROW)


def test_marks_that_leave_out_the_beginning_of_an_answer_are_found():
    tok = tokenizer_for(
        MARKED.replace("{% generation %}{{ m.content +", "{{ m.content }}{% generation %}{{ '' +")
    )
    with pytest.raises(
        ftlab.DataError, match="first token of the last answer would not be trained"
    ):
        parity(tok, ROW)


def test_thinking_that_only_the_prompt_knows_is_found():
    """The shipped template writes an empty think block in the prompt when thinking is off."""
    tok = tokenizer_for(
        CHATML.replace("assistant\n' }}{% endif", "assistant\n' + think }}{% endif").replace(
            "{% for", "{% set think = '<think>' if enable_thinking is false else '' %}{% for", 1
        )
    )
    parity(tok, ROW, enable_thinking=True)
    with pytest.raises(ftlab.DataError, match="the prompt that asks for the last answer is"):
        parity(tok, ROW, enable_thinking=False)


# --- tools reach the prompt, and tool calls are scored -------------------------------------------

TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
ASKED = {
    "messages": [TALK[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "tools": [TOOL],
}


def block(text):
    return f"<tool_call>\n{text}\n</tool_call>"


@pytest.mark.parametrize(
    ("said", "valid", "right"),
    [
        (block('{"name": "add", "arguments": {"a": 1, "b": 2}}'), 1, 1),
        (block('{"arguments": {"b": 2, "a": 1}, "name": "add"}'), 1, 1),
        ("<think>Hm.</think>" + block('{"name": "add", "arguments": {"a": 1, "b": 2}}'), 1, 1),
        ('{"name": "add", "parameters": {"a": 1, "b": 2}}', 1, 1),
        (block('{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}'), 1, 1),
        (block('{"name": "add", "arguments": {"a": 1, "b": 3}}'), 1, 0),
        (block('{"name": "sub", "arguments": {"a": 1, "b": 2}}'), 1, 0),
        (block('{"name": "add", "arguments": {"a": 1, "b": 2}}') * 2, 1, 0),
        (block('{"name": "add", "arguments": {"a": 1,'), 0, 0),
        (block('{"name": "add"'), 0, 0),
        (block("[1]"), 0, 0),
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}', 1, 1),
        ("It is 3.", 0, 0),
        ("", 0, 0),
    ],
)  # fmt: skip
def test_tool_calls_are_scored_by_what_they_say(said, valid, right, tiny, monkeypatch):
    asked = []

    def generate(model, tokenizer, prompts, **options):
        asked.extend(prompts)
        return [said]

    monkeypatch.setattr(importlib.import_module("ftlab.evaluate"), "generate", generate)
    for metric, wanted in (("valid_json", valid), ("tool_call", right), ("exact_match", right)):
        assert ftlab.evaluate(None, tiny[1], [ASKED], metric=metric).value == wanted
    assert asked[0] == {"messages": ASKED["messages"][:1], "tools": [TOOL]}


def test_an_answer_without_a_call_is_right_where_none_is_wanted(tiny, monkeypatch):
    module = importlib.import_module("ftlab.evaluate")
    monkeypatch.setattr(module, "generate", lambda *a, **kw: ["Hello."])
    row = {"messages": TALK[:2], "tools": [TOOL]}
    for metric in ("valid_json", "tool_call"):
        assert ftlab.evaluate(None, tiny[1], [row], metric=metric).value == 1


def test_the_tools_of_a_row_reach_the_prompt(tiny):
    with_tools = prompt_ids(tiny[1], TALK[:1], tools=[TOOL])
    assert "adds" in tiny[1].decode(with_tools)
    answers = ftlab.generate(
        *tiny, [{"messages": TALK[:1], "tools": [TOOL]}, TALK[:1], "Ada"], max_new_tokens=2
    )
    assert len(answers) == 3
