"""Run: what a training run leaves behind: history, curves, answers, summary, the run folder.

Taught in notebooks/00_start_here.ipynb and notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import torch

from ftlab import checkpoints, processes
from ftlab.adapters import finish_folder
from ftlab.errors import ModelError
from ftlab.models import gives_scores, quiet_loading
from ftlab.recipe import Recipe
from ftlab.tokens import IGNORED

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedTokenizerBase


class Observer(Protocol):
    """Something that watches a run: a panel, a tracker, a progress bar. All methods are called in
    the thread that trains."""

    def on_start(self, run: Run) -> None: ...

    def on_log(self, run: Run, record: dict[str, float]) -> None: ...

    def on_end(self, run: Run) -> None: ...


@dataclass
class Run:
    """One training run. ``history`` has one dict per logged step: ``step``, ``epoch``, ``loss``,
    ``learning_rate``, ``grad_norm``, ``seconds``, ``tokens``, and ``eval_loss`` where computed.

    ``status`` is "running", "finished", "stopped" (the stop event), "interrupted" (Ctrl-C) or
    "not finite" (the loss or gradient became infinite or NaN; the weights are those before it).
    ``machine`` says on what it trained: ``engine``, ``device``, ``precision`` with its reason.
    """

    recipe: Recipe = field(repr=False)
    model: Any = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    folder: Path | None = None
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    status: str = "running"
    summary: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    total_steps: int = 0
    machine: dict[str, str] = field(default_factory=dict, repr=False)

    def plot(self, **options: Any) -> Any:
        """The curves of this run (see ``ftlab.plots.curves``)."""
        from ftlab.plots import curves

        return curves([self], **options)

    def chat(self, text: str, **options: Any) -> str:
        """The model's answer to one question (see ``ftlab.generate.chat``)."""
        return self.ask([text], **options)[0]

    def ask(self, questions: list[str], **options: Any) -> list[str]:
        """Answers to several questions, generated as one batch."""
        from ftlab.chat import question
        from ftlab.generate import generate

        if gives_scores(self.model.config):
            raise ModelError(
                f"{self.name}: a reward model gives scores, no answers. See ftlab.rewards."
            )
        system = self.recipe.system_prompt
        prompts = [question(text, system) for text in questions]
        options.setdefault("enable_thinking", self.recipe.enable_thinking)
        return generate(self.model, self.tokenizer, prompts, **options)

    def table(self) -> DataFrame:
        """The history as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(key.replace('_', ' '))}</td>"
            f"<td style='text-align:right'>{escape(_readable(key, value))}</td></tr>"
            for key, value in self.summary.items()
            if value is not None
        )
        return f"<table><caption>{escape(self.name)}: {self.status}</caption>{rows}</table>"


class Meter:
    """Measures a run: seconds of training (evaluations included), tokens, peak memory.

    ``positions`` were computed, ``tokens`` of them were no padding, ``trained`` had a loss. The
    latter two stay on the device until they are read: no step waits for a count. ``before`` is the
    last record of a run that goes on: its seconds and tokens count, too.
    """

    def __init__(self, device: torch.device, before: Mapping[str, float] | None = None) -> None:
        self.before = before or {"seconds": 0.0, "tokens": 0}
        self.cuda = device.type == "cuda"
        self.process = psutil.Process()
        self.tokens: Any = 0
        self.trained: Any = 0
        self.positions = 0
        self.peak = 0
        self.start()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        """Start the clock: the first step begins."""
        self.started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the first step began."""
        return self.before["seconds"] + time.perf_counter() - self.started

    def all_tokens(self) -> int:
        """Tokens of all processes. All of them have to ask."""
        return int(self.before["tokens"] + processes.together(int(self.tokens), "SUM"))

    def count(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Add the tokens of a batch: tensors [rows, length] as a stage's collator makes them."""
        self.positions += batch["input_ids"].numel()
        self.tokens += (
            batch["attention_mask"] if "attention_mask" in batch else batch["tokens"]
        ).sum()
        if "labels" in batch:  # nothing stands before the first token
            self.trained += (batch["labels"][:, 1:] != IGNORED).sum()
        elif "completion_mask" in batch:
            self.trained += batch["completion_mask"][:, 1:].sum()

    def sample_memory(self) -> int:
        """Highest memory use seen so far in bytes: allocated on the GPU, or resident on the CPU."""
        now = torch.cuda.max_memory_allocated() if self.cuda else self.process.memory_info().rss
        self.peak = max(self.peak, now)
        return self.peak


def summarize(run: Run, meter: Meter, trainable: int, total: int) -> dict[str, Any]:
    """The summary of a run; all numbers are measured."""
    losses = [record["loss"] for record in run.history if "loss" in record]
    evals = [record["eval_loss"] for record in run.history if "eval_loss" in record]
    steps = int(run.history[-1]["step"]) if run.history else 0
    seconds = run.history[-1]["seconds"] if run.history else meter.seconds()
    tokens = int(meter.tokens)
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / max(steps, 1),
        "processes": processes.count() if processes.count() > 1 else None,
        "tokens_per_second": meter.all_tokens() / seconds if seconds else 0.0,
        "positions": meter.positions or None,
        "padding_share": 1 - tokens / meter.positions if meter.positions else None,
        "loss_tokens": int(meter.trained) or None,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "peak_memory_bytes": int(processes.together(meter.sample_memory())),  # of one process
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "eval_loss": evals[-1] if evals else None,
    }


