"""The data doctor: `diagnose` looks at every row and says what is wrong, where, and what to do.

The causes are in `ftlab.data.checks`, what it gives back in `ftlab.data.report`.
Taught in notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.data import checks
from ftlab.data.checks import Check, Exam, Hit
from ftlab.data.formats import Converted, Format, convert, explain
from ftlab.data.listing import Dataset, find
from ftlab.data.patterns import masked, script
from ftlab.data.read import BINARY_READERS, decode, file_type, read_bytes, read_records
from ftlab.data.records import BadRow, Problem, Record
from ftlab.data.registry import data_dir, files_of, formats_of, read
from ftlab.data.report import LEVELS, Finding, Report
from ftlab.errors import DataError

# What the reader's words say -> the cause that the report counts them under; the first one counts.
CAUSES = {
    "encoding": r"UTF-|byte \d+",
    "broken character": r"half a character|NUL",
    "doubled key": r"appears twice",
    "empty": r"is empty|empty list|is null",
    "invisible": r"invisible",
    "mixed formats": r"^the row is \w+.*, but ",
    "missing field": r"is missing|no known format|has no \"",
    "unknown role": r"unknown role",
    "chosen = rejected": r"answer are the same",
    "turn order": r"\bis from\b|last turn|begin with|end with|system prompt|different questions",
    "format": r"not an object$",
    "broken JSON": r"JSON|breaks off|comma|quotes|more text|inside a string|nested|digits|float",
    "image, video, audio": r"\bmedia\b|not text \(",
    "not text": r"not text$",
}


def diagnose(
    name_or_path: str | Path,
    *,
    tokenizer: Any = None,
    cutoff_len: int | None = None,
    against: str | Path | None = None,
    encoding: str | None = None,
    formatting: str | None = None,
    columns: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    dataset_dir: str | Path | None = None,
) -> Report:
    """Look at all rows of a file, a folder or a dataset name, and say what is wrong with which.

    tokenizer: count tokens instead of characters, and check that every answer is trained up to its
    end token; cutoff_len: which rows are longer; against: a test set, which should share no
    question with this one; the others as in `ftlab.read`. Bad rows and unreadable files become
    findings; DataError is raised for wrong arguments only.

    >>> diagnose("world_qa").clean
    True
    """
    if cutoff_len is not None and (type(cutoff_len) is not int or cutoff_len < 1):
        raise DataError(f"cutoff_len={cutoff_len!r}. Fix: write a whole number above 0.")
    dataset = find(str(name_or_path), Path(dataset_dir) if dataset_dir else data_dir())
    given = {"formatting": formatting, "columns": columns, "tags": tags}
    other = read(against, dataset_dir=dataset_dir, on_bad_row="skip") if against else ()
    asked = {checks.asked(row): row["source"] for row in other}
    doctor = Doctor(formats_of(dataset, given), tokenizer, cutoff_len, asked)
    with _no_garbage():
        return _report(str(name_or_path), dataset, doctor, encoding)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Rows are millions of objects that stay: looking for garbage there takes a fifth longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _report(name: str, dataset: Dataset, doctor: Doctor, encoding: str | None) -> Report:
    records: list[Record] = []
    findings: list[Finding] = []
    for path in files_of(dataset):
        try:
            records += dataset.renamed(read_records(path, encoding))
        except DataError as error:
            findings.append(_unreadable(path, error))
    exam, read_as, found = doctor.examine(records)
    places = Places(records, encoding)
    findings += [places.of_row(bad) for bad in read_as.rejected]
    findings += [places.of_hit(check, hit) for check, hit in found]
    shares = Counter(script(item.joined) for item in exam.items).most_common()
    return Report(
        name=name,
        doctor=doctor,
        records=records,
        places=places,
        rows_rejected=len(read_as.rejected),
        findings=sorted(findings, key=lambda one: (LEVELS.index(one.level), one.row or 0)),
        reason=explain(read_as, records) if records else "",
        lengths=exam.lengths,
        languages={name: count / len(exam.items) for name, count in shares},
    )


@dataclass
class Doctor:
    """What rows are held against: enough to examine a mended copy as its original was."""

    formats: Sequence[Format]
    tokenizer: Any
    cutoff_len: int | None
    against: dict[str, str]

    def examine(self, records: list[Record]) -> tuple[Exam, Converted, list[tuple[Check, Hit]]]:
        """The rows to look at, how they were read, and what was found in them."""
        read_as = convert(records, self.formats)
        out = {(bad.path, bad.row) for bad in read_as.rejected}
        kept = (record for record in records if (record.path, record.number) not in out)
        items = [checks.as_item(*pair) for pair in zip(kept, read_as.rows, strict=True)]
        columns = frozenset(read_as.form.columns.values() if read_as.form else ())
        exam = Exam(items, self.tokenizer, self.cutoff_len, self.against, columns)
        return exam, read_as, [(one, hit) for one in checks.CHECKS for hit in one.find(exam)]


def _unreadable(path: Path, error: DataError) -> Finding:
    """A file that cannot be read at all, or only up to some place."""
    words = str(error).removeprefix(str(path))
    at = re.match(r"(?::(\d+))?(?::(\d+))?: ", words)
    line, column = (int(n) if n else None for n in at.groups()) if at else (None, None)
    reason, _, fix = words[at.end() if at else 0 :].partition(". Fix: ")
    cause = _cause(reason)
    code = cause if cause in ("broken JSON", "broken character", "encoding") else "file"
    return Finding(code, "error", path, line, None, None, column, "", reason, fix.rstrip("."))


def _cause(reason: str) -> str:
    return next((code for code, words in CAUSES.items() if re.search(words, reason)), "format")


class Places:
    """Finds the field, the line and the column of a text in the file that it came from."""

    def __init__(self, records: Iterable[Record], encoding: str | None) -> None:
        self.encoding = encoding
        self.rows: dict[Path, list[Record]] = {}
        for record in records:
            self.rows.setdefault(record.path, []).append(record)
        self._texts: dict[Path, list[str]] = {}

    def of_row(self, bad: BadRow) -> Finding:
        """A row that the reader rejected."""
        line, column = bad.line, bad.column
        if column is None and bad.field:
            line, column = self._find(bad.path, bad.row, bad.line, _keys(bad.field))
        reason = bad.reason
        if self._is_private(self.rows[bad.path][bad.row - 1]):  # it may show a part of the text
            reason = re.sub(r"\(.*\)|(?<=ends )'.*'", "(private)", reason)
        return Finding(_cause(bad.reason), "error", bad.path, line, bad.row, bad.field, column,
                       "", reason, bad.fix)  # fmt: skip

    def of_hit(self, check: Check, hit: Hit) -> Finding:
        """A place that a check found."""
        level = hit.level or check.level
        if hit.item is None:
            path = next(iter(self.rows), Path())
            return Finding(check.code, level, path, None, None, None, None, hit.shown,
                           hit.reason, hit.fix)  # fmt: skip
        (path, line, row, value), name, column = hit.item.record, hit.field or None, None
        if hit.field:
            line, column = self._find(path, row, line, _keys(hit.field))
        elif hit.spot:
            inside = ((n, s) for n, s in strings(value) if hit.spot in s and s in hit.text)
            name, text = next(inside, (None, hit.text))
            line, column = self._find(path, row, line, _spellings(text, hit.spot))
        shown = hit.shown or masked(hit.spot)
        return Finding(check.code, level, path, line, row, name, column, shown, hit.reason,
                       hit.fix)  # fmt: skip

    def raw(self, record: Record) -> str:
        """The first line of a row, as the file has it."""
        lines = self._lines(record.path)
        return lines[record.line - 1].rstrip("\r") if record.line <= len(lines) else ""

    def _is_private(self, record: Record) -> bool:
        raw = [("", self.raw(record))] if isinstance(record.value, Problem) else []
        return any(masked(text) != text for _, text in [*raw, *strings(record.value)])

    def _find(
        self, path: Path, row: int, line: int, spellings: Iterable[tuple[str, int]]
    ) -> tuple[int, int | None]:
        """Line and column of the first spelling that the row has; its first line where none is."""
        lines, rows = self._lines(path), self.rows[path]
        end = rows[row].line - 1 if row < len(rows) else len(lines)
        if row > 1 and rows[row - 2].line == line:  # rows that share a line: whose text is it?
            return line, None
        for words, offset in spellings:
            for number in range(line, max(end, line) + 1):
                if number <= len(lines) and (at := lines[number - 1].find(words)) >= 0:
                    return number, at + offset + 1
        return line, None

    def _lines(self, path: Path) -> list[str]:
        if path not in self._texts:
            kind, packed = file_type(path)
            binary = kind in BINARY_READERS
            text = "" if binary else decode(read_bytes(path, packed), path, self.encoding)
            self._texts[path] = text.split("\n")
        return self._texts[path]


def strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(where, text) of all texts in a row, such as ("messages[1].content", "Hello")."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from strings(inner, f"{name}[{number}]")


def _spellings(text: str, spot: str) -> Iterator[tuple[str, int]]:
    """How a file may write a text (as JSON or as it is), and how far into it the spot begins."""
    before = text[: text.find(spot)] if spot in text else ""
    for ascii in (False, True):
        yield json.dumps(text, ensure_ascii=ascii), len(json.dumps(before, ensure_ascii=ascii)) - 1
    yield text, len(before)
    for ascii in (False, True):
        yield json.dumps(spot, ensure_ascii=ascii)[1:-1], 0
    yield spot, 0


def _keys(name: str) -> list[tuple[str, int]]:
    return [(json.dumps(name, ensure_ascii=ascii), 0) for ascii in (False, True)]
