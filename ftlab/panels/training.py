"""The training panel: move a slider, watch the model train again, compare curves and answers.

A view only: `ftlab.train` trains, `ftlab.plots.curves` draws, `ftlab.generate` answers.
Taught in notebooks/00_start_here.ipynb and notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from html import escape
from threading import Event
from typing import Any

import ipywidgets as w

import ftlab
from ftlab import processes
from ftlab.models import load_for
from ftlab.panels.controls import Controls
from ftlab.panels.style import CSS
from ftlab.panels.worker import Worker
from ftlab.plots import curves
from ftlab.recipe import Recipe
from ftlab.svg import Picture, number
from ftlab.train import naming_data

EARLIER = 4  # runs that stay on the chart besides the pinned ones and the current one
# Drawing competes with training: four frames a second where there are two cores, ten elsewhere.
FRAME_SECONDS = 0.25 if (os.cpu_count() or 1) <= 2 else 0.1
# The read-out shows these where the stage measures them.
MEASURES = {"ranked right": "rewards/accuracies", "margin": "rewards/margins", "reward": "reward",
            "KL": "kl", "length": "length"}  # fmt: skip
BUTTONS = {
    "Train": "train from the base model with these values",
    "Stop": "end this run at its next step",
    "Pin": "keep this run on the chart when you clear",
    "Clear": "take the runs that are not pinned off the chart",
    "Copy as Python": "these values as a plain TRL and PEFT script",
    "Copy as YAML": "these values as a LLaMA-Factory recipe",
}


class TrainingPanel:
    """Controls, live curves, read-out and sample answers around `ftlab.train`.

    `prompts` are questions (strings) or message lists, answered before and after training; without
    them three rows of the data. `controls` names the recipe keys that get a control.
    `foreground=True` trains inside the callback, as on Google Colab, where the interrupt button
    stops it. Every run starts from the same base model. `wait()` re-raises what training raised.

    Plain-function twin: `run = ftlab.train(recipe, data); run.plot()`.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Any = None,
        *,
        model: Any = None,
        tokenizer: Any = None,
        eval_data: Any = None,
        prompts: Sequence[Any] | None = None,
        controls: Sequence[str] | None = None,
        foreground: bool | None = None,
    ) -> None:
        processes.one_only("a panel")
        self.base, self.data, self.eval_data = naming_data(recipe, data), data, eval_data
        self.controls = Controls(recipe, controls, lambda change: self.train())
        if model is None:
            model, tokenizer = load_for(recipe)
        self.model, self.tokenizer = model, tokenizer
        self.runs: list[Any] = []
        self.pinned: list[Any] = []
        rewarding = recipe.stage == "rm"  # gives scores, no answers
        self.samples = (
            [] if rewarding else _samples(prompts, eval_data if eval_data is not None else data)
        )
        self.before, self.after = self._answers(model), [""] * len(self.samples)
        self._live: Any = None
        self._size = (0, 0)  # trainable and all parameters of the run
        self._drawn, self._pause = 0.0, FRAME_SECONDS
        in_colab = "google.colab" in sys.modules
        self._worker = Worker(
            self._train, foreground=in_colab if foreground is None else foreground
        )
        self._worker.take_over()
        self._build()
        self._show("Ready. Move a slider or press Train.")

    @property
    def run(self) -> Any:
        """The last run, None before the first."""
        return self.runs[-1] if self.runs else None

    @property
    def recipe(self) -> Recipe:
        """The recipe as the controls stand; RecipeError for values that do not go together."""
        return self.base.replace(**self.controls.changes())

    def train(self) -> None:
        """Train with the values of the controls; an older run ends at its next step."""
        self._worker.request()

    def set(self, **values: Any) -> TrainingPanel:
        """Move controls from code, as a hand would: `panel.set(learning_rate=1e-4)`."""
        for name, value in values.items():
            self.controls.by_name[name].value = value
        return self

    def stop(self) -> None:
        """End the current run at its next step; what it learned so far stays."""
        self._worker.stop()

    def wait(self, timeout: float | None = None) -> TrainingPanel:
        """Wait for training to end; raise what it raised, or TimeoutError after `timeout` s."""
        self._worker.wait(timeout)
        return self

    def pin(self) -> None:
        """Keep the current run on the chart when the others are cleared."""
        if self.run is not None and not self._is_pinned(self.run):
            self.pinned.append(self.run)
            self._show("Pinned. This run stays when you press Clear.")

    def clear(self) -> None:
        """Take the runs that are not pinned off the chart."""
        self.runs = [run for run in self.runs if self._is_pinned(run)]
        self._show("Cleared.")

    def copy(self, language: str) -> str:
        """Show the recipe as "python" or "yaml", ready to be copied; returns the text."""
        text = self.recipe.to_python() if language == "python" else self.recipe.to_yaml()
        name = "Plain TRL and PEFT script" if language == "python" else "LLaMA-Factory recipe"
        self._copied.value = (
            f"<label class='ftlab-help'>{name}: click it, then copy (Ctrl+C or Cmd+C)"
            "<textarea class='ftlab-copy' rows='9' spellcheck='false' onfocus='this.select()'>"
            f"{escape(text)}</textarea></label>"
        )
        return text

    def still(self) -> Picture:
        """The picture of all runs, for readers without a kernel; as `plots.curves(panel.runs)`."""
        return curves(self.runs)

    def close(self) -> None:
        """Stop training and take the panel off the page."""
        self.stop()
        self.widget.close()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        words = "Training panel: the controls appear when you run this cell."
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": words}, raw=True)

    # Training. The worker calls _train, and the run calls its observer, in one thread.

    def _train(self, stop: Event) -> None:
        try:
            recipe = self.recipe
            self._show("Preparing …")
            run = ftlab.train(
                recipe,
                self.data,
                model=self.model,
                tokenizer=self.tokenizer,
                eval_data=self.eval_data,
                observers=[self],
                stop=stop,
                save=False,
                quiet=True,
            )
            self._live = None
            if self._worker.superseded:
                return
            self._keep(run)
            self._show(_ending(run))
            self.after = self._answers(run.model)
            self._show_answers()
        except KeyboardInterrupt:
            self._live = None
            self._show("Interrupted.")
        except Exception as error:
            self._live = None
            self._show(f"{type(error).__name__}: {error}", bad=True)
            raise

    def _keep(self, run: Any) -> None:
        """Add a run; the oldest ones that are not pinned leave, and free their weights."""
        free = [earlier for earlier in self.runs if not self._is_pinned(earlier)]
        leaving = {id(earlier) for earlier in free[:-EARLIER]}
        self.runs = [*(earlier for earlier in self.runs if id(earlier) not in leaving), run]

    def _is_pinned(self, run: Any) -> bool:
        return any(run is pinned for pinned in self.pinned)  # equal runs are still two runs

    def on_start(self, run: Any) -> None:
        """The run is about to take its first step."""
        from ftlab.adapters import trainable_parameters

        self._live, self._size = run, trainable_parameters(run.model)

    def on_log(self, run: Any, record: dict[str, float]) -> None:
        """The run logged a step: draw the first one at once, then a few a second."""
        if len(run.history) == 1 or time.perf_counter() - self._drawn >= self._pause:
            self._show("Training …")

    def on_end(self, run: Any) -> None:
        """The run took its last step; `_train` draws the end."""

    def _answers(self, model: Any) -> list[str]:
        if not self.samples:
            return []
        from ftlab.generate import generate

        prompts = [messages for messages, _ in self.samples]
        return generate(model, self.tokenizer, prompts, max_new_tokens=32)

    # What is on the page.

    def _build(self) -> None:
        copies = (lambda: self._copy("python"), lambda: self._copy("yaml"))
        actions = (self.train, self.stop, self.pin, self.clear, *copies)
        self.buttons = {}
        for (name, tip), action in zip(BUTTONS.items(), actions, strict=True):
            button = w.Button(description=name, tooltip=tip, layout=w.Layout(width="auto"))
            button.on_click(lambda _, action=action: action())
            button.add_class("ftlab-button")
            self.buttons[name] = button
        self.buttons["Train"].button_style = "primary"
        self._chart, self._table, self._copied = w.HTML(), w.HTML(), w.HTML()
        bar = w.HBox(list(self.buttons.values()), layout=w.Layout(flex_flow="row wrap"))
        wide = w.Layout(flex="1 1 0", min_width="0")
        right = w.VBox([bar, self._chart, self._table, self._copied], layout=wide)
        body = w.HBox([self.controls.widget, right], layout=w.Layout(width="100%"))
        self.widget = w.VBox([w.HTML(CSS), body], layout=w.Layout(max_width="980px"))
        self.widget.add_class("ftlab-panel")
        self._show_answers()

    def _copy(self, language: str) -> None:
        try:
            self.copy(language)
        except ftlab.Error as error:
            self._show(str(error), bad=True)

    def _show(self, status: str, bad: bool = False) -> None:
        """Draw status, read-out and curves: one widget, one message."""
        started = time.perf_counter()
        runs = self.runs if self._live is None else [*self.runs, self._live]
        self._chart.value = (
            f"<div class='{'ftlab-bad' if bad else 'ftlab-status'}' role='status'>{escape(status)}"
            f"</div>{_readout(runs[-1] if runs else None, self._size)}"
            f"{curves(runs, width=600, height=356).svg}"
        )
        self._drawn = time.perf_counter()
        # On a busy machine a frame takes longer: drawing never takes more than a tenth of the time.
        self._pause = max(FRAME_SECONDS, 10 * (self._drawn - started))

    def _show_answers(self) -> None:
        rows = []
        for (messages, expected), *answers in zip(
            self.samples, self.before, self.after, strict=True
        ):
            hint = f"<div class='ftlab-help'>expected: {escape(expected)}</div>" if expected else ""
            cells = "".join(f"<td>{escape(answer)}</td>" for answer in answers)
            rows.append(f"<tr><td>{escape(messages[-1]['content'])}{hint}</td>{cells}</tr>")
        head = "<tr><th>question</th><th>before training</th><th>after training</th></tr>"
        table = f"<table class='ftlab-answers'>{head}{''.join(rows)}</table>"
        self._table.value = table if rows else ""


