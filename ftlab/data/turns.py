"""Turns, texts and tools as people write them -> messages; each fault a Problem with its turn."""

import unicodedata
from collections.abc import Sequence
from reprlib import repr as short
from typing import Any, NamedTuple

from ftlab.data.records import Problem
from ftlab.data.strict_json import parse_json

Message = dict[str, Any]
Names = dict[str, str]


class Dialect(NamedTuple):
    """The keys of a turn, and what its roles are called: word -> role."""

    role: str
    content: str
    words: Names


# The words of LLaMA-Factory, OpenAI and ms-swift. "call" is an assistant's turn that calls tools.
WORDS = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
_NEXT = {
    "start": ("user", "system"),
    "answer": ("assistant", "user", "system"),  # an answer alone, or the whole conversation
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


def read_turns(turns: Any, dialect: Dialect, field: str, last: str = "start") -> list[Message]:
    """A list of turns (or its JSON text) as messages; `last` is the role of the turn before it."""
    turns = json_value(turns, field)
    if not isinstance(turns, list) or not turns:
        reason = "is an empty list" if turns == [] else f"is {kind_of(turns)}, not a list of turns"
        raise Problem(reason, "write a user turn and an assistant turn", field)
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        where = f"turn {number} "
        role = _role(turn, dialect, where, field)
        message = _message(turn, role, dialect, where, field)
        if role == "call" and last == "assistant" and messages:
            _join(messages[-1], message, where, field)  # in ms-swift each call is a turn of its own
            continue
        if message["role"] not in _NEXT[last]:
            expected = " or ".join(_NEXT[last])
            reason = f"{where}is from {message['role']}, expected {expected}"
            raise Problem(reason, "let user and assistant take turns", field)
        messages.append(message)
        last = message["role"]
    return messages


def json_value(value: Any, field: str, where: str = "") -> Any:
    """The value, parsed where it is the text of a JSON list or object, as in CSV."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return parse_json(value)
    except Problem as problem:
        reason, fix = problem.args[:2]
        raise Problem(f"{where}is not readable as JSON: {reason}", fix, field) from None


def _role(turn: Any, dialect: Dialect, where: str, field: str) -> str:
    try:
        return dialect.words[turn[dialect.role]]
    except (KeyError, TypeError):
        pass
    if not isinstance(turn, dict):
        raise Problem(f"{where}is {kind_of(turn)}, not an object", "write role and text", field)
    if dialect.role not in turn:
        raise _no_key(turn, dialect.role, "role_tag", where, field)
    word, known = short(turn[dialect.role]), ", ".join(dialect.words)
    reason = f"{where}has the unknown role {word}; known are {known}"
    raise Problem(reason, f'rename it or pass tags={{"assistant_tag": {word}}}', field)


def _no_key(turn: Message, key: str, tag: str, where: str, field: str) -> Problem:
    reason = f'{where}has no "{key}"; found {short(list(turn))}'
    return Problem(reason, f'add it or pass tags={{"{tag}": ...}}', field)


def _message(turn: Message, role: str, dialect: Dialect, where: str, field: str) -> Message:
    content = turn.get(dialect.content)
    if len(turn) == 2 and role != "call" and content is not None:  # by far the most frequent
        content = _content(content, role == "system" or role == "tool", where, field)
        return {"role": role, "content": content}
    known = (dialect.role, dialect.content)
    more = {key: value for key, value in turn.items() if key not in known and value is not None}
    calls = more.pop("tool_calls", None) or more.pop("function_call", None)
    if role == "call":
        content, calls = _thought_and_calls(content, where, field)
    elif dialect.content not in turn and not calls:
        raise _no_key(turn, dialect.content, "content_tag", where, field)
    if calls and role not in ("assistant", "call"):
        raise Problem(f"{where}calls tools, but is from {role}", "let the assistant call", field)
    content = "" if calls and content is None else content
    empty_ok = bool(calls) or role in ("system", "tool", "call")
    message = {"role": "assistant" if role == "call" else role}
    message["content"] = _content(content, empty_ok, where, field)
    weight = _weight(more, role, where, field)
    if "reasoning_content" in more:
        check_text(more["reasoning_content"], field, f"{where}reasoning_content ", empty_ok=True)
    tools = {"tool_calls": _calls(calls, where, field)} if calls or role == "call" else {}
    return message | more | tools | weight


def _content(content: Any, empty_ok: bool, where: str, field: str) -> str:
    """Text; OpenAI's list of parts is joined by line breaks where all parts are text."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                name = part.get("type") if isinstance(part, dict) else part
                reason = f"{where}holds a part that is not text ({short(name)})"
                raise Problem(reason, "keep text only: ftlab opens no media", field)
            check_text(part.get("text"), field, where, empty_ok=True)
        content = "\n".join(part["text"] for part in content)
    return check_text(content, field, where, empty_ok)


def _weight(more: Message, role: str, where: str, field: str) -> Message:
    """OpenAI's `weight` and ms-swift's `loss`: 0 for an answer that is not trained."""
    given = [more.pop(key) for key in ("weight", "loss") if key in more]
    if not given:
        return {}
    if given[-1] not in (0, 1):
        raise Problem(f"{where}has the weight {short(given[-1])}", "write 0 or 1", field)
    if role in ("assistant", "call"):
        return {"weight": int(given[-1])}
    if given[-1]:
        reason = f"{where}is from {role} and has weight 1, but only answers are trained"
        raise Problem(reason, "remove the weight; train_on_prompt trains prompts", field)
    return {}


def _thought_and_calls(value: Any, where: str, field: str) -> tuple[str, Any]:
    """A call as text, with thoughts before it or not: `<think>...</think>{"name": ...}`."""
    if not isinstance(value, str):
        return "", value
    before, end, calls = value.rpartition("</think>")
    return before + end, json_value(calls.strip(), field, where)


def _calls(value: Any, where: str, field: str) -> list[Message]:
    """Tool calls in OpenAI's form, their arguments an object (OpenAI writes its JSON text)."""
    calls = []
    for call in value if isinstance(value, list) and value else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            reason = f"{where}calls no tool by name: {short(call)}"
            raise Problem(reason, 'write {"name": ..., "arguments": {...}}', field)
        arguments = json_value(function.get("arguments") or {}, field, f"{where}arguments ")
        if not isinstance(arguments, dict):
            reason = f"{where}arguments of {function['name']!r} are {kind_of(arguments)}"
            raise Problem(reason, "write an object, or its JSON text", field)
        called = {"name": function["name"], "arguments": arguments}
        numbered = {"id": call["id"]} if call.get("id") is not None else {}
        calls.append({**numbered, "type": "function", "function": called})
    return calls


def _join(message: Message, call: Message, where: str, field: str) -> None:
    """Add the calls of a turn to the assistant's message before it."""
    content, calls = call.pop("content"), call.pop("tool_calls")
    if any(message.get(key, value) != value for key, value in call.items()):
        raise Problem(f"{where}and the turn before it have different weights", "give one", field)
    message |= call
    message["content"] += content
    message["tool_calls"] = [*message.get("tool_calls", ()), *calls]


def read_tools(value: Any, field: str) -> list[Any]:
    """The tools of a row, as they are given; a JSON text of them is parsed. Empty without any."""
    tools = json_value(value, field)
    tools = [tools] if isinstance(tools, dict) else tools
    if tools is None or tools == "":
        return []
    if not isinstance(tools, list):
        raise Problem(f"is {kind_of(tools)}, not a list of tools", "write a JSON list", field)
    for number, tool in enumerate(tools, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Problem(f"tool {number} has no name: {short(tool)}", 'add "name"', field)
    return tools


def check_text(value: Any, field: str, where: str = "", empty_ok: bool = False) -> str:
    """The text; raises Problem for another type, a NUL, or (unless `empty_ok`) nothing visible."""
    if not isinstance(value, str):
        fix = "write the text" if value is None else "write it as text, such as json.dumps(value)"
        raise Problem(f"{where}is {kind_of(value)}, not text", fix, field)
    if "\0" in value:
        raise Problem(f"{where}holds a NUL character", "remove it", field)
    if not empty_ok and (not value or not value[0].isalnum()) and is_invisible(value):
        reason = "holds only blanks or invisible characters" if value else "is empty"
        raise Problem(f"{where}{reason}", "write the text or remove the row", field)
    return value


def is_invisible(text: str) -> bool:
    """Whether nothing of the text shows: controls, zero-width characters and blanks only."""
    return all(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Zs") for c in text)


def kind_of(value: Any) -> str:
    """The type of a value in plain words, with the value shortened."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", bytes: "bytes"}
    names |= {int: "a number", float: "a number"}
    return f"{names.get(type(value), f'a {type(value).__name__}')} ({short(value)})"


def common_start(a: Sequence[Message], b: Sequence[Message]) -> int:
    """How many messages both conversations begin with."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
