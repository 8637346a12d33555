"""Bytes -> rows, each with its file and line.

Files are parsed here, not by Arrow, whose type inference depends on the order of rows. Nothing is
lost in silence: a line that is not a row comes out as a `Problem` in its place.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ftlab.errors import DataError


class Problem(Exception):
    """Why one row cannot be used: reason, fix[, field[, column in the line, from 1]]."""


class Record(NamedTuple):
    """One row as the file has it; `value` is a Problem where it cannot be parsed."""

    path: Path
    line: int
    number: int
    value: Any


class BadRow(NamedTuple):
    """A rejected row: its place, the reason and the fix; `str()` gives the message."""

    path: Path
    line: int
    row: int
    reason: str
    fix: str
    field: str | None = None
    column: int | None = None

    def __str__(self) -> str:
        column = f":{self.column}" if self.column else ""
        # repr, because a field name may hold characters that a terminal obeys or cannot print
        field = f' field "{repr(self.field)[1:-1]}"' if self.field is not None else ""
        place = f"{self.path}:{self.line}{column} row {self.row}{field}"
        return f"{place}: {self.reason}. Fix: {self.fix}."


Lines = Iterator[tuple[int, Any]]  # (line on which the row starts, the row or a Problem)


def read_records(path: Path) -> list[Record]:
    """All rows of one file. Raises DataError where the file as a whole cannot be read."""
    if (kind := path.suffix.lower()) not in READERS:
        raise DataError(f"{path}: unknown file type. Fix: ftlab reads {', '.join(READERS)}.")
    text = _read_text(path)
    rows = enumerate(READERS[kind](text, path), 1)
    found = [Record(path, line, number, value) for number, (line, value) in rows]
    if not found:
        reason = "has no rows" if text.strip() else "has only blanks" if text else "is empty"
        raise DataError(f"{path}: the file {reason}. Fix: write at least one row.")
    return found


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Fix: check the path.") from error
    fix = "Fix: save it as UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise DataError(f"{path}: UTF-16 or binary, not UTF-8 text. {fix}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fix += '; if it is GBK: Path(new).write_text(Path(old).read_text("gb18030"), "utf-8")'
        raise DataError(f"{path}:{line}: byte {error.start} is not UTF-8. {fix}.") from None


class _StrictDecoder(json.JSONDecoder):
    """json's decoder, with a verdict on what it lets pass: doubled keys, NaN, half characters."""

    def __init__(self) -> None:
        self.problem: Problem | None = None
        super().__init__(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            doubled = next(key for key in keys if keys.count(key) > 1)
            self.problem = Problem("the key appears twice", "keep one of them", doubled)
        return value

    def _constant(self, word: str) -> None:
        self.problem = Problem(f"{word} is not a JSON number", "write a number or null")

    def _float(self, digits: str) -> float:
        if abs(value := float(digits)) == float("inf"):
            self.problem = Problem("a number is too large for a float", "write it as text")
        return value

    def judge(self, value: Any, text: str) -> Any:
        """The value decoded from `text`, or the Problem that was met on the way."""
        problem, self.problem = self.problem, None
        if "\\ud" in text or "\\uD" in text:
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = error.object[max(0, error.start - 20) : error.end]
                reason = f"half a character (a lone surrogate) ends {half!r}"
                problem = Problem(reason, "write the whole character")
        return problem or value


def _json_rows(text: str, path: Path) -> Lines:
    """Rows of a JSON array, of JSON lines, or of one object: told apart by content."""
    start = _skip_blanks(text, 0)
    if text.startswith("[", start):
        return _array_rows(text, start + 1, path)
    lines = text.split("\n")  # unlike splitlines(), not at a U+2028 inside a string
    try:
        json.loads(lines[text.count("\n", 0, start)])
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) > 0:  # an object over several lines
            return _array_rows(f"{text}]", start, path)
    except (ValueError, RecursionError):
        pass
    return _line_rows(lines)


def _line_rows(lines: list[str]) -> Lines:
    decoder = _StrictDecoder()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, decoder.judge(decoder.decode(line), line)
            except (ValueError, RecursionError) as error:
                yield number, Problem(*_explain(error), None, getattr(error, "colno", None))


def _array_rows(text: str, at: int, path: Path) -> Lines:
    """Values with commas between, up to `]`. A syntax error ends the reading of the file."""
    decoder, line, counted = _StrictDecoder(), 1, 0
    at = _skip_blanks(text, at)
    more = not text.startswith("]", at)
    try:
        while more:
            line, counted = line + text.count("\n", counted, at), at
            value, end = decoder.raw_decode(text, at)
            yield line, decoder.judge(value, text[at:end])
            at = _skip_blanks(text, end)
            if text[at : at + 1] not in ("]", ","):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            if more := text[at] == ",":
                at = _skip_blanks(text, at + 1)
        if (rest := _skip_blanks(text, at + 1)) < len(text):
            raise json.JSONDecodeError("Extra data", text, rest)
    except (ValueError, RecursionError) as error:
        place = f"{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else line
        reason, fix = _explain(error)
        raise DataError(f"{path}:{place}: {reason}. Fix: {fix}.") from None


def _skip_blanks(text: str, at: int) -> int:
    match = _INK.search(text, at)
    return match.start() if match else len(text)


_INK = re.compile(r"[^ \t\r\n]")


def _explain(error: Exception) -> tuple[str, str]:
    """What a parser's error means, and what to do."""
    if isinstance(error, RecursionError):
        return "nested too deeply", "flatten the row"
    if not isinstance(error, json.JSONDecodeError):
        return "a number has too many digits", "write it as text"
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].strip()
    if error.msg == "Extra data":
        return "more text after the end of the JSON value", "give every object its own line"
    if "control character" in error.msg:
        return "a tab or line break inside a string", "write \\t or \\n"
    cut = not rest or (rest == "]" and not before.endswith(","))
    if cut or "Unterminated string" in error.msg:
        return "the JSON breaks off", "complete it; is the file cut short?"
    if "trailing comma" in error.msg or (rest[:1] in ("]", "}") and before.endswith(",")):
        return "a comma after the last item", "remove it"
    if rest.startswith("'"):
        return "single quotes", "JSON needs double quotes: write rows with json.dumps"
    return f"not valid JSON: {error.msg}", "correct it; json.dumps writes valid JSON"


def _text_rows(text: str, path: Path) -> Lines:
    """Each line that is not blank is a row, as in LLaMA-Factory."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"text": line.rstrip("\r")}


def _csv_rows(text: str, path: Path) -> Lines:
    """Rows of a table with a header line; every value is text."""
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = table.fieldnames or []
        if len(set(names)) < len(names):
            raise csv.Error("a column name appears twice")
        for row in table:
            text = "".join(map(str, row.values()))  # the table knows the last line of a row
            uneven = None in row or None in row.values()
            problem = Problem("cells do not match the header", "quote cells that hold commas")
            yield table.line_num - text.count("\n"), problem if uneven else row
    except csv.Error as error:
        raise DataError(
            f"{path}:{table.reader.line_num}: {error}. Fix: correct it or use JSONL."
        ) from None


# Each takes the text of a file and its path (for errors about the file as a whole).
READERS: dict[str, Callable[[str, Path], Lines]] = {
    ".json": _json_rows,
    ".jsonl": _json_rows,
    ".txt": _text_rows,
    ".csv": _csv_rows,
}