def _samples(prompts: Sequence[Any] | None, rows: Any) -> list[tuple[list[dict[str, str]], str]]:
    """Pairs of messages up to a question and the expected answer, "" where it is unknown."""
    if prompts is not None:
        return [
            ([{"role": "user", "content": p}] if isinstance(p, str) else list(p), "")
            for p in prompts
        ]
    answer = ("chosen", "completion")
    found = [
        row["messages"] if "messages" in row
        else [*row["prompt"], *next(row[key] for key in answer if key in row)]
        for row in rows or [] if "messages" in row or "prompt" in row
    ]  # fmt: skip
    found = [messages for messages in found if messages[-1]["role"] == "assistant"]
    chosen = found[:: max(1, len(found) // 3)][:3]
    return [(messages[:-1], messages[-1]["content"]) for messages in chosen]


def _ending(run: Any) -> str:
    """How a run ended, in words."""
    step = number(run.history[-1]["step"]) if run.history else "0"
    words = f"Stopped at step {step}" if run.status == "stopped" else run.status.capitalize()
    return " ".join([f"{words}.", *run.notices])


def _readout(run: Any, size: tuple[int, int]) -> str:
    """The numbers beside the curve, as text."""
    record = run.history[-1] if run is not None and run.history else {}
    evals = [r["eval_loss"] for r in run.history if "eval_loss" in r] if record else []
    seconds, tokens = record.get("seconds"), record.get("tokens")
    memory = run.summary.get("peak_memory_bytes") if record else None
    trained, total = size if record else (0, 0)
    cells = {
        "step": f"{number(record['step'])} of {number(run.total_steps)}" if record else "",
        "loss": number(record["loss"]) if "loss" in record else "",
        "eval loss": number(evals[-1]) if evals else "",
        **{
            name: number(float(f"{record[key]:.3g}"))
            for name, key in MEASURES.items()
            if key in record
        },
        "seconds": f"{seconds:.1f}" if seconds else "",
        "tokens/s": f"{tokens / seconds:,.0f}" if tokens and seconds else "",
        "trained": f"{trained:,}" if trained else "",
        "share": f"{100 * trained / total:.1f} %" if trained else "",
        "memory": f"{memory / 1e6:,.0f} MB" if memory else "",
    }
    inside = "".join(
        f"<div><span>{name}</span> <b>{value or '–'}</b></div>" for name, value in cells.items()
    )
    return f"<div class='ftlab-readout'>{inside}</div>"
