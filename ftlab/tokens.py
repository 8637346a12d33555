"""The colored token view: each token with its id, who wrote it, and whether it is trained.

Taught in notebooks/04_loss_masking.ipynb.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from ftlab import svg

if TYPE_CHECKING:
    from pandas import DataFrame

IGNORED = -100  # the label that cross-entropy skips (torch.nn.functional.cross_entropy)

# reason -> background, what it means. Light tints of the Okabe-Ito palette: told apart by eyes that
# confuse red and green; trained tokens are underlined as well.
REASONS = {
    "trained": ("#bfe3f7", "the model learns to write this"),
    "user": ("#eeeeee", "a question: read, not learned"),
    "system": ("#ded7f2", "the system prompt: read, not learned"),
    "tools": ("#e9dcc9", "the tools on offer: read, not learned"),
    "tool result": ("#fff3a8", "what a tool answered: read, not learned"),
    "template": ("#ffffff", "written by the chat template, not by the model"),
    "earlier answer": ("#fbd9b5", "an answer, but only the last one is trained"),
    "weight 0": ("#f5c6da", "an answer whose weight in the data is 0"),
    "prompt": ("#eeeeee", "comes before the answer: read, not learned"),
}
_FOLD = 240  # tokens that show before the rest folds away

_TILE = (
    "display:inline-block;margin:2px 1px;padding:0 3px;border-radius:3px;line-height:1.25;"
    "text-align:center;color:#111;unicode-bidi:isolate;"
)
_UNDERLINE = "border-bottom:3px solid #0060a8;"
_ID = "display:block;font-size:9px;color:#555"


@dataclass(repr=False)
class Encoded:
    """One example as the model sees it; all lists have the same length.

    ``input_ids``: token ids. ``labels``: the id where the token is trained, -100 where not.
    ``role``: who wrote the token: system, tools, user, assistant, tool, template or text.
    ``mask_reason``: "trained", or why not (the keys of ``ftlab.tokens.REASONS``). ``tokens``: the
    readable pieces; ``control``: whether the token is a control token such as ``<|im_end|>``.
    ``notes``: what the reader should know, such as control text that was made harmless.
    """

    input_ids: list[int]
    labels: list[int]
    role: list[str]
    mask_reason: list[str]
    tokens: list[str] = field(default_factory=list)
    control: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Encoded({len(self)} tokens, {self.trained} trained)"

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """Number of tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)

    def window(self, start: int, stop: int) -> Encoded:
        """The tokens from ``start`` to before ``stop``."""
        part = slice(start, stop)
        return Encoded(
            self.input_ids[part],
            self.labels[part],
            self.role[part],
            self.mask_reason[part],
            self.tokens[part],
            self.control[part],
            self.notes,
        )

    def text_view(self) -> str:
        """The same picture in plain text: trained tokens in [brackets], the legend below."""
        parts = [
            f"[{visible(token)}]" if label != IGNORED else visible(token)
            for token, label in zip(self.tokens, self.labels, strict=True)
        ]
        text = re.sub(r"↵(\]?)", r"↵\1\n", "".join(parts))
        lines = [f"{n:6d} {reason}: {REASONS[reason][1]}" for reason, n in self._counts().items()]
        return "\n".join([text.rstrip("\n"), "", self._headline(), *lines, *self.notes])

    def picture(self) -> svg.Picture:
        """The same as a picture, for places that show no HTML styles, such as GitHub."""
        return tiles({"": self}, self._headline(), tuple(self._counts()))

    def table(self) -> DataFrame:
        """One line for each token: text, id, role, label, reason."""
        import pandas as pd

        columns = {
            "token": [visible(token) for token in self.tokens],
            "id": self.input_ids,
            "role": self.role,
            "label": self.labels,
            "reason": self.mask_reason,
        }
        return pd.DataFrame(columns)

    def _counts(self) -> Counter[str]:
        return Counter(
            {
                reason: self.mask_reason.count(reason)
                for reason in REASONS
                if reason in self.mask_reason
            }
        )

    def _headline(self) -> str:
        share = self.trained / max(len(self), 1)
        return f"{self.trained} of {len(self)} tokens are trained ({share:.0%})"

    def _tile(self, place: int) -> str:
        token, reason = self.tokens[place], self.mask_reason[place]
        style = f"background:{REASONS[reason][0]};"
        if self.labels[place] != IGNORED:
            style += _UNDERLINE
        if self.control[place]:
            style += "outline:1.5px dotted #555;font-weight:bold;"
        elif reason == "template":
            style += "outline:1px solid #ddd;"
        shown = escape(visible(token)) or "⋯"
        line_break = "<br>" if token.endswith("\n") else ""
        return (
            f'<span dir="auto" title="{escape(self._title(place))}" style="{_TILE}{style}">{shown}'
            f'<span style="{_ID}">{self.input_ids[place]}</span></span>{line_break}'
        )

    def _title(self, place: int) -> str:
        """All that is known of a token, in one line."""
        reason = self.mask_reason[place]
        why = "trained" if reason == "trained" else f"not trained: {reason}"
        kind = "control token" if self.control[place] else "token"
        whose = f"id {self.input_ids[place]} · role {self.role[place]}"
        return f"{kind} {place} · {whose} · {why} · {self.tokens[place]!r}"

    def _cells(self) -> list[tuple[str, str]]:
        """Each token's text and color."""
        colors = [REASONS[reason][0] for reason in self.mask_reason]
        return [(visible(t) or "⋯", c) for t, c in zip(self.tokens, colors, strict=True)]

    def _repr_html_(self) -> str:
        tiles = [self._tile(place) for place in range(len(self.tokens))]
        body = "".join(tiles[:_FOLD])
        if rest := tiles[_FOLD:]:
            body += f"<details><summary>{len(rest)} more tokens</summary>{''.join(rest)}</details>"
        legend = "".join(
            f'<div><span style="{_TILE}background:{REASONS[reason][0]};min-width:7.5em;'
            f'{_UNDERLINE if reason == "trained" else "outline:1px solid #ddd;"}">'
            f"{reason}</span> {count} · {REASONS[reason][1]}</div>"
            for reason, count in self._counts().items()
        )
        if any(self.control):
            legend += (
                f'<div><span style="{_TILE}outline:1.5px dotted #555;font-weight:bold;min-width:'
                '7.5em">dotted</span> a control token: one id of its own</div>'
            )
        notes = "".join(f"<div>Note: {escape(note)}</div>" for note in self.notes)
        return (
            f'<div style="font-family:ui-monospace,monospace;font-size:13px">{body}</div>'
            f'<div style="font-size:12px;margin-top:6px"><b>{self._headline()}</b>{legend}{notes}'
            "</div>"
        )


