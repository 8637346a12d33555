"""What the data doctor found: `Finding`s, and the `Report` that shows, counts and mends them.

Taught in notebooks/03_data_formats.ipynb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab import svg
from ftlab.data.records import Record

if TYPE_CHECKING:
    from ftlab.data.doctor import Doctor, Places

LEVELS = ("error", "warning", "note")
MOST_LINES = 40


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

    @property
    def account(self) -> str:
        """The place, what is wrong there, and the text it is about."""
        text = f" ({_visible(self.text)})" if self.text else ""
        return f"{self.place}: {self.reason}{text}"

    def __str__(self) -> str:
        return f"{self.account}. Fix: {self.fix}."


@dataclass(repr=False)
class Report:
    """What `diagnose` found. `counts`: places per cause; `clean`: no error and no warning."""

    name: str
    doctor: Doctor  # what the rows were held against
    records: list[Record]  # the rows as the files have them
    places: Places  # where in the files they are
    rows_rejected: int
    findings: list[Finding]
    reason: str  # which format, and why
    lengths: list[int]  # of each kept row
    languages: dict[str, float]  # script -> share of the kept rows

    @property
    def rows_read(self) -> int:
        return len(self.records)

    @property
    def cutoff_len(self) -> int | None:
        return self.doctor.cutoff_len

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "characters" if self.doctor.tokenizer is None else "tokens"

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
            fate = "would lose their end" if self.unit == "tokens" else "are longer"
            lines.append(f"cutoff_len {self.cutoff_len:,} {self.unit}: {self.too_long:,} rows "
                         f"({share:.1f} %) {fate}")  # fmt: skip
            if self.unit != "tokens":
                lines.append("to count tokens, name a tokenizer (--model)")
        if self.languages:
            shares = (f"{name} {100 * share:.0f} %" for name, share in self.languages.items())
            lines.append(f"scripts: {', '.join(shares)}")
        return lines

    def __str__(self) -> str:
        lines, counts = self.summary(), self.counts
        verdict = "nothing found" if not counts else "no errors, no warnings" if self.clean else ""
        lines += [verdict] if verdict else []
        shown = self._shown(MOST_LINES - len(lines) - len(counts))
        for code, count in counts.items():
            places = self.where(code)
            words = f". Fix: {places[0].fix}." if shown[code] else f": {places[0].account}"
            lines.append(_cut(f"{count:7,} {self.level(code):8}{code}{words}", 120))
            lines += [_cut(f"{'':16}{one.account}", 120) for one in places[: shown[code]]]
        return "\n".join(lines)

    def _shown(self, room: int) -> Counter[str]:
        """How many places of each cause there is room for: one of each, then a second, a third."""
        shown: Counter[str] = Counter()
        for number in (1, 2, 3):
            for code, count in self.counts.items():
                if count >= number and shown.total() < room:
                    shown[code] += 1
        return shown

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
        text; left out, with the reason, are rows that stay broken or repeat another. The copy keeps
        the rows' own format, as UTF-8 without a byte order mark; its suffix says JSONL, JSON, CSV
        and so on. Raises DataError where `out` or its list of changes exists, or nothing is left.
        """
        from ftlab.data.mend import write_fixed

        return write_fixed(self, Path(out))


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
