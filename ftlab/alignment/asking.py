"""How a judge that is a chat model is asked, and how its reply is read.

Taught in notebooks/16_evaluation.ipynb.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from ftlab.errors import EnvironmentProblem

Row = dict[str, Any]
Ask = Callable[[Sequence[list[Row]]], list[str]]  # conversations -> replies

TEMPLATE = """Question: {question}

Answer A: {a}

Answer B: {b}

Which answer is {criterion}? Reply with one word: A, B or tie."""

# The whole reply, its last line, or what stands after "verdict:" or in [[brackets]].
_VERDICT = re.compile(
    r"(?:^|verdict(?: is)?:?\s*|\[\[)(?:the )?(?:answer\s*)?:?\s*[*\"'(]*(A|B|tie)"
    r"[*\"').]*(?:\]\])?(?: is \w+(?: \w+)?)?\.?$",
    re.IGNORECASE,
)
SECONDS = 120


def prompt(template: str, question: str, a: str, b: str, criterion: str) -> list[Row]:
    """The conversation that asks for a verdict; braces in the answers stay what they are."""
    values = {"question": question, "a": a, "b": b, "criterion": criterion}
    text = re.sub(r"\{(question|a|b|criterion)\}", lambda found: values[found[1]], template)
    return [{"role": "user", "content": text}]


def verdict(reply: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie, None where the reply says none of them clearly.

    >>> verdict("B"), verdict("Both are fine.\\nVerdict: [[A]]"), verdict("A good question!")
    (0.0, 1.0, None)
    """
    lines = [line.strip() for line in reply.rpartition("</think>")[2].splitlines() if line.strip()]
    found = _VERDICT.search(lines[-1]) if lines else None
    return {"A": 1.0, "B": 0.0, "TIE": 0.5}[found[1].upper()] if found else None


def said(messages: Sequence[Row]) -> str:
    """The question as text: the last turn, or with several the whole conversation."""
    turns = [m for m in messages if m["role"] != "system"]
    if len(turns) == 1:
        return str(turns[0].get("content") or "")
    return "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in turns)


def last(turns: Sequence[Row]) -> str:
    """The text of the last turn."""
    return str(turns[-1].get("content") or "") if turns else ""


def server(url: str, model: str, api_key: str | None = None) -> Ask:
    """Ask ``model`` on an OpenAI-compatible server at ``url``, such as http://127.0.0.1:8000/v1.

    Raises EnvironmentProblem where it cannot be reached or refuses.
    """
    address = f"{url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"

    def one(messages: list[Row]) -> str:
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 512}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                choice = json.loads(response.read())["choices"][0]
                return str(choice["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            detail = error.read()[:200].decode(errors="replace")
            raise EnvironmentProblem(f"{address}: says {error.code} ({detail}).") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentProblem(
                f"{address}: no answer that can be read ({error}). Is the server running, and is "
                "this its OpenAI-compatible address?"
            ) from error

    return lambda prompts: [one(messages) for messages in prompts]