def tiles(
    rows: Mapping[str, Encoded | Sequence[tuple[str, str]]],
    alt: str,
    legend: Sequence[str] = (),
    width: int = 860,
) -> svg.Picture:
    """Rows of tokens below each other in aligned columns.

    ``rows``: name -> what ``encode`` gives, or (text, color or "none") for each token; all rows of
    the same length. ``legend``: keys of ``REASONS``. A new line begins with each message and at
    ``width`` pixels.
    """
    cells = [row._cells() if isinstance(row, Encoded) else row for row in rows.values()]
    left, before = max(map(_wide, rows)), ""
    x, y = float(width), -_ROW * len(cells) - 4
    out: list[str] = []
    for column in zip(*cells, strict=True):
        across, first = max(_wide(text) for text, _ in column), column[0][0]
        if x + across > width or (first.startswith("<|") and before.endswith("↵")):
            x, y = left, y + _ROW * len(cells) + 9
            out += [svg.text(0, y + _ROW * i + 13, n, svg.MUTED) for i, n in enumerate(rows)]
        out += [_box(x, y + _ROW * i, across, *cell) for i, cell in enumerate(column)]
        x, before = x + across + 3, first
    y += _ROW * len(cells) + 12
    out += [_box(112 * i, y, 108, key, REASONS[key][0]) for i, key in enumerate(legend)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 24}" '
    head += f'role="img" aria-label="{escape(alt)}" '
    head += 'font-family="ui-monospace,monospace" font-size="11">'
    return svg.Picture(head + "".join(out) + "</svg>", alt)


_ROW = 21  # pixels


def _wide(text: str) -> float:
    """About how many pixels the text takes; Chinese characters are wide."""
    return 8 + sum(11.2 if ord(letter) > 0x2E7F else 6.7 for letter in text) if text else 0


def _box(x: float, y: float, width: float, text: str, color: str) -> str:
    edges = {REASONS["trained"][0]: "#0060a8", REASONS["template"][0]: "#ddd"}
    edge = edges.get(color, color)
    ink = svg.MUTED if edge in ("#ddd", "none") else svg.INK
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="18" rx="3" fill="{color}" '
        f'stroke="{edge}"/>{svg.text(x + 4, y + 13, text, ink)}'
    )


@dataclass(repr=False)
class EncodedPair:
    """A preference row: the same prompt with the ``chosen`` and with the ``rejected`` answer."""

    chosen: Encoded
    rejected: Encoded

    def __repr__(self) -> str:
        return f"EncodedPair(chosen={self.chosen!r}, rejected={self.rejected!r})"

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))

    def text_view(self) -> str:
        """Both answers in plain text, one after the other."""
        return f"chosen:\n{self.chosen.text_view()}\n\nrejected:\n{self.rejected.text_view()}"

    def _repr_html_(self) -> str:
        sides = (("chosen", self.chosen), ("rejected", self.rejected))
        return "".join(f"<div><b>{name}</b></div>{side._repr_html_()}" for name, side in sides)


def visible(token: str) -> str:
    """The token with its white space and invisible characters made visible.

    >>> visible(" a\\n"), visible("\\u200b"), visible("\\u00e9")
    ('·a↵', '[U+200B]', 'é')
    """
    circle = "◌" if unicodedata.category(token[:1] or " ") in ("Mn", "Me") else ""
    return circle + "".join(_SHOWN.get(letter) or _shown(letter) for letter in token)


_SHOWN = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def _shown(letter: str) -> str:
    kind = unicodedata.category(letter)
    hidden = kind in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs")
    return f"[U+{ord(letter):04X}]" if letter == "\ufffd" or hidden else letter
