"""The curves: what is drawn, that no number breaks them, and that no text becomes markup."""

from __future__ import annotations

import io
import math
import re
import time
import xml.etree.ElementTree as ET
from base64 import b64decode
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from ftlab import Recipe, plots, svg


def run(losses: list[float], total: int = 0, **changes: Any) -> Any:
    """As much of a Run as a picture needs."""
    history = [
        {"step": i, "loss": loss, "learning_rate": 1e-3 / i, "grad_norm": loss / 2}
        for i, loss in enumerate(losses, start=1)
    ]
    return SimpleNamespace(
        recipe=Recipe(**changes), history=history, total_steps=total, status="finished"
    )


FALLING = [3 * 0.9**i for i in range(60)]


@pytest.mark.parametrize(
    "losses",
    [[], [2.0], [1.0, 1.0, 1.0], [0.0, 0.0], [-2.0, 3.0], [math.nan] * 3, [1.0, math.inf, 2.0],
     [1e300, 1e-300], [5.0] * 30 + [1e9], list(range(5000))],
)  # fmt: skip
def test_every_history_gives_a_well_formed_picture(losses: list[float]) -> None:
    picture = plots.curves([run(losses)])
    root = ET.fromstring(picture.svg)
    assert root.get("role") == "img" and root.get("aria-label") == picture.text
    drawn = re.sub(r'aria-label="[^"]*"|<text.*?</text>', "", picture.svg)
    assert "nan" not in drawn and "inf" not in drawn
    assert len(picture.svg) < 40_000


def test_no_run_gives_an_empty_picture_with_words() -> None:
    assert "no run yet" in repr(plots.curves([]))
    assert "no steps yet" in plots.curves([]).svg


def test_earlier_runs_are_labeled_by_what_changed() -> None:
    runs = [
        run(FALLING, lora_rank=8),
        run(FALLING, lora_rank=32),
        run(FALLING, lora_rank=32, learning_rate=2e-4),
    ]
    assert plots.labels(runs) == ["first run", "lora_rank 8 → 32", "learning_rate 5e-5 → 2e-4"]
    drawn = plots.curves(runs).svg
    for label in plots.labels(runs):
        assert label in drawn


def test_several_changes_are_counted_and_none_is_said() -> None:
    runs = [
        run(FALLING),
        run(FALLING, lora_rank=4, seed=1, max_steps=5),
        run(FALLING, lora_rank=4, seed=1, max_steps=5),
    ]
    assert plots.labels(runs)[1].endswith(", +2")
    assert plots.labels(runs)[2] == "same again"


def test_text_from_a_recipe_is_escaped() -> None:
    runs = [run(FALLING), run(FALLING, dataset="<script>alert('x')</script>")]
    picture = plots.curves(runs)
    assert "<script>" not in picture.svg
    ET.fromstring(picture.svg)


def test_evaluations_are_dots_and_companions_appear_only_with_values() -> None:
    made = run(FALLING)
    made.history[29]["eval_loss"] = 0.5
    root = ET.fromstring(plots.curves([made]).svg)
    assert len(root.findall(".//{*}circle")) == 1
    words = [text.text for text in root.iter() if text.tag.endswith("text")]
    assert {"loss", "learning rate", "gradient norm", "step"} <= set(words)
    for record in made.history:
        del record["grad_norm"]
    assert "gradient norm" not in plots.curves([made]).svg


def test_a_run_that_is_not_finite_says_so_in_the_picture() -> None:
    made = run(FALLING[:12])
    made.status = "not finite"
    assert "not finite after step 12" in plots.curves([made]).svg
    assert "not finite from step 2" in plots.curves([run([1.0, math.nan])]).svg


def test_the_axis_shows_the_planned_steps_while_a_run_grows() -> None:
    drawn = plots.curves([run(FALLING[:3], total=200)], what=("loss",)).svg
    assert ">200<" in drawn


def test_labels_at_line_ends_do_not_overlap() -> None:
    runs = [run(FALLING, lora_rank=2**i) for i in range(6)]
    root = ET.fromstring(plots.curves(runs, what=("loss",)).svg)
    heights = sorted(
        float(t.get("y", 0))
        for t in root.iter()
        if t.tag.endswith("text") and "rank" in str(t.text)
    )
    assert len(heights) == 5
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 13


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 60, [0, 20, 40, 60]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_steps_have_whole_ticks() -> None:
    assert svg.ticks(0, 2, 5, whole=True) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(60, "60"), (1200, "1,200"), (0.125, "0.125"), (2e-4, "2e-4"), (1.5e-5, "1.5e-5"),
     (math.nan, "nan"), (3.14159, "3.14"), (1.25e9, "1.25e9"), (0.0, "0")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert svg.number(value) == text


def test_smoothing_starts_at_the_first_value_and_ignores_gaps() -> None:
    assert plots.smoothed([2.0, 2.0, 2.0], 0.8) == pytest.approx([2.0, 2.0, 2.0])
    smooth = plots.smoothed([1.0, math.nan, 3.0], 0.5)
    assert smooth[0] == 1.0 and math.isnan(smooth[1]) and 1.0 < smooth[2] < 3.0


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", [*svg.PALETTE, svg.MUTED, svg.INK])
def test_every_color_is_readable_as_text_on_white(color: str) -> None:
    assert 1.05 / (_luminance(color) + 0.05) >= 4.5  # WCAG 2.1, level AA


def test_a_frame_is_cheap() -> None:
    runs = [run(FALLING, lora_rank=2**i) for i in range(4)]
    times = []
    for _ in range(20):
        started = time.perf_counter()
        plots.curves(runs)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.01


def test_a_figure_shows_a_png_with_its_text_alternative() -> None:
    figure = plots.figure(320, 200, columns=2, alt="two empty axes")
    assert len(figure.axes) == 2
    data, metadata = figure._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR") and data["text/plain"] == "two empty axes"
    assert metadata["image/png"]["width"] == 320


def test_a_figure_keeps_its_colors_in_few_bytes() -> None:
    figure = plots.figure(400, 200)
    for height, color in enumerate(svg.PALETTE):
        figure.axes[0].plot([0, 9], [height, height + 1], lw=4, color=color)
        figure.axes[0].fill_between([0, 9], [height, height], alpha=0.2, color=color)
    png = b64decode(figure._repr_mimebundle_()[0]["image/png"])
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "P" and picture.size == (600, 300) and len(png) < 15_000
    colors: Any = [color for _, color in picture.convert("RGB").getcolors() or []]
    for name in svg.PALETTE:
        wanted = [int(name[i : i + 2], 16) for i in (1, 3, 5)]
        nearest = min(max(abs(a - b) for a, b in zip(c, wanted, strict=True)) for c in colors)
        assert nearest <= 8, name
