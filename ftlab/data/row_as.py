"""A row in TRL's format -> the same row in another format: the way back of `one_row`."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from ftlab.data.records import Problem
from ftlab.data.shapes import FORMATS, OPENAI, SHAREGPT, SWIFT, Format, Row
from ftlab.data.turns import Message

_OPENAI = next(form for form in FORMATS if form.tags is OPENAI)


def row_as(form: Format, row: Row) -> Row:
    """The row in the words of the format. Raises Problem for what the format cannot hold."""
    names, extra = form.columns, row.get("extra", {})
    if clash := sorted(extra.keys() & names.values()):
        reason = f"the extra field {clash[0]!r} has the name of a column of {form.name}"
        raise Problem(reason, "choose another format")
    if form.kind == "text":
        return {names["prompt"]: row["text"], **extra}
    if form.kind == "messages":
        before, answer = row["messages"][:-1], row["messages"][-1:]
    else:
        before, answer = row["prompt"], row.get("completion") or row["chosen"]
    write = _turn_row if form.tags else _pair_row
    written = write(form, before, answer, row.get("rejected"))
    if form.kind == "kto":
        written[names["kto_tag"]] = row["label"]
    if tools := row.get("tools"):
        listed = form.name in ("openai", "prompt/completion")
        written[names["tools"]] = tools if listed else json.dumps(tools, ensure_ascii=False)
    return written | extra


def _turn_row(
    form: Format, before: list[Message], answer: list[Message], rejected: list[Message] | None
) -> Row:
    names = form.columns
    if rejected is None or "chosen" not in names:
        if form.kind != "messages" and len(answer) > 1:
            raise Problem("the answer has several turns", "choose the format openai")
        turns = {names["messages"]: _turns([*before, *answer], form)}
        return turns | ({names["rejected"]: _answer(rejected, form)} if rejected else {})
    answers = {names["chosen"]: answer, names["rejected"]: rejected}
    written = {names["messages"]: _turns(before, form)}
    return written | {name: _answer(said, form) for name, said in answers.items()}


def _answer(said: list[Message], form: Format) -> Any:
    turns = _turns(said, form)
    return turns[0] if len(turns) == 1 else turns


def _pair_row(
    form: Format, before: list[Message], answer: list[Message], rejected: list[Message] | None
) -> Row:
    """System, history, prompt and answers as texts; in TRL's prompt/completion also as lists."""
    names = form.columns
    better = "chosen" if rejected and "chosen" in names else "response"
    answers = {names[better]: answer}
    answers |= {names["rejected"]: rejected} if rejected else {}
    plain = all(m.keys() == {"role", "content"} for m in chain(before, *answers.values()))
    plain = plain and all(len(said) == 1 for said in answers.values()) and _takes_turns(before)
    if form.name == "prompt/completion" and not (plain and len(before) == 1):
        parts = {names["prompt"]: before, **answers}
        return {name: _turns(said, _OPENAI) for name, said in parts.items()}
    if not plain:
        reason = f"{form.name} holds questions and answers only: no tools, no weights, no thoughts"
        raise Problem(reason, 'choose the format "openai"')
    start = {names["system"]: before[0]["content"]} if before[0]["role"] == "system" else {}
    texts = [m["content"] for m in before[len(start) :]]
    pairs = [list(pair) for pair in zip(texts[:-1:2], texts[1::2], strict=True)]
    query = {names["query"]: ""} if "query" in names else {}
    asked = {names["prompt"]: texts[-1], **query}
    said = {name: messages[0]["content"] for name, messages in answers.items()}
    return asked | said | start | ({names["history"]: pairs} if pairs else {})


def _takes_turns(before: list[Message]) -> bool:
    roles = [m["role"] for m in before if m["role"] != "system"]
    return roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def _turns(messages: list[Message], form: Format) -> list[Message]:
    """The messages as turns, in the dialect of OpenAI, ShareGPT or ms-swift."""
    turns: list[Message] = []
    role, content = form.dialect.role, form.dialect.content
    for message, last in zip(messages, [{}, *messages], strict=False):
        if form.tags is SHAREGPT and message["role"] == last.get("role"):
            raise Problem("two tool results follow each other", 'choose the format "openai"')
        more = {k: v for k, v in message.items() if k not in ("role", "content", "tool_calls")}
        if form.tags is SWIFT and "weight" in more:
            more["loss"] = bool(more.pop("weight"))
        calls = message.get("tool_calls")
        name = "observation" if message["role"] == "tool" else message["role"]
        turn = {role: form.tags[f"{name}_tag"], content: message["content"], **more}
        if calls and form.tags is OPENAI:
            turns.append(turn | {"tool_calls": [_openai_call(call) for call in calls]})
        elif calls:
            turns += _call_turns(turn, calls, form)
        else:
            turns.append(turn)
    return turns


def _openai_call(call: Message) -> Message:
    called = call["function"]
    arguments = json.dumps(called["arguments"], ensure_ascii=False)
    return call | {"function": {"name": called["name"], "arguments": arguments}}


def _call_turns(turn: Message, calls: list[Message], form: Format) -> Iterator[Message]:
    """A turn of calls as JSON text: one for all of them (ShareGPT), or one for each (ms-swift)."""
    role, content = form.dialect.role, form.dialect.content
    said, word = turn[content], form.tags["function_tag"]
    bare = [{k: v for k, v in c.items() if k == "id"} | c["function"] for c in calls]
    if form.tags is SHAREGPT:
        if said and not said.endswith("</think>"):
            raise Problem("an answer has a text and a tool call", 'choose the format "openai"')
        text = json.dumps(bare if len(bare) > 1 else bare[0], ensure_ascii=False)
        yield turn | {role: word, content: said + text}
        return
    if said:
        yield turn
    for number, call in enumerate(bare):
        more = {} if said or number else turn
        yield more | {role: word, content: json.dumps(call, ensure_ascii=False)}
