"""`Data.save`: rows in any format that `read` knows, so that reading them gives the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.data.formats import find_format
from ftlab.data.read import Problem, Record, file_type
from ftlab.data.row_as import row_as
from ftlab.data.shapes import FORMATS, Format, Row
from ftlab.errors import DataError

if TYPE_CHECKING:
    from ftlab.data.rows import Data


def save(data: Data, path: Path, formatting: str | None, overwrite: bool) -> Path:
    """Write the rows beside the file, then rename. See `Data.save`."""
    suffix, packed = file_type(path)
    name = formatting or ("text" if data.kind == "text" else "openai")
    form = next((f for f in FORMATS if f.name == name and f.kind == data.kind), None)
    if form is None:
        fits = ", ".join(dict.fromkeys(f.name for f in FORMATS if f.kind == data.kind))
        raise DataError(f"{path}: {name!r} cannot hold {data.kind} rows. Fix: one of {fits}.")
    if suffix not in WRITERS:
        raise DataError(f"{path}: ftlab does not write {suffix}. Fix: {', '.join(WRITERS)}.")
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
        content = WRITERS[suffix](rows)
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
WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    ".jsonl": lambda rows: "".join(f"{line}\n" for line in _lines(rows)).encode(),
    ".json": lambda rows: ("[\n" + ",\n".join(_lines(rows)) + "\n]\n").encode(),
    ".csv": _table,
    ".tsv": lambda rows: _table(rows, "\t"),
    ".txt": lambda rows: "".join(f"{row['text']}\n" for row in rows).encode(),
    ".parquet": _parquet,
}
