"""A cleaned copy of data that the doctor examined, and the list of every change.

A row keeps the shape that its file gave it. What can be mended is what a finding names; what stays
broken is left out with its reason, so rows read = rows written + rows left out.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.data.checks import CHECKS
from ftlab.data.formats import FORMATS
from ftlab.data.patterns import PATTERNS
from ftlab.data.read import file_type
from ftlab.data.records import Problem, Record
from ftlab.data.write import WRITERS
from ftlab.errors import DataError

if TYPE_CHECKING:
    from ftlab.data.report import Report

Change = dict[str, Any]
Mend = Callable[[str], str]
Key = tuple[Path, int | None]

PRIVATE = {pattern.code for pattern in PATTERNS if pattern.private}
# The fields of all formats and of their turns: what a key in another case or with blanks may mean.
FIELDS = frozenset(
    name for form in FORMATS for part in (form.columns, form.tags) for name in part.values()
)


def write_fixed(report: Report, out: Path) -> list[Change]:
    """Write the rows of a report, mended, and `out`.changes.jsonl beside them."""
    log = out.with_name(f"{out.name}.changes.jsonl")
    for path in (out, log):
        if path.exists():
            raise DataError(f"{path}: the file exists. Fix: choose another name.")
    for one in report.findings:
        if one.row is None and one.level == "error":
            raise DataError(f"{one} Only rows can be mended here.")
    changes: list[Change] = []
    mended, reasons = _mend_all(report, changes)
    kept = [one for one in mended if (one.path, one.number) not in reasons]
    if not kept:
        raise DataError(f"{report.name}: no row can be mended. Fix: correct them by hand.")
    changes += [
        {**_place(one), "removed": reasons[one.path, one.number], "before": _raw(report, one)}
        for one in mended
        if (one.path, one.number) in reasons
    ]
    changes.sort(key=lambda change: (change["path"], change["row"]))
    contents = {out: _content(out, [one.value for one in kept]), log: _content(log, changes)}
    for path, content in contents.items():
        _write(path, content)
    return changes


def _mend_all(report: Report, changes: list[Change]) -> tuple[list[Record], dict[Key, str]]:
    """All rows, mended, and why some of them have to be left out.

    A row that can be read again may show faults that nobody could see before: so it is examined
    again until nothing changes.
    """
    reasons: dict[Key, str] = {}
    mended, examined = report.records, False
    codes = _codes((one.path, one.row, one.code) for one in report.findings)
    for _ in range(5):
        before = len(changes)
        mended = [_mended(one, codes.get((one.path, one.number), set()), changes) for one in mended]
        if examined and len(changes) == before:
            break
        _, read_as, found = report.doctor.examine(mended)
        hits = [(check, hit, hit.item.record) for check, hit in found if hit.item]
        bad = [(one.path, one.row, "not text") for one in read_as.rejected]
        codes = _codes([*bad, *((at.path, at.number, check.code) for check, _, at in hits)])
        reasons = {(at.path, at.number): f"{check.code}: {hit.reason}"
                   for check, hit, at in hits if check.remove}  # fmt: skip
        reasons |= {(one.path, one.row): one.reason for one in read_as.rejected}
        examined = True
    return mended, reasons


def _codes(found: Iterable[tuple[Path, int | None, str]]) -> dict[Key, set[str]]:
    codes: dict[Key, set[str]] = defaultdict(set)
    for path, row, code in found:
        codes[path, row].add(code)
    return codes


def _place(record: Record) -> Change:
    return {"path": str(record.path), "line": record.line, "row": record.number}


def _raw(report: Report, record: Record) -> Any:
    """The row; where it is none, the line of the file."""
    return report.places.raw(record) if isinstance(record.value, Problem) else record.value


def _mended(record: Record, codes: set[str], changes: list[Change]) -> Record:
    """The row without the faults that can be mended; each change is added to the list."""
    value = record.value
    if not codes or not isinstance(value, dict):
        return record

    def log(field: str, before: Any, after: Any) -> Any:
        changes.append({**_place(record), "field": field, "before": before, "after": after})
        return after

    if {"misspelt field", "missing field", "not text"} & codes:
        value = _keys(value, log)
    if "not text" in codes:
        value = {key: _number(item, key, log) for key, item in value.items()}
    private = _mends(PRIVATE & codes)
    value = _texts(value, "", private, lambda field, _, after: log(field, "[private]", after))
    return record._replace(value=_texts(value, "", _mends(codes - PRIVATE), log))


def _mends(codes: set[str]) -> list[Mend]:
    return [check.mend for check in CHECKS if check.mend and check.code in codes]


def _keys(row: Change, log: Callable[..., Any], name: str = "") -> Change:
    """Keys in another case or with blanks around them, renamed where that makes them known."""
    new = {}
    for key, value in row.items():
        plain = str(key).strip().lower()
        if key not in FIELDS and plain in FIELDS and plain not in row and plain not in new:
            key = log(name + str(key), key, plain)
        if isinstance(value, list):
            value = [
                _keys(v, log, f"{name}{key}[{i}].") if isinstance(v, dict) else v
                for i, v in enumerate(value)
            ]
        new[key] = value
    return new


def _number(value: Any, key: str, log: Callable[..., Any]) -> Any:
    """A number where a text belongs, as the file spells it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return log(key, value, json.dumps(value)) if is_number and key in FIELDS else value


def _texts(value: Any, field: str, mends: Sequence[Mend], log: Callable[..., Any]) -> Any:
    """All texts inside a value, mended."""
    if isinstance(value, str):
        new = reduce(lambda text, mend: mend(text), mends, value)
        return value if new == value else log(field, value, new)
    if isinstance(value, dict):
        inner = ((key, f"{field}.{key}" if field else str(key)) for key in value)
        return {key: _texts(value[key], name, mends, log) for key, name in inner}
    if isinstance(value, list):
        return [_texts(one, f"{field}[{i}]", mends, log) for i, one in enumerate(value)]
    return value


def _content(path: Path, values: list[Change]) -> bytes:
    """Values as the file at this path holds them; DataError where it cannot."""
    suffix, packed = file_type(path)
    texts = all(isinstance(v, str) for value in values for v in value.values())
    lines = texts and all(v.keys() == {"text"} and "\n" not in v["text"] for v in values)
    fits = {".txt": lines, ".csv": texts, ".tsv": texts}.get(suffix, suffix in WRITERS)
    if not fits:
        raise DataError(f"{path}: a {suffix} file cannot hold these rows. Fix: name a .jsonl file.")
    content = WRITERS[suffix](values)
    return gzip.compress(content, mtime=0) if packed else content


def _write(path: Path, content: bytes) -> None:
    """The whole file or none."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"{path}: {error.strerror}. Fix: choose another place.") from error