def write_folder(run: Run, data_hashes: dict[str, str], weights: Any = None) -> None:
    """Write what a finished run keeps: weights or adapter, tokenizer, recipe, history, report.

    ``weights`` are those of a model that lies in parts with several processes (name -> tensor).
    """
    assert run.folder is not None
    folder = run.folder
    with checkpoints.written_whole(folder / "final") as temporary:
        with quiet_loading():
            run.model.save_pretrained(temporary, **{"state_dict": weights} if weights else {})
            finish_folder(run.model, temporary, checkpoint=False)
            run.tokenizer.save_pretrained(temporary)
        checkpoints.write_text(temporary / "recipe.yaml", run.recipe.to_yaml())
        checkpoints.copy_base_record(folder, temporary)
        lines = [json.dumps(record) for record in run.history]
        checkpoints.write_text(temporary / "history.jsonl", "\n".join(lines) + "\n")
        checkpoints.write_text(temporary / "data.json", json.dumps(data_hashes, indent=1))
        checkpoints.write_text(temporary / "README.md", report_card(run))
        if run.recipe.plot_loss:
            checkpoints.write_text(temporary / "training_loss.svg", run.plot().svg)
    for path in sorted(
        (folder / "final").iterdir()
    ):  # the manifest comes last: it sorts as written
        if path.name != checkpoints.MANIFEST:
            path.replace(folder / path.name)
    (folder / "final" / checkpoints.MANIFEST).replace(folder / checkpoints.MANIFEST)
    (folder / "final").rmdir()


def report_card(run: Run) -> str:
    """A short README for the run folder."""
    recipe = run.recipe
    lines = [
        f"# {run.name}",
        "",
        f"Status: {run.status}. Made with ftlab; `recipe.yaml` repeats it.",
        "",
        f"- base model: {recipe.model_name_or_path}",
        f"- method: {recipe.finetuning_type}, stage {recipe.stage}",
        f"- data: {recipe.dataset or 'given in code'}",
        *(f"- {what}: {how}" for what, how in run.machine.items()),
        "",
        "| measured | value |",
        "|---|---|",
        *(
            f"| {key.replace('_', ' ')} | {_readable(key, value)} |"
            for key, value in run.summary.items()
            if value is not None
        ),
    ]
    return "\n".join(lines) + "\n"


def _readable(key: str, value: Any) -> str:
    if key.endswith("bytes"):
        return f"{value / 1e6:,.0f} MB"
    if key == "seconds_per_step":
        return f"{value * 1000:.1f} ms"
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"
