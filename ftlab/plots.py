"""Figures: training curves, the same picture live and still, and the house style for matplotlib.

Curves are SVG text built by hand: a frame costs a millisecond, so a panel can redraw while a model
trains on the same two cores. Every other figure is matplotlib's (object API, no pyplot state).
Taught in notebooks/07_sft.ipynb and notebooks/11_hyperparameter_lab.ipynb.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from ftlab.svg import (
    GRID,
    INK,
    LETTER,
    MUTED,
    PAPER,
    Axis,
    Box,
    Picture,
    number,
    path,
    text,
    ticks,
)
from ftlab.svg import PALETTE as PALETTE

NAMES = {
    "learning_rate": "learning rate", "grad_norm": "gradient norm",
    "rewards": "rewards (rejected dashed)", "rewards/margins": "reward margin",
    "rewards/accuracies": "pairs ranked right", "kl": "KL to reference", "length": "answer length",
    "logps/chosen": "log p of chosen", "logps/rejected": "log p of rejected",
}  # fmt: skip
# Quantities of one chart; every other quantity has a chart of its own.
TOGETHER = {"rewards": ("rewards/chosen", "rewards/rejected")}
WATCHED = (
    "loss", "rewards", "rewards/margins", "rewards/accuracies", "reward", "kl", "entropy",
    "length", "grad_norm", "learning_rate",
)  # fmt: skip
ROW, MOST = 3, 6  # small charts in a row, and in all
ROW_HEIGHT = 112


class Line(NamedTuple):
    """One run's values of one quantity as (step, value) pairs, and how to draw them."""

    points: list[tuple[float, float]]
    evaluations: list[tuple[float, float]]
    color: str
    label: str
    current: bool
    dashed: bool = False


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the pull to zero at the start; non-finite values pass."""
    result, mean, seen = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            seen = weight * seen + (1 - weight)
            value = mean / seen
        result.append(value)
    return result


def _limits(values: Iterable[float], first: float) -> tuple[float, float]:
    """The range to show: from zero where that costs little, without a few far outliers."""
    known = sorted(min(max(v, -1e30), 1e30) for v in values if math.isfinite(v))
    if not known:
        return 0.0, 1.0
    low, high = known[0], known[-1]
    usual = max(known[int(0.95 * (len(known) - 1))], first if math.isfinite(first) else 0.0)
    if len(known) >= 10 and usual > 0 and high > 5 * usual:
        high = 1.5 * usual
    if 0 <= low < 0.6 * high:
        low = 0.0
    if high - low <= 1e-12 * max(abs(high), abs(low)):
        return (0.0, 2 * high) if high > 0 else (low - 1, high + 1)
    pad = 0.05 * (high - low)
    return (low - pad if low != 0 else 0.0), high + pad


def labels(runs: Sequence[Any]) -> list[str]:
    """One label per run: what changed since the run before it, such as "lora_rank 8 → 32"."""
    result = []
    for i, run in enumerate(runs):
        if i == 0:
            result.append("first run" if len(runs) > 1 else "")
            continue
        changes = run.recipe.changes_from(runs[i - 1].recipe)
        words = [f"{key} {_short(old)} → {_short(new)}" for key, (old, new) in changes.items()]
        more = f", +{len(words) - 1}" if len(words) > 1 else ""
        result.append(words[0] + more if words else "same again")
    return result


def _short(value: object) -> str:
    plain = isinstance(value, bool) or not isinstance(value, int | float)
    return str(value) if plain else number(value)  # type: ignore[arg-type]


def _values(run: Any, key: str) -> list[tuple[float, float]]:
    return [
        (float(record["step"]), float(record[key]))
        for record in list(run.history)  # a copy: the training thread appends while we draw
        if isinstance(record.get(key), (int, float)) and "step" in record
    ]


def _lines(runs: Sequence[Any], names: Sequence[str], key: str) -> list[Line]:
    """Earlier runs first, so that the current one is drawn on top."""
    lines = []
    for i, (run, label) in enumerate(zip(runs, names, strict=True)):
        current = i == len(runs) - 1
        color = PALETTE[0] if current else PALETTE[1 + i % (len(PALETTE) - 1)]
        for part, one in enumerate(TOGETHER.get(key, (key,))):
            values = _values(run, one), _values(run, f"eval_{one}")
            lines.append(Line(*values, color, label, current, dashed=part > 0))
    return lines


def curves(
    runs: Iterable[Any],
    *,
    what: Sequence[str] = WATCHED,
    smooth: float = 0.8,
    width: int = 640,
    height: int = 360,
) -> Picture:
    """The training curves of one or more runs; the last run is the current one.

    The first quantity of `what` (a key of the run's history) is the large chart: raw values pale,
    smoothed values strong, evaluations as dots; the others are small charts below it, left out
    where no run has them; "rewards" are those of chosen and of rejected answers in one chart.
    Earlier runs are thin lines labeled by what changed. `width` and `height` are pixels of the
    picture with one row of small charts; a second row makes it higher.
    """
    runs = list(runs)
    known = {key for run in runs for record in list(run.history) for key in record}
    small = [key for key in what[1:] if known & set(TOGETHER.get(key, (key,)))][:MOST]
    split = round(height * 0.68) if small else height
    rows = [small[i : i + ROW] for i in range(0, len(small), ROW)]
    last, height = height, height + ROW_HEIGHT * max(0, len(rows) - 1)
    names = labels(runs)
    parts = [_chart(runs, names, what[0], Box(0, 0, width, split), smooth)]
    for row, keys in enumerate(rows):
        edge, top = width / len(keys), split + row * ROW_HEIGHT
        for i, key in enumerate(keys):
            box = Box(i * edge, top, (i + 1) * edge, last + row * ROW_HEIGHT)
            parts.append(_chart(runs, names, key, box))
    words = summary(runs, what[0])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(words)}" fill="{INK}" '
        f'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="11.5">'
        f'<rect width="{width}" height="{height}" rx="4" fill="{PAPER}"/>'
    )
    return Picture(head + "".join(parts) + "</svg>", words)


def summary(runs: Sequence[Any], key: str = "loss") -> str:
    """The curves in words, one line per run."""
    lines = []
    for label, run in zip(labels(runs), runs, strict=True):
        points, evaluations = _values(run, key), _values(run, f"eval_{key}")
        name, words = NAMES.get(key, key), [label] if label else []
        if not points:
            words.append(f"no {name} yet")
        else:
            step, first, last = points[-1][0], points[0][1], points[-1][1]
            words.append(f"step {number(step)}, {name} {number(first)} → {number(last)}")
        if evaluations:
            words.append(f"eval {name} {number(evaluations[-1][1])}")
        lines.append(", ".join(words))
    return "Training curves: " + ("; ".join(lines) if lines else "no run yet")


def _chart(
    runs: Sequence[Any], names: Sequence[str], key: str, box: Box, smooth: float | None = None
) -> str:
    """One chart; without `smooth` a small one: raw lines, no labels."""
    small, title = smooth is None, NAMES.get(key, key)
    lines = _lines(runs, names, key)
    tags = [] if small else [_tag(line, title, len(runs) > 1) for line in lines if line.points]
    longest = max([len(tag) for tag in tags], default=0) * LETTER + 14
    room = min(longest, 0.42 * (box.right - box.left))
    plot = Box(box.left + 46, box.top + 26, box.right - room, box.bottom - 32)
    x, y = _axes(runs, lines, plot)
    ends, drawn = [], [line for line in lines if line.points]
    out = [_frame(x, y, plot, title, small, empty=not drawn)]
    if not drawn:
        middle = (plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2
        return "".join([*out, text(*middle, "no steps yet", MUTED, "middle")])
    for line in drawn:
        points, (width, opacity) = line.points, (2, 1) if line.current else (1.2, 0.75)
        if smooth is not None:
            if line.current:
                out.append(path(points, x, y, line.color, 1, 0.35))
            # A short run is smoothed less: the average would lag behind a loss that falls fast.
            points = _smooth_line(line, smooth * x.high / (x.high + 30))
        out.append(path(points, x, y, line.color, width, opacity, line.dashed))
        out.append("" if small else _dots(line, x, y))
        ends.append(next((y.at(v) for _, v in reversed(points) if math.isfinite(v)), plot.top + 20))
    if not small:
        out += _tags(drawn, tags, _spread(ends, plot), plot.right + 7, box.right)
        out.append(_warning(runs[-1], lines[-1].points, x, plot))
    return "".join(out)


def _warning(run: Any, points: Sequence[tuple[float, float]], x: Axis, plot: Box) -> str:
    """A sentence in the chart where the current run stopped being finite."""
    bad = [step for step, value in points if not math.isfinite(value)]
    if not bad and not (points and run.status == "not finite"):
        return ""
    step, words = (bad[0], "from") if bad else (points[-1][0], "after")
    left, note = min(x.at(step) + 6, plot.right - 150), f"not finite {words} step {number(step)}"
    return text(left, plot.top + 20, note, PALETTE[1], weight=600)


def _smooth_line(line: Line, weight: float) -> list[tuple[float, float]]:
    steps, values = [s for s, _ in line.points], [v for _, v in line.points]
    return list(zip(steps, smoothed(values, weight), strict=True))


def _tags(
    lines: Sequence[Line], tags: Sequence[str], heights: Sequence[float], left: float, right: float
) -> list[str]:
    """The words at the line ends, cut where there is no room."""
    out, most = [], int((right - left) / LETTER)
    for line, tag, at in zip(lines, tags, heights, strict=True):
        tag = tag if len(tag) <= most else tag[: most - 1] + "…"
        out.append(text(left, at + 4, tag, line.color, weight=600 if line.current else 400))
    return out


def _tag(line: Line, title: str, several: bool) -> str:
    """The words at a line's end: what changed, or the value where there is one run."""
    return line.label if several else f"{title} {number(line.points[-1][1])}"


def _axes(runs: Sequence[Any], lines: Sequence[Line], plot: Box) -> tuple[Axis, Axis]:
    points = [point for line in lines for point in (*line.points, *line.evaluations)]
    planned = max([int(run.total_steps) for run in runs[-1:]], default=0)
    last = max([step for step, _ in points] + [planned, 2])
    first = next((line.points[0][1] for line in reversed(lines) if line.points), math.nan)
    low, high = _limits((value for _, value in points), first)
    return Axis(0.0, float(last), plot.left, plot.right), Axis(low, high, plot.bottom, plot.top)


def _frame(x: Axis, y: Axis, plot: Box, name: str, small: bool, empty: bool) -> str:
    out = [text(plot.left - 38, plot.top - 10, name, INK, weight=600)]
    for value in [] if empty else ticks(y.low, y.high, 2 if small else 5):
        at = y.at(value)
        out.append(f'<path d="M{plot.left} {at}H{plot.right}" stroke="{GRID}"/>')
        out.append(text(plot.left - 6, at + 4, number(value), MUTED, "end"))
    steps = ticks(x.low, x.high, max(2, int((plot.right - plot.left) / 70)), whole=True)
    for value in [] if empty else steps:
        out.append(text(x.at(value), plot.bottom + 15, number(value), MUTED, "middle"))
    out.append(f'<path d="M{plot.left} {plot.bottom}H{plot.right}" stroke="{MUTED}"/>')
    out.append(text((plot.left + plot.right) / 2, plot.bottom + 28, "step", MUTED, "middle"))
    return "".join(out)


def _dots(line: Line, x: Axis, y: Axis) -> str:
    size = 4 if line.current else 2.5
    style = f'fill="{PAPER}" stroke="{line.color}" stroke-width="{1.8 if line.current else 1.2}"'
    return "".join(
        f'<circle cx="{x.at(step):g}" cy="{y.at(value):g}" r="{size}" {style}/>'
        for step, value in line.evaluations
        if math.isfinite(value)
    )


def _spread(ends: Sequence[float], plot: Box, gap: float = 14) -> list[float]:
    """Label heights near the line ends, at least `gap` apart."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    placed, floor = dict.fromkeys(order, 0.0), -math.inf
    for i in order:
        floor = placed[i] = max(ends[i], floor + gap)
    ceiling = max(plot.bottom, plot.top + gap * (len(ends) - 1))
    for i in reversed(order):
        ceiling = placed[i] = min(placed[i], ceiling)
        ceiling -= gap
    return [placed[i] for i in range(len(ends))]


# matplotlib, for every other figure
STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "semibold",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": GRID,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def figure(
    width: int = 640, height: int = 320, *, rows: int = 1, columns: int = 1, alt: str = ""
) -> Any:
    """A matplotlib figure in the house style; draw on `fig.axes`, end the cell with `fig`.

    `width` and `height` are pixels; `alt` says what the picture shows, for those who do not see it.

    >>> fig = figure(alt="loss falls from 3 to 1")
    >>> line = fig.axes[0].plot([0, 1], [3, 1])
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    class HouseFigure(Figure):
        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
            full, small = io.BytesIO(), io.BytesIO()
            self.savefig(full, format="png", dpi=150)
            # 256 colors are plenty for a chart, and a fourth of the bytes in a notebook.
            picture = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            picture.save(small, "png", optimize=True)
            shown = {"image/png": b64encode(small.getvalue()).decode(), "text/plain": repr(self)}
            return shown, {"image/png": {"width": width, "height": height, "alt": alt}}

        def __repr__(self) -> str:
            return alt or f"<figure {width} x {height}>"

    with rc_context(STYLE):
        result = HouseFigure(figsize=(width / 100, height / 100), dpi=100)
        FigureCanvasAgg(result)
        result.subplots(rows, columns)
    return result
