"""`Data.save`: rows in any format that `read` knows, so that reading them gives the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.data.formats import find_format
from ftlab.data.read import Problem, Record, file_type
from ftlab.data.shapes import FORMATS, OPENAI, SHAREGPT, SWIFT, Format, Row
from ftlab.data.turns import Message
from ftlab.errors import DataError

if TYPE_CHECKING:
    from ftlab.data.rows import Data


_OPENAI = next(form for form in FORMATS if form.tags is OPENAI)


def save(data: Data, path: Path, formatting: str | None, overwrite: bool) -> Path:
    """Write the rows beside the file, then rename. See `Data.save`."""
    suffix, packed = file_type(path)
    name = formatting or ("text" if data.kind == "text" else "openai")
    form = next((f for f in FORMATS if f.name == name and f.kind == data.kind), None)
    if form is None:
        fits = ", ".join(dict.fromkeys(f.name for f in FORMATS if f.kind == data.kind))
        raise DataError(f"{path}: {name!r} cannot hold {data.kind} rows. Fix: one of {fits}.")
    if suffix not in _WRITERS:
        raise DataError(f"{path}: ftlab does not write {suffix}. Fix: {', '.join(_WRITERS)}.")
    if path.exists() and not overwrite:
        raise DataError(f"{path}: the file exists. Fix: another name, or overwrite=True.")
    rows = []
    for number, row in enumerate(data, 1):
        try:
            rows.append(_LAST_STEP.get(suffix, _as_is)(row_as(form, row), form))
        except Problem as problem:
            where = row.get("source", f"row {number}")
            raise DataError(f"{where}: {problem.args[0]}. Fix: {problem.args[1]}.") from None
    _check_detection(rows, form, path)
    try:
        content = _WRITERS[suffix](rows)
    except Exception as error:  # of json or Arrow, about a value of an extra field
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: its fields cannot be written as {suffix} ({reason}). Fix: write JSONL."
        ) from None
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    os.replace(beside, path)
    return path


def _check_detection(rows: list[Row], form: Format, path: Path) -> None:
    """An extra field may make a row look like another format: reading it would go wrong."""
    records = [Record(path, number, number, row) for number, row in enumerate(rows, 1)]
    found = find_format(records, FORMATS)
    if found is None or (found.kind, found.body) != (form.kind, form.body):
        reason = f"with its extra fields it would be read as {found.title if found else 'nothing'}"
        raise DataError(f"{path}: {reason}. Fix: choose another format, or empty row['extra'].")


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
    answers = {names["chosen" if rejected else "response"]: answer}
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


# Files ------------------------------------------------------------------------------------------


def _as_is(row: Row, form: Format) -> Row:
    return row


def _json_cells(row: Row, form: Format) -> Row:
    """Parquet gives all rows of a column one structure, which tools do not have: JSON text."""
    name = form.columns.get("tools")
    return row | ({name: _json(row[name])} if name in row else {})


def _text_cells(row: Row, form: Format) -> Row:
    """CSV holds texts: turns, history and tools as JSON, labels in words."""
    read_back = {form.columns.get(role) for role in ("messages", "history", "tools")}
    for name in {*form.columns.values()} - read_back:
        if isinstance(row.get(name), list | dict):
            fix = "save it as JSONL, or choose a format of texts"
            raise Problem(f"a cell of CSV cannot hold the turns of {name!r}", fix)
    return {
        name: v if isinstance(v, str) else "" if v is None else _json(v) for name, v in row.items()
    }


def _json(value: Any) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    )


def _one_line(row: Row, form: Format) -> Row:
    others = sorted(row.keys() - {"text"})
    if others or "\n" in row["text"] or "\r" in row["text"]:
        what = f"the field {others[0]!r}" if others else "line breaks"
        raise Problem(f"a text file holds one text a line, not {what}", "save it as JSONL")
    return row


def _table(rows: list[Row], mark: str = ",") -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, names, restval="", delimiter=mark)
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


def _parquet(rows: list[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet as parquet

    names = dict.fromkeys(name for row in rows for name in row)
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({n: [row.get(n) for row in rows] for n in names}), file)
    return file.getvalue()


def _lines(rows: list[Row]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]


_LAST_STEP: dict[str, Callable[[Row, Format], Row]] = {
    ".csv": _text_cells,
    ".tsv": _text_cells,
    ".parquet": _json_cells,
    ".txt": _one_line,
}
_WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    ".jsonl": lambda rows: "".join(f"{line}\n" for line in _lines(rows)).encode(),
    ".json": lambda rows: ("[\n" + ",\n".join(_lines(rows)) + "\n]\n").encode(),
    ".csv": _table,
    ".tsv": lambda rows: _table(rows, "\t"),
    ".txt": lambda rows: "".join(f"{row['text']}\n" for row in rows).encode(),
    ".parquet": _parquet,
}
