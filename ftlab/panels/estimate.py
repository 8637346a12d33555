"""The calculator's panel: turn a recipe's knobs and see whether it still fits on a card.

A view only. Plain-function twins: `ftlab.estimate(recipe, config=..., device=...)`, its `advice()`,
and `ftlab.calculator.budget.budget(estimate)`. Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

import sys
from html import escape
from threading import Event
from typing import Any

import ipywidgets as w

import ftlab
from ftlab.calculator.advice import Stopped
from ftlab.calculator.budget import budget, fits_table, tutorials_table
from ftlab.calculator.cards import CARDS
from ftlab.memory import SHAPES
from ftlab.panels.data import Still
from ftlab.panels.style import CSS
from ftlab.panels.worker import Worker
from ftlab.recipe import Recipe

METHODS = ("full", "freeze", "lora")
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
POWERS = (1, 2, 4, 8, 16, 32, 64)
NONE = "16 bits"
HERE = "this machine"


class EstimatePanel:
    """Bars of what a run needs against what cards have, around `ftlab.estimate`.

    `recipe` and `config` are those of `ftlab.estimate` and where the controls start; every other
    key of the recipe stays as it is. `foreground=True` computes inside the callback, as on Google
    Colab. `wait()` re-raises what computing raised.
    """

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        config: Any = None,
        device: str = "RTX 4090",
        foreground: bool | None = None,
    ) -> None:
        self.recipe = recipe or Recipe(model_name_or_path="Llama-3.1-8B", quantization_bit=4)
        self.config = config
        self.estimate: Any = None
        self.advice: Any = None
        in_colab = "google.colab" in sys.modules
        self._worker = Worker(
            self._compute, foreground=in_colab if foreground is None else foreground
        )
        self._build(device)
        self._worker.request()

    def set(self, **values: Any) -> EstimatePanel:
        """Move controls from code: `panel.set(cutoff_len=4096, device="T4")`."""
        for name, value in values.items():
            self.controls[name].value = value
        return self

    def wait(self, timeout: float | None = None) -> EstimatePanel:
        """Wait for the figures; raise what computing raised, or TimeoutError after `timeout` s."""
        self._worker.wait(timeout)
        return self

    def still(self) -> Still:
        """What is shown now, for readers without a kernel."""
        words = str(self.estimate) if self.estimate else "nothing estimated yet"
        return Still(f"<div class='ftlab-panel'>{CSS}{self._figures.value}</div>", words)

    def close(self) -> None:
        """Take the panel off the page."""
        self._worker.stop()
        self.widget.close()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        words = "The calculator: the controls appear when you run this cell."
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": words}, raw=True)

    def _compute(self, stop: Event) -> None:
        self._say("Estimating …")
        chosen = {name: control.value for name, control in self.controls.items()}
        device, model = chosen.pop("device"), chosen.pop("model")
        bits = chosen.pop("quantization_bit")
        chosen["quantization_bit"] = None if bits == NONE else int(bits.split()[0])
        shapes = self.config if model == self._own else model
        try:
            recipe = self.recipe.replace(**chosen)
            here = None if device == HERE else device
            self.estimate = ftlab.estimate(recipe, config=shapes, device=here, name=model)
            self.advice = None
            self._draw()
            self.advice = self.estimate.advice(stop=stop)
            self._draw()
        except Stopped:
            pass  # a knob was turned meanwhile
        except ftlab.Error as error:
            self.estimate = self.advice = None
            self._figures.value = ""
            self._say(str(error), bad=True)

    def _draw(self) -> None:
        """Bars and cards at once; the advice, a few estimates more, when it is there."""
        found = self.estimate
        self._say(" · ".join(found.remarks()))
        words = "Looking for what would fit …" if self.advice is None else ""
        advice = words or self.advice._repr_html_()
        self._figures.value = (
            f"{budget(found, width=620).svg}<div class='ftlab-help'>{advice}</div>"
            f"{fits_table(found)}<br>{tutorials_table()}"
        )

    def _build(self, device: str) -> None:
        look: dict[str, Any] = {"style": {"description_width": "auto"}}
        look["layout"] = w.Layout(width="auto")
        recipe, self._own = self.recipe, self._name()
        models = list(dict.fromkeys([self._own, *SHAPES]))
        bits = [NONE, "8 bits", "4 bits"]
        start = f"{recipe.quantization_bit} bits" if recipe.quantization_bit else NONE
        methods = list(dict.fromkeys([*METHODS, recipe.finetuning_type]))
        self.controls: dict[str, Any] = {
            "model": w.Dropdown(options=models, value=self._own, **look),
            "device": w.Dropdown(options=[*CARDS, HERE], value=device, **look),
            "finetuning_type": w.Dropdown(options=methods, value=recipe.finetuning_type, **look),
            "quantization_bit": w.Dropdown(
                options=list(dict.fromkeys([*bits, start])), value=start, **look
            ),
            "lora_rank": _steps(POWERS[2:], recipe.lora_rank, look),
            "per_device_train_batch_size": _steps(POWERS, recipe.per_device_train_batch_size, look),
            "cutoff_len": _steps(LENGTHS, recipe.cutoff_len, look),
            "gradient_checkpointing": w.Checkbox(
                value=recipe.gradient_checkpointing, indent=False, layout=look["layout"]
            ),
        }
        for name, control in self.controls.items():
            control.description = name
            control.add_class("ftlab-control")
            control.observe(lambda _: self._worker.request(), names="value")
        self._status, self._figures = w.HTML(), w.HTML()
        left = w.VBox(list(self.controls.values()), layout=w.Layout(flex="0 0 310px"))
        left.add_class("ftlab-controls")
        right = w.VBox([self._status, self._figures], layout=w.Layout(flex="1 1 0", min_width="0"))
        body = w.HBox([left, right], layout=w.Layout(width="100%"))
        self.widget = w.VBox([w.HTML(CSS), body], layout=w.Layout(max_width="980px"))
        self.widget.add_class("ftlab-panel")

    def _name(self) -> str:
        """What the model that the panel starts with is called in its list."""
        if isinstance(self.config, str):
            return self.config
        if self.config is None:
            self.config = self.recipe.model_name_or_path
            return self.recipe.model_name_or_path
        return str(getattr(self.config, "model_type", "given shapes"))

    def _say(self, words: str, bad: bool = False) -> None:
        kind = "ftlab-bad" if bad else "ftlab-status"
        self._status.value = f"<div class='{kind}' role='status'>{escape(words)}</div>"


def _steps(values: tuple[int, ...], value: int, look: dict[str, Any]) -> Any:
    """A slider over these values and the recipe's own."""
    options = [(f"{one:,}", one) for one in sorted({*values, value})]
    return w.SelectionSlider(options=options, value=value, continuous_update=False, **look)
