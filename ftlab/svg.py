"""A few SVG primitives: a picture with words, axes with round ticks, lines that survive any number.

Hand-built text, because a frame has to cost a fraction of a millisecond. Used by `ftlab.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

# Dark enough to be read as text on white (contrast >= 4.5), far enough apart for color-blind eyes.
PALETTE = ("#1668ac", "#bf4b00", "#00795a", "#9c3f78", "#806000", "#56616c")
INK, MUTED, GRID, PAPER = "#24303c", "#5b6773", "#e4e8ec", "#ffffff"
MOST_POINTS = 300  # a line has no more; the eye sees no difference, the browser does
LETTER = 7.3  # mean width of a bold letter at 11.5 px, in a wide font


class Picture:
    """An SVG drawing with its text alternative; notebooks show the drawing, terminals the text."""

    def __init__(self, svg: str, text: str) -> None:
        self.svg, self.text = svg, text

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return self.text


class Box(NamedTuple):
    """A rectangle in pixels: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float


class Axis(NamedTuple):
    """Maps values low..high to pixels start..end; values outside stay at the edge."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def number(value: float) -> str:
    """A number in at most about six characters: 60, 1,200, 0.125, 2e-4, nan."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    text = f"{value:.3g}"
    if "e" not in text and abs(value) >= 0.001:
        return text
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round numbers inside low..high, a multiple of 1, 2 or 5 apart."""
    rough = (high - low) / max(count, 1)
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    finer, step = 0.5 * power, power
    for m in (2, 5, 10):
        if step < rough * 0.999:
            finer, step = step, m * power
    if math.floor(high / step) <= math.ceil(low / step):  # a lone tick says nothing
        step = finer
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def path(
    points: Sequence[tuple[float, float]],
    x: Axis,
    y: Axis,
    color: str,
    width: float,
    opacity: float,
    dashed: bool = False,
) -> str:
    """A line that is interrupted where a value is not finite; a lone point becomes a dot."""
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    chosen = [*points[:-1:stride], *points[-1:]]
    across, up = (x.end - x.start) / (x.high - x.low), (y.end - y.start) / (y.high - y.low)
    steps, pen = [], "M"
    for step, value in chosen:
        if math.isfinite(value):
            left = x.start + across * (step - x.low)
            down = y.start + up * (min(max(value, y.low), y.high) - y.low)
            steps.append(f"{pen}{left:.1f} {down:.1f}")
            pen = "L"
        else:
            pen = "M"
    if len(steps) == 1:
        steps, width = [*steps, "h.1"], 3 * width
    dashes = 'stroke-dasharray="4 3" ' if dashed else ""
    return (
        f'<path d="{"".join(steps)}" fill="none" stroke="{color}" stroke-width="{width}" {dashes}'
        f'stroke-opacity="{opacity}" stroke-linejoin="round" stroke-linecap="round"/>'
    )


def text(
    x: float, y: float, words: str, color: str, anchor: str = "start", weight: int = 400
) -> str:
    """Words at a point, escaped."""
    extra = "" if anchor == "start" else f' text-anchor="{anchor}"'
    extra += "" if weight == 400 else f' font-weight="{weight}"'
    return f'<text x="{x:g}" y="{y:g}" fill="{color}"{extra}>{escape(words)}</text>'
