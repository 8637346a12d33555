"""Tool calls as text and back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

Call = dict[str, Any]  # {"name": str, "arguments": dict}

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)


def calls_text(tool_calls: Sequence[Call]) -> str:
    """A message's ``tool_calls`` as Qwen writes them: one JSON object in each tag pair.

    >>> calls_text([{"function": {"name": "add", "arguments": {"a": 1}}}])
    '<tool_call>\\n{"name": "add", "arguments": {"a": 1}}\\n</tool_call>'
    """
    functions = [call.get("function", call) for call in tool_calls]
    plain = [{"name": f["name"], "arguments": _arguments(f)} for f in functions]
    blocks = [json.dumps(call, ensure_ascii=False) for call in plain]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def parse_calls(text: str) -> list[Call] | None:
    """The calls in a text, [] where there are none, None where one is not valid.

    Reads <tool_call> blocks (Qwen, Hermes) and texts that are JSON with a ``name`` (Llama 3).

    >>> parse_calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    [{'name': 'add', 'arguments': {'a': 1}}]
    >>> parse_calls("No tool needed."), parse_calls("<tool_call>add(1)</tool_call>")
    ([], None)
    """
    text = text.rpartition("</think>")[2].strip()
    blocks = _BLOCK.findall(text)
    if not blocks and not text.startswith(("{", "[{")):
        return []
    found: list[Call] = []
    for block in blocks or [text]:
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            return None
        found += value if isinstance(value, list) else [value]
    calls = [_checked(call) for call in found]
    return None if None in calls else [call for call in calls if call]


def _checked(value: Any) -> Call | None:
    call = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = _arguments(call)
    good = isinstance(arguments, dict)
    return {"name": call["name"], "arguments": arguments} if good else None


def _arguments(call: Call) -> Any:
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI writes them as JSON in a string
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return arguments
