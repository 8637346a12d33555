"""The data doctor: what is wrong with a file, where, and what to do; `diagnose` and its `Report`.

The causes themselves are in `ftlab.data.checks`. Taught in notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ftlab import svg
from ftlab.data import checks
from ftlab.data.checks import Check, Exam, Hit, Item
from ftlab.data.formats import Converted, Format, convert, explain
from ftlab.data.listing import find
from ftlab.data.read import BINARY_READERS, _decode, _read_bytes, file_type, read_records
from ftlab.data.records import BadRow, Record
from ftlab.data.registry import _files as files_of
from ftlab.data.registry import _formats as formats_of
from ftlab.data.registry import data_dir, read
from ftlab.errors import DataError

LEVELS = ("error", "warning", "note")
WIDTH = 100  # of a line of the report
MOST_LINES = 40

# What the reader's words say -> the cause that the report counts them under; the first one counts.
CAUSES = {
    "broken character": r"half a character|NUL",
    "doubled key": r"appears twice",
    "empty": r"is empty|empty list|is null",
    "invisible": r"invisible",
    "mixed formats": r"^the row is \w+.*, but ",
    "missing field": r"is missing|no known format|has no \"",
    "unknown role": r"unknown role",
    "turn order": r"\bis from\b|last turn",
    "format": r"not an object$",
    "broken JSON": r"JSON|breaks off|comma|quotes|more text|inside a string|nested|digits|float",
    "encoding": r"UTF-|byte \d+",
    "image, video, audio": r"\b(?:images?|videos?|audios?|media)\b",
    "not text": r"not text$",
}


@dataclass(frozen=True)
class Finding:
    """One place: the cause, how grave it is, the offending text (masked if private), the cure."""

    code: str
    level: str  # error, warning, note
    path: Path
    line: int | None
    row: int | None
    field: str | None
    column: int | None
    text: str
    reason: str
    fix: str

    @property
    def place(self) -> str:
        """`my.jsonl:3:18 row 3 field "output"`"""
        spot = [str(n) for n in (self.line, self.column) if n]
        row = f" row {self.row}" if self.row else ""
        name = f' field "{_visible(self.field)}"' if self.field is not None else ""
        return ":".join([self.path.name, *spot]) + row + name

    def __str__(self) -> str:
        text = f" ({_visible(self.text)})" if self.text else ""
        return f"{self.place}: {self.reason}{text}. Fix: {self.fix}."


@dataclass(repr=False)
class Report:
    """What `diagnose` found. `counts`: places per cause; `clean`: no error and no warning."""

    name: str
    rows_read: int
    rows_rejected: int
    findings: list[Finding]
    reason: str = ""  # which format, and why
    lengths: list[int] = field(default_factory=list)  # of each kept row
    unit: str = "characters"
    cutoff_len: int | None = None
    languages: dict[str, float] = field(default_factory=dict)  # script -> share of the kept rows
    doctor: Any = None  # `Doctor`: what the rows were held against
    records: list[Record] = field(default_factory=list)  # the rows as the file has them
    places: Any = None  # `Places`: where in the file they are

    @property
    def rows_kept(self) -> int:
        return self.rows_read - self.rows_rejected

    @property
    def counts(self) -> dict[str, int]:
        """Places per cause: errors first, then warnings, then notes; the most frequent first."""
        grave: dict[str, int] = {}
        for one in self.findings:
            grave[one.code] = min(grave.get(one.code, 2), LEVELS.index(one.level))
        found = Counter(finding.code for finding in self.findings)
        return dict(sorted(found.items(), key=lambda pair: (grave[pair[0]], -pair[1], pair[0])))

    @property
    def clean(self) -> bool:
        return all(finding.level == "note" for finding in self.findings)

    def where(self, code: str) -> list[Finding]:
        """All places of one cause."""
        return [finding for finding in self.findings if finding.code == code]

    def level(self, code: str) -> str:
        """error, warning or note."""
        return min((one.level for one in self.where(code)), key=LEVELS.index)

    @property
    def too_long(self) -> int:
        """How many kept rows are longer than `cutoff_len` and would lose their end."""
        return sum(length > self.cutoff_len for length in self.lengths) if self.cutoff_len else 0

    def summary(self) -> list[str]:
        """The lines above the table of causes."""
        lines = [f"{self.name}: {self.rows_read:,} rows read, {self.rows_kept:,} kept, "
                 f"{self.rows_rejected:,} rejected"]  # fmt: skip
        lines += [self.reason] if self.reason else []
        if self.lengths:
            order = sorted(self.lengths)
            middle, high = (order[int(share * (len(order) - 1))] for share in (0.5, 0.95))
            lines.append(f"length in {self.unit}: middle {middle:,}, 95 % of rows up to {high:,}, "
                         f"longest {order[-1]:,}")  # fmt: skip
        if self.lengths and self.cutoff_len:
            share = 100 * self.too_long / len(self.lengths)
            lines.append(f"cutoff_len {self.cutoff_len:,} {self.unit}: {self.too_long:,} rows "
                         f"({share:.1f} %) would lose their end")  # fmt: skip
        if self.languages:
            shares = (f"{name} {100 * share:.0f} %" for name, share in self.languages.items())
            lines.append(f"scripts: {', '.join(shares)}")
        return lines

    def __str__(self) -> str:
        lines, counts = self.summary(), self.counts
        verdict = "nothing found" if not counts else "no errors, no warnings" if self.clean else ""
        lines += [verdict] if verdict else []
        room = MOST_LINES - len(lines) - len(counts)
        most = max(0, min(3, room // max(len(counts), 1)))
        for code, count in counts.items():
            places = self.where(code)
            lines.append(f"{count:7,} {places[0].level:7} {code}: {_cut(places[0].reason, 60)}")
            lines += [_cut(f"{'':16} {one}", 2 * WIDTH) for one in places[:most]]
        return "\n".join(lines)

    __repr__ = __str__

    def histogram(self) -> svg.Picture:
        """Rows by length, with `cutoff_len` as a line; empty without rows."""
        return _histogram(self.lengths, self.unit, self.cutoff_len)

    def _repr_html_(self) -> str:
        head = "".join(f"<div>{escape(line)}</div>" for line in self.summary())
        rows = []
        for code, count in self.counts.items():
            places = self.where(code)
            shown = "<br>".join(
                f"<code>{escape(one.place)}</code> {escape(_cut(_visible(one.text), 60))}"
                for one in places[:3]
            )
            words = f"{_cut(places[0].reason, 120)}. Fix: {_cut(places[0].fix, 120)}."
            cells = [f"{count:,}", places[0].level, f"<b>{escape(code)}</b>", escape(words), shown]
            rows.append("".join(f'<td style="text-align:left">{cell}</td>' for cell in cells))
        names = ("places", "level", "cause", "what to do", "first places")
        table = "".join(f'<th style="text-align:left">{name}</th>' for name in names)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        found = f"<table><tr>{table}</tr>{body}</table>" if rows else "<div>nothing found</div>"
        return f"{head}{self.histogram().svg}{found}"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        findings = [{**vars(one), "path": str(one.path)} for one in self.findings]
        names = ("name", "rows_read", "rows_kept", "rows_rejected", "reason", "clean", "counts",
                 "unit", "cutoff_len", "too_long", "languages")  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "findings": findings}

    def fixed(self, out: str | Path) -> list[dict[str, Any]]:
        """Write a cleaned copy to `out` and every change to `out`.changes.jsonl; return these.

        Mended are keys, numbers in place of text, outer blanks, control tokens, garbled or private
        text; left out, with the reason, are rows that stay broken or repeat another. Raises
        DataError where `out` or its list of changes exists, or nothing is left.
        """
        from ftlab.data.mend import write_fixed

        return write_fixed(self, Path(out))


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
    shares = Counter(checks.script(item.joined) for item in exam.items).most_common()
    return Report(
        name=str(name_or_path),
        rows_read=len(records),
        rows_rejected=len(read_as.rejected),
        findings=sorted(findings, key=lambda one: (LEVELS.index(one.level), one.row or 0)),
        reason=explain(read_as, records) if records else "",
        lengths=exam.lengths,
        unit="tokens" if tokenizer is not None else "characters",
        cutoff_len=cutoff_len,
        languages={name: count / len(exam.items) for name, count in shares},
        doctor=doctor,
        records=records,
        places=places,
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
        items = [
            Item(record, row, "\0".join(text for _, text in checks.texts(row)))
            for record, row in zip(kept, read_as.rows, strict=True)
        ]
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
        self.starts: dict[Path, list[int]] = {}  # file -> line of each of its rows
        for record in records:
            self.starts.setdefault(record.path, []).append(record.line)
        self._texts: dict[Path, list[str]] = {}

    def of_row(self, bad: BadRow) -> Finding:
        """A row that the reader rejected."""
        line, column = bad.line, bad.column
        if column is None and bad.field:
            line, column = self._find(bad.path, bad.row, bad.line, _keys(bad.field))
        return Finding(_cause(bad.reason), "error", bad.path, line, bad.row, bad.field, column,
                       "", bad.reason, bad.fix)  # fmt: skip

    def of_hit(self, check: Check, hit: Hit) -> Finding:
        """A place that a check found."""
        level = hit.level or check.level
        if hit.item is None:
            path = next(iter(self.starts), Path())
            return Finding(check.code, level, path, None, None, None, None, hit.shown,
                           hit.reason, hit.fix)  # fmt: skip
        (path, line, row, value), name, column = hit.item.record, hit.field or None, None
        if hit.field:
            line, column = self._find(path, row, line, _keys(hit.field))
        elif hit.spot:
            inside = ((n, s) for n, s in strings(value) if hit.spot in s and s in hit.text)
            name, text = next(inside, (None, hit.text))
            line, column = self._find(path, row, line, _spellings(text, hit.spot))
        shown = hit.shown or hit.spot
        return Finding(check.code, level, path, line, row, name, column, shown, hit.reason,
                       hit.fix)  # fmt: skip

    def raw(self, record: Record) -> str:
        """The first line of a row, as the file has it."""
        lines = self._lines(record.path)
        return lines[record.line - 1] if record.line <= len(lines) else ""

    def _find(
        self, path: Path, row: int, line: int, spellings: Iterable[tuple[str, int]]
    ) -> tuple[int, int | None]:
        """Line and column of the first spelling that the row has; its first line where none is."""
        lines, starts = self._lines(path), self.starts[path]
        end = starts[row] - 1 if row < len(starts) else len(lines)
        if row > 1 and starts[row - 2] == line:  # rows that share a line: whose text is it?
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
            text = "" if binary else _decode(_read_bytes(path, packed), path, self.encoding)
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


def _visible(text: str | None) -> str:
    """Text on one line, in which no character is obeyed by a terminal or left unseen."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text or "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _histogram(lengths: Sequence[int], unit: str, cutoff: int | None) -> svg.Picture:
    if not lengths:
        return svg.Picture("", "no rows")
    order = sorted(lengths)
    top = max(order[int(0.99 * (len(order) - 1))], cutoff or 0, 10)  # the last percent at the edge
    bins, x = [0] * 40, svg.Axis(0, top, 40, 470)
    for length in lengths:
        bins[min(int(40 * length / top), 39)] += 1
    y = svg.Axis(0, max(bins), 110, 14)
    step = (x.end - x.start) / 40
    parts = [
        f'<rect x="{x.start + i * step:.1f}" y="{y.at(count)}" width="{step - 1:.1f}" '
        f'height="{110 - y.at(count):.1f}" fill="{svg.PALETTE[0]}"/>'
        for i, count in enumerate(bins)
    ]
    for tick in svg.ticks(0, top, whole=True):
        parts.append(svg.text(x.at(tick), 126, svg.number(tick), svg.MUTED, "middle"))
    parts.append(svg.text(36, 22, svg.number(max(bins)), svg.MUTED, "end"))
    parts.append(svg.text(470, 142, f"{unit} in a row; the bar on the right holds all longer ones",
                          svg.MUTED, "end"))  # fmt: skip
    if cutoff:
        at = x.at(cutoff)
        parts.append(f'<path d="M{at} 10V110" stroke="{svg.PALETTE[1]}" stroke-width="2"/>')
        parts.append(svg.text(at - 4, 10, "cutoff_len", svg.PALETTE[1], "end"))
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="480" height="150" viewBox="0 0 480 150" '
        f'font-family="sans-serif" font-size="11.5" role="img"><title>rows by length</title>'
        f'<rect width="480" height="150" fill="{svg.PAPER}"/>{"".join(parts)}</svg>'
    )
    return svg.Picture(drawing, f"{len(lengths)} rows, {order[0]} to {order[-1]} {unit}")
