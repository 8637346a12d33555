"""One row of a known format -> messages, a preference pair, a labelled answer, or text."""

import difflib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from reprlib import repr as short
from typing import Any

from ftlab.data.records import Problem
from ftlab.data.shapes import FORMATS, Format, Row, truth
from ftlab.data.turns import (
    Message,
    check_text,
    common_start,
    json_value,
    kind_of,
    read_tools,
    read_turns,
)


def convert_row(row: Row, form: Format) -> Row:
    """The row as messages, as a preference pair, as a labelled answer, or as text."""
    _refuse_media(row, form)
    if form.kind == "text":
        return {"text": check_text(_required(row, form, "prompt"), form.body)}
    names = form.columns
    tools = read_tools(row.get(names["tools"]), names["tools"]) if "tools" in names else []
    more = {"tools": tools} if tools else {}
    before = _before(row, form)
    if "response" in names:
        answer = _answer(row, form, "response", before)
    elif "chosen" in names:
        answer = _answer(row, form, "chosen", before)
    elif form.kind == "messages":
        return {"messages": _answered(before, form.body), **more}
    else:
        answer = _answered(before, form.body)[-1:]
        before = before[:-1]
    if form.kind == "preference":
        return {**_pair(before, answer, _answer(row, form, "rejected", before)), **more}
    if form.kind == "kto":
        return {"prompt": before, "completion": answer, "label": _label(row, form), **more}
    return {"messages": before + answer, **more}


def _before(row: Row, form: Format) -> list[Message]:
    """System, history and prompt; or the turns of the row, which may hold its answer too."""
    if form.body == form.columns.get("chosen"):
        return []  # the prompt is what both answers begin with
    system = _optional(row, form, "system")
    if "messages" in form.columns:
        said = read_turns(_required(row, form, "messages"), form.dialect, form.body)
    else:
        said = _prompt(row, form)
    if said[0]["role"] == "system" and system not in ("", said[0]["content"]):
        reason = "is another system prompt than that of the turns"
        raise Problem(reason, "keep one of them", form.columns["system"])
    if system and said[0]["role"] != "system":
        said = [{"role": "system", "content": system}, *said]
    apart = "prompt" in form.columns or "chosen" in form.columns  # the answer is another field
    if apart and said[-1]["role"] not in ("user", "tool"):
        raise Problem("does not end with a question", "let a user turn be the last", form.body)
    return said


def _prompt(row: Row, form: Format) -> list[Message]:
    """Alpaca's history, then instruction and input on two lines; or (TRL) a list of messages."""
    prompt = _required(row, form, "prompt")
    if isinstance(prompt, list) and prompt and _is_turn(prompt[0], form):
        for name in (form.columns.get("history", ""), form.columns.get("query", "")):
            if row.get(name):
                raise Problem("stands beside a prompt of turns", "write it as turns too", name)
        return read_turns(prompt, form.dialect, form.body)
    check_text(prompt, form.body, empty_ok=True)
    asked = "\n".join(filter(None, [prompt, _optional(row, form, "query")]))
    return [*_history(row, form), {"role": "user", "content": check_text(asked, form.body)}]


def _history(row: Row, form: Format) -> Iterator[Message]:
    field = form.columns.get("history", "")
    pairs = json_value(row.get(field), field) or []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs], 1):
        if not isinstance(pair, list) or len(pair) != 2:
            reason = f"pair {number} is {kind_of(pair)}, not [question, answer]"
            raise Problem(reason, "write a list of pairs of texts", field)
        for role, text in zip(("user", "assistant"), pair, strict=True):
            yield {"role": role, "content": check_text(text, field, f"pair {number} ")}


def _answer(row: Row, form: Format, role: str, before: list[Message]) -> list[Message]:
    """A text, a turn, or turns; where they repeat what was said before, without it."""
    field, value = form.columns[role], _required(row, form, role)
    turns = value if isinstance(value, list) else [value]
    if not turns or not _is_turn(turns[0], form):
        return [{"role": "assistant", "content": check_text(value, field)}]
    said = read_turns(turns, form.dialect, field, last="answer")
    if before and said[0]["role"] != "assistant":
        known = [m for m in before if m["role"] != "system" or said[0]["role"] == "system"]
        if said[: len(known)] != known:
            raise Problem("does not begin with the prompt of the row", "repeat it", field)
        said = said[len(known) :]
    return _answered(said, field)


def _is_turn(value: Any, form: Format) -> bool:
    return isinstance(value, dict) and form.dialect.role in value


def _answered(said: list[Message], field: str) -> list[Message]:
    if not said or said[-1]["role"] != "assistant":
        raise Problem("the last turn is not an answer", "end with the assistant", field)
    return said


def _pair(before: list[Message], chosen: list[Message], rejected: list[Message]) -> Row:
    """A preference pair; without a prompt, it is what both answers begin with (as in TRL)."""
    if not before:
        shared = common_start(chosen, rejected)
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not chosen or not rejected:
            raise Problem("the preferred and the rejected answer are the same", "remove the row")
        if not before or before[-1]["role"] not in ("user", "tool"):
            reason = "the preferred and the rejected conversation ask different questions"
            raise Problem(reason, "let them differ in the answer only")
    return {"prompt": before, "chosen": chosen, "rejected": rejected}


def _label(row: Row, form: Format) -> bool:
    value = _required(row, form, "kto_tag")
    label = truth(value)
    if label is None:
        raise Problem(f"is {kind_of(value)}", "write true or false", form.columns["kto_tag"])
    return label


def _refuse_media(row: Row, form: Format) -> None:
    for name in form.media:
        if row.get(name):
            reason = f"names media ({short(row[name])}), which ftlab never opens: it trains on text"
            raise Problem(reason, "remove the field, or the rows that need it", name)


def _optional(row: Row, form: Format, role: str) -> str:
    """The text of an optional field; missing and null count as empty."""
    field = form.columns.get(role, "")
    value = row.get(field)
    return "" if value is None else check_text(value, field, empty_ok=True)


def _required(row: Row, form: Format, role: str) -> Any:
    field = form.columns[role]
    if field in row:
        return row[field]
    synonyms = {other.columns[role] for other in FORMATS if role in other.columns}
    found = nearest(field, row) or next((name for name in row if name in synonyms), None)
    fix = "add the field"
    if found:
        columns = {r: name for r, name in form.columns.items() if name in row} | {role: found}
        fix = f"rename {found!r} to {field!r} or pass columns={columns}"
    raise Problem(f"is missing; found {short(list(row))}", fix, field)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the word, in any case and with any blanks around it."""
    return _nearest(word, tuple(known))


@lru_cache(maxsize=1024)  # a file may lack the same field in each of its rows
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    folded = {name.strip().lower(): name for name in known}
    match = difflib.get_close_matches(word.strip().lower(), folded, n=1)
    return folded[match[0]] if match else None
