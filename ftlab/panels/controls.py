"""The panel's controls, made from the recipe's own description of its parameters.

Only widgets and traits that ipywidgets 7.7.1 (Google Colab) and 8.1 (JupyterLab) share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import Any

import ipywidgets as w

from ftlab.errors import RecipeError
from ftlab.recipe import KNOBS, Knob, Recipe
from ftlab.recipe.rules import PROMPTS
from ftlab.svg import number

GROUPS = {"learning": "Learning", "lora": "LoRA", "oft": "OFT", "virtual": "Learned prompt",
          "bottleneck": "Bottleneck", "freeze": "Freeze", "quantization": "Quantization",
          "optimizer": "Optimizer", "batch": "Batch", "schedule": "Schedule", "data": "Data",
          "model": "Model", "preference": "Preferences", "online": "Sampled answers",
          "evaluation": "Evaluation"}  # fmt: skip
# The method's own knobs that a panel shows unless told otherwise.
OWN = {"lora": ["lora_rank", "lora_alpha"], "adalora": ["lora_rank", "lora_alpha"],
       "vera": ["lora_rank"], "oft": ["oft_block_size"], "bottleneck": ["bottleneck_size"],
       "freeze": ["freeze_trainable_layers"],
       **dict.fromkeys(PROMPTS, ["num_virtual_tokens"])}  # fmt: skip

# What an empty (None) value means, in a word.
EMPTY = {"lora_alpha": "2 x rank", "max_samples": "all", "loraplus_lr_ratio": "off"}


def default_names(recipe: Recipe) -> list[str]:
    """The parameters a training panel shows unless told otherwise."""
    length = "max_steps" if recipe.max_steps > 0 else "num_train_epochs"
    return [
        "learning_rate", length, *_of_stage(recipe), "weight_decay",
        *OWN.get(recipe.finetuning_type, []), "per_device_train_batch_size", "lr_scheduler_type",
        "warmup_ratio", "max_samples",
    ]  # fmt: skip


def _of_stage(recipe: Recipe) -> list[str]:
    """The parameters that the stage adds."""
    loss = recipe.pref_loss
    pairs = ["pref_beta"]
    pairs += ["pref_ftx"] if loss != "orpo" else []
    pairs += ["simpo_gamma"] if loss == "simpo" else []
    pairs += ["dpo_label_smoothing"] if loss in ("sigmoid", "robust") else []
    return {
        "dpo": pairs,
        "kto": ["pref_beta", "pref_ftx", "kto_chosen_weight", "kto_rejected_weight"],
        "ppo": ["kl_coef", "ppo_target", "cliprange", "ppo_epochs"],
        "grpo": ["kl_coef", "cliprange", "num_generations"],
        "rloo": ["kl_coef", "num_generations"],
    }.get(recipe.stage, [])


class Controls:
    """One control per parameter; `changes()` are the values that differ from the recipe's."""

    def __init__(
        self, recipe: Recipe, names: Sequence[str] | None, on_change: Callable[[Any], None]
    ) -> None:
        self.by_name: dict[str, Any] = {}
        for name in names if names is not None else default_names(recipe):
            if name not in KNOBS:
                raise RecipeError(f"controls: {name!r} is no key of a recipe.")
            self.by_name[name] = control(KNOBS[name], getattr(recipe, name))
        self._start = {name: widget.value for name, widget in self.by_name.items()}
        for widget in self.by_name.values():
            widget.observe(on_change, names="value")
        self.widget = w.VBox(self._grouped(), layout=w.Layout(flex="0 0 290px", min_width="0"))
        self.widget.add_class("ftlab-controls")

    def changes(self) -> dict[str, Any]:
        """The values the learner set, by recipe key."""
        return {
            name: _clean(name, item.value)
            for name, item in self.by_name.items()
            if item.value != self._start[name]
        }

    def _grouped(self) -> list[Any]:
        children = []
        for group, title in GROUPS.items():
            members = [name for name in self.by_name if KNOBS[name].group == group]
            if members:
                children.append(w.HTML(f"<div class='ftlab-group'>{title}</div>"))
            for name in members:
                help_line = f"<div class='ftlab-help'>{escape(KNOBS[name].help)}</div>"
                children += [self.by_name[name], w.HTML(help_line)]
        return children


def control(knob: Knob, value: Any) -> Any:
    """The widget for one parameter, at the recipe's value."""
    common = {
        "description": knob.name,
        "style": {"description_width": "auto"},
        "layout": w.Layout(width="auto"),
    }
    low, high = _reach(knob, value)
    if knob.choices:
        made = w.Dropdown(options=list(knob.choices), value=value, **common)
    elif knob.kind == "bool":
        made = w.Checkbox(value=value, indent=False, description=knob.name, layout=common["layout"])
    elif low is None or high is None:
        raise RecipeError(f"controls: {knob.name} has no range for a slider. Set it in the recipe.")
    elif knob.name in EMPTY or (knob.scale == "log" and "int" in knob.kind):
        options = _doublings(knob, value, int(low), int(high))
        made = w.SelectionSlider(
            options=options, value=value or 0, continuous_update=False, **common
        )
    elif knob.scale == "log":
        reach = {"min": log10(low), "max": log10(high), "step": 0.1, "readout_format": ".1e"}
        made = w.FloatLogSlider(value=value, continuous_update=False, **reach, **common)
    elif "int" in knob.kind:
        made = w.IntSlider(
            value=value, min=int(low), max=int(high), continuous_update=False, **common
        )
    else:
        reach = {"min": low, "max": high, "step": (high - low) / 50, "readout_format": ".2f"}
        made = w.FloatSlider(value=value, continuous_update=False, **reach, **common)
    made.add_class("ftlab-control")
    _set_tooltip(
        made,
        knob.help
        if low is None or high is None
        else f"{knob.help} ({number(low)} to {number(high)})",
    )
    return made


def _reach(knob: Knob, value: Any) -> tuple[float | None, float | None]:
    """The slider's range, widened where the recipe's own value lies outside."""
    if knob.slider is None:
        return (-4, 4) if knob.name == "freeze_trainable_layers" else (None, None)
    low, high = knob.slider
    if isinstance(value, int | float) and value > 0:
        low, high = min(low, value), max(high, value)
    return low, high


def _doublings(knob: Knob, value: Any, low: int, high: int) -> list[tuple[str, int]]:
    """low, 2 low, 4 low, ... high, the recipe's own value and, where allowed, empty.

    Empty is 0 here: a SelectionSlider takes None for no selection at all.
    """
    values, step = {high} | ({value} if value is not None else set()), low
    while step < high:
        values.add(step)
        step *= 2
    options = [(number(v), v) for v in sorted(values)]
    empty = [(EMPTY[knob.name], 0)] if knob.name in EMPTY else []
    return [*options, *empty] if knob.name == "max_samples" else [*empty, *options]


def _clean(name: str, value: Any) -> Any:
    """A slider's 0.0012589254117941673 as 0.0013, as its read-out says; its 0 for empty as None."""
    if name in EMPTY and value == 0:
        return None
    return float(f"{value:.2g}") if isinstance(value, float) else value


def _set_tooltip(widget: Any, words: str) -> None:
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"  # 8.1, 7.7.1
    setattr(widget, name, words)
