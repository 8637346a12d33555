"""What passes between the readers: a row with its place, or why it cannot be used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


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
