"""The calculator's picture: bytes by component as bars, and the cards they have to fit on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ftlab.calculator.cards import CARDS, TUTORIALS, TUTORIALS_SIZES, TUTORIALS_SOURCE
from ftlab.memory import human
from ftlab.svg import GRID, INK, MUTED, PALETTE, PAPER, Picture, text

if TYPE_CHECKING:
    from ftlab.calculator.prediction import Estimate

COLORS = {
    "weights": PALETTE[0], "constants": "#7aa9d4", "adapters": PALETTE[3],
    "optimizer": PALETTE[4], "gradients": PALETTE[1], "activations": PALETTE[2],
    "logits": "#6fb29b", "CUDA context": PALETTE[5],
}  # fmt: skip
ROW, LEFT, BAR = 26, 164, 14


def budget(estimates: Estimate | Sequence[Estimate], *, width: int = 640) -> Picture:
    """Each estimate as a bar of its components, in GB, with a line for each card's memory.

    The scale ends at the longest bar or at the smallest card that holds it. Text: the captions.
    """
    runs = list(estimates) if isinstance(estimates, Sequence) else [estimates]
    longest = max(run.needed for run in runs) / 1e9
    sizes = sorted({card.gigabytes for card in CARDS.values()})
    top = next((size for size in sizes if size >= longest), longest) * 1.06
    scale = (width - LEFT - 60) / top
    bottom = 14 + ROW * len(runs)
    parts = [_bar(run, 14 + ROW * i, scale) for i, run in enumerate(runs)]
    cards = [size for size in sizes if size <= top]
    lines = "".join(_card(size, cards, bottom, scale) for size in cards)
    names = list(dict.fromkeys(n for run in runs for n, size in run.parts.items() if size))
    height = bottom + 34 + 18 * -(-len(names) // 4)
    words = "; ".join(f"{run.caption()}: {human(run.needed)}" for run in runs)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(words)}" fill="{INK}" '
        f'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="11.5">'
        f'<rect width="{width}" height="{height}" rx="4" fill="{PAPER}"/>'
    )
    return Picture(head + lines + "".join(parts) + _legend(names, bottom + 44) + "</svg>", words)


def _bar(run: Estimate, top: float, scale: float) -> str:
    """One run: its name, its components one after the other, and their sum."""
    out, left = [text(LEFT - 6, top + 11, _label(run), INK, "end")], float(LEFT)
    for name, size in run.parts.items():
        wide = size / 1e9 * scale
        title = f"<title>{escape(name)}: {human(size)}</title>"
        out.append(
            f'<rect x="{left:.1f}" y="{top:g}" width="{wide:.1f}" height="{BAR}" '
            f'fill="{COLORS[name]}">{title}</rect>'
        )
        left += wide
    return "".join([*out, text(left + 5, top + 11, human(run.needed), INK, weight=600)])


def _label(run: Estimate) -> str:
    bits = f" {run.recipe.quantization_bit} bits" if run.recipe.quantization_bit else ""
    label = f"{run.model} {run.recipe.finetuning_type}{bits}"
    return label if len(label) < 26 else label[:24] + "…"


def _card(size: int, shown: Sequence[int], bottom: float, scale: float) -> str:
    """A card's memory as an upright line, named where the one before leaves room."""
    at = LEFT + size * scale
    before = [LEFT + other * scale for other in shown if other < size]
    line = f'<path d="M{at:.1f} 6V{bottom + 2:g}" stroke="{GRID}" stroke-width="1.5"/>'
    if before and at - before[-1] < 36:
        return line
    return line + text(at, bottom + 14, f"{size} GB", MUTED, "middle")


def _legend(names: Sequence[str], top: float) -> str:
    out = []
    for i, name in enumerate(names):
        left, down = 14 + 150 * (i % 4), top + 18 * (i // 4)
        out.append(
            f'<rect x="{left}" y="{down - 9:g}" width="10" height="10" fill="{COLORS[name]}"/>'
        )
        out.append(text(left + 15, down, name, INK))
    return "".join(out)


def tutorials_table() -> str:
    """The hardware table of many tutorials as HTML, with where it comes from."""
    head = "".join(f"<th>{size}</th>" for size in TUTORIALS_SIZES)
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td>"
        + "".join(f"<td>{gigabytes}</td>" for gigabytes in row)
        + "</tr>"
        for name, row in TUTORIALS.items()
    )
    return (
        f"<table class='ftlab-answers'><tr><th>tutorials say, GB</th>{head}</tr>{rows}</table>"
        f"<div class='ftlab-help'>{escape(TUTORIALS_SOURCE)}; it names no batch and no length."
        "</div>"
    )


def fits_table(estimate: Estimate) -> str:
    """The run on each card as HTML: what it has, what is needed, whether that fits, seconds."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(fit.card)}</td><td>{fit.gigabytes:.0f}</td>"
        f"<td>{fit.needed:.1f}</td><td>{fit.verdict}</td><td>{fit.seconds:.3g}</td></tr>"
        for fit in estimate.fits
    )
    head = "<tr><th>card</th><th>GB</th><th>needed</th><th></th><th>s a step, at best</th></tr>"
    return f"<table class='ftlab-answers'>{head}{rows}</table>"
