"""The calculator's panel without a browser: what a learner's hands do is setting values."""

from __future__ import annotations

from html import escape
from typing import Any

import ftlab
from ftlab.calculator import cards
from ftlab.calculator.budget import budget, tutorials_table
from ftlab.panels import estimate_panel
from tests.widgets import check_shared

RECIPE = ftlab.Recipe(
    model_name_or_path="Qwen3-0.6B", per_device_train_batch_size=1, cutoff_len=128
)


def make(**options: Any) -> Any:
    return estimate_panel(RECIPE, foreground=True, device="T4", **options).wait(120)


def test_the_panel_shows_what_estimate_says() -> None:
    panel = make()
    found = ftlab.estimate(RECIPE, device="T4")
    assert panel.estimate.parts == found.parts
    assert budget(found, width=620).svg in panel.still()._repr_html_()
    assert str(panel.advice.headline()) in panel._figures.value
    for card in cards.CARDS:
        assert card in panel._figures.value


def test_turning_a_knob_estimates_again() -> None:
    panel = make()
    before = panel.estimate.needed
    panel.set(quantization_bit="4 bits").wait(120)
    assert panel.estimate.needed < before and panel.estimate.recipe.quantization_bit == 4
    panel.set(model="Qwen2.5-0.5B", cutoff_len=256).wait(120)
    recipe = RECIPE.replace(quantization_bit=4, cutoff_len=256)
    again = ftlab.estimate(recipe, config="Qwen2.5-0.5B", device="T4")
    assert panel.estimate.parts == again.parts


def test_what_cannot_be_is_said_in_the_panel() -> None:
    panel = make().set(quantization_bit="4 bits", finetuning_type="full").wait(120)
    assert "ftlab-bad" in panel._status.value and "quantization_bit=4" in panel._status.value
    panel.set(finetuning_type="lora").wait(120)
    assert panel.estimate is not None and "ftlab-bad" not in panel._status.value


def test_the_tutorials_table_is_there_with_its_source() -> None:
    shown = make()._figures.value
    assert tutorials_table() in shown and escape(cards.TUTORIALS_SOURCE) in shown
    assert all(len(row) == len(cards.TUTORIALS_SIZES) for row in cards.TUTORIALS.values())
    assert cards.TUTORIALS["LoRA, GaLore, BAdam, 16 bits"][3] == 160


def test_bars_are_as_long_as_their_bytes() -> None:
    found = ftlab.estimate(RECIPE, device="T4")
    picture = budget([found, found.on("H200")])
    assert picture.svg.count("<rect") > 2 * len([n for n, size in found.parts.items() if size])
    assert "T4" in repr(picture) and "H200" in repr(picture)


def test_only_what_both_ipywidgets_share_is_used() -> None:
    seen = check_shared(make().widget)
    assert {"Dropdown", "SelectionSlider", "Checkbox", "HTML"} <= seen
