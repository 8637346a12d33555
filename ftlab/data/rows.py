"""`Data`: rows in TRL's conversational format, and the account of how they were read."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ftlab.data import mix
from ftlab.data.records import BadRow
from ftlab.data.shapes import Row
from ftlab.errors import DataError

_KINDS = {
    "messages": "a conversation",
    "preference": "a preference pair",
    "kto": "a labelled answer",
    "text": "plain text",
}


def kind_of_row(row: Row) -> str:
    """ "messages", "preference", "kto" or "text"."""
    if "text" in row:
        return "text"
    return "preference" if "chosen" in row else "kto" if "completion" in row else "messages"


class Data(list[Row]):
    """Rows in TRL's conversational format, and the account of how they were read.

    All rows are of one `kind`: `{"messages": [{"role", "content"}, ...]}`, `{"prompt", "chosen",
    "rejected"}`, `{"prompt", "completion", "label"}` or `{"text"}`, with `tools` where they have
    any, the `source` (file and line) and the `extra` fields of the file.
    `rows_read == len(data) + len(rejected)`; `reason` says which format was found, and why.
    """

    def __init__(self, rows: Iterable[Row], name: str = "data", paths: Iterable[Path] = ()) -> None:
        super().__init__(rows)
        self.name, self.paths = name, list(paths)
        self.rejected: list[BadRow] = []
        self.removed: list[tuple[str, str]] = []  # by `deduplicated`: source, source of its twin
        self.rows_read = len(self)
        self.reason = ""
        self.origin: str | None = None  # what `read` was given; None for a part of it

    @property
    def kind(self) -> str:
        """What the rows are: "messages", "preference", "kto" or "text" ("messages" if empty)."""
        return kind_of_row(self[0]) if self else "messages"

    def check_one_kind(self) -> None:
        """Raise DataError where rows of different kinds are mixed."""
        first: dict[str, str] = {}
        for row in self:
            first.setdefault(kind_of_row(row), row.get("source", self.name))
        if len(first) > 1:
            parts = [f"{source} is {_KINDS[kind]}" for kind, source in sorted(first.items())[::-1]]
            raise DataError(f"{' and '.join(parts)}. Fix: read them one at a time.")

    def split(
        self,
        share_or_count: float,
        seed: int = 42,
        group: str | Callable[[Row], Any] | None = None,
    ) -> tuple[Data, Data]:
        """(train, held out): a share below 1 or a count of rows, drawn by the seed, in file order.

        group: an extra field, or a function of a row; rows of one group stay on one side.

        >>> train, held_out = Data([{"text": "a"}, {"text": "b"}, {"text": "c"}]).split(1)
        >>> len(train), len(held_out)
        (2, 1)
        """
        count = int(round(len(self) * share_or_count) if share_or_count < 1 else share_or_count)
        held_out = mix.draw(self, count, seed, group) if 0 < count < len(self) else set()
        if not held_out:
            reason = f"split({share_or_count}) of {len(self)} rows leaves one side empty"
            raise DataError(f"{self.name}: {reason}. Fix: choose a share or count between.")
        sides: tuple[list[Row], list[Row]] = ([], [])
        for index, row in enumerate(self):
            sides[index in held_out].append(row)
        return self._part(sides[0], "split"), self._part(sides[1], "split")

    def take(self, n: int) -> Data:
        """The first n rows, or all where there are fewer."""
        return self._part(self[: max(n, 0)], f"take({n})")

    def where(self, predicate: Callable[[Row], Any]) -> Data:
        """The rows for which the predicate holds."""
        return self._part(filter(predicate, self), "where(...)")

    def deduplicated(self, near: float | None = None) -> Data:
        """Without rows that say the same as an earlier one; `removed` lists them with their twins.

        near: also rows whose text shares at least this part of its five-letter pieces (Jaccard
        similarity, 0.8 is usual); without it texts must agree except for blanks.
        """
        twins = dict(mix.twins(self, near))
        part = self._part((r for i, r in enumerate(self) if i not in twins), "deduplicated")
        source = [row.get("source", f"row {number}") for number, row in enumerate(self, 1)]
        part.removed = [(source[index], source[twin]) for index, twin in twins.items()]
        return part

    def fill(self, **values: str) -> Data:
        """With `{{name}}` replaced by the value of `name` in every text, and so on.

        Raises DataError for a name that occurs nowhere, and for a placeholder that stays open.

        >>> Data([{"text": "I am {{name}}."}]).fill(name="Pilot")[0]["text"]
        'I am Pilot.'
        """
        return self._part(mix.fill(self, values), "fill")

    def save(
        self, path: str | Path, formatting: str | None = None, *, overwrite: bool = False
    ) -> Path:
        """Write the rows as JSON, JSONL, CSV, TSV, Parquet or text (.gz too), by the file's suffix.

        formatting: any name that `read` knows, such as "alpaca", "sharegpt", "openai", "swift";
        without it "openai", or "text" for plain text. Reading the file gives the same rows.
        Raises DataError naming the row and what the format cannot hold, or for an existing file.
        """
        from ftlab.data.write import save

        return save(self, Path(path), formatting, overwrite)

    def _part(self, rows: Iterable[Row], call: str) -> Data:
        part = Data(rows, self.name, self.paths)
        part.reason = self.reason
        if not part:
            raise DataError(f"{self.name}: {call} leaves no row of {len(self)}. Fix: ask for more.")
        return part

    def __repr__(self) -> str:
        return f"Data({self.name!r}: {len(self)} rows, {len(self.rejected)} rejected)"

    def _repr_html_(self) -> str:
        cells = []
        for row in self[:5]:
            text = "<br>".join(html.escape(line[:200]) for line in _spoken(row))
            source = html.escape(row.get("source", ""))
            cells.append(f'<tr><td>{source}</td><td dir="auto" align="left">{text}</td></tr>')
        why = f"<br>{html.escape(self.reason)}" if self.reason else ""
        return f"<p>{html.escape(repr(self))}{why}</p><table>{''.join(cells)}</table>"


def _spoken(row: Row) -> list[str]:
    """The lines of a row as a reader wants them: who says what."""
    if "text" in row:
        return [f"text: {row['text']}"]
    lines = []
    for part in ("messages", "prompt", "chosen", "rejected", "completion"):
        name = f"{part} " if part in ("chosen", "rejected") else ""
        for turn in row.get(part, ()):
            calls = [json.dumps(call["function"]) for call in turn.get("tool_calls", ())]
            said = " ".join(filter(None, [turn["content"], *calls]))
            lines.append(f"{name}{turn['role']}: {said}")
    return [*lines, f"label: {row['label']}"] if "label" in row else lines
