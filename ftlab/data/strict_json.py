"""JSON -> rows, more strictly than Python's json: no doubled keys, no NaN, no half characters."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftlab.data.records import Lines, Problem
from ftlab.errors import DataError


def parse_json(text: str) -> Any:
    """One JSON value inside a row, read as strictly as a file. Raises Problem."""
    decoder = _StrictDecoder()
    try:
        value = decoder.judge(decoder.decode(text), text)
    except (ValueError, RecursionError) as error:
        raise Problem(*_explain(error)) from None
    if isinstance(value, Problem):
        raise value
    return value


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


def json_rows(text: str, path: Path) -> Lines:
    """Rows of a JSON array, of JSON lines, or of one object: told apart by content."""
    start = _skip_blanks(text, 0)
    if text.startswith("[", start):
        return _array_rows(text, start + 1, path)
    try:
        json.loads(text[start : line_end(text, start)])
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) > 0:  # an object over several lines
            return _array_rows(f"{text}]", start, path)
    except (ValueError, RecursionError):
        pass
    return _line_rows(text)


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Unlike splitlines(), ends only at "\\n"."""
    start, number = 0, 1
    while start < len(text):
        end = line_end(text, start)
        if not (line := text[start:end]).isspace() and line:
            yield number, line.rstrip("\r")
        start, number = end + 1, number + 1


def line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _line_rows(text: str) -> Lines:
    decoder = _StrictDecoder()
    for number, line in lines(text):
        try:
            yield number, decoder.judge(decoder.decode(line), line)
        except (ValueError, RecursionError) as error:
            decoder.problem = None  # what was met before the error belongs to this row
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


TOO_DEEP = ("nested too deeply", "flatten the row")


def _explain(error: Exception) -> tuple[str, str]:
    """What a parser's error means, and what to do."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if not isinstance(error, json.JSONDecodeError):
        return "a number has too many digits", "write it as text"
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].strip()
    if error.msg == "Extra data":
        return "more text after the end of the JSON value", "give every object its own line"
    if "control character" in error.msg:
        return "a tab or line break inside a string", "write \\t or \\n"
    cut = not rest or (rest == "]" and not before.endswith(","))
    if cut or "Unterminated string" in error.msg:
        return "the JSON breaks off", "complete it (is the file cut short?)"
    if "trailing comma" in error.msg or (rest[:1] in ("]", "}") and before.endswith(",")):
        return "a comma after the last item", "remove it"
    if rest.startswith("'"):
        return "single quotes", "JSON needs double quotes: write rows with json.dumps"
    return f"not valid JSON: {error.msg}", "correct it; json.dumps writes valid JSON"
