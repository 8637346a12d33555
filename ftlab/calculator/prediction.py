"""Bytes and seconds of a run before it starts: `ftlab.estimate(recipe)`.

One step is rehearsed without contents (`ftlab.calculator.rehearsal`), so no formula stands behind
the bytes: they are those of the real model class, adapters, loss and optimizer. Seconds are a floor
by arithmetic: what has to be computed and moved, at rates that are measured here or a card's.
Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from html import escape
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch

from ftlab.arguments import loss_type
from ftlab.batches import packs
from ftlab.calculator import advice
from ftlab.calculator.cards import CARDS, SPARE
from ftlab.calculator.ledger import COMPONENTS
from ftlab.calculator.rehearsal import rehearse
from ftlab.calculator.shapes import read_shapes
from ftlab.calculator.speed import Device, card_device, here
from ftlab.calculator.step import Plan, Trace
from ftlab.errors import EnvironmentProblem, RecipeError
from ftlab.hardware import Hardware, precision
from ftlab.memory import human
from ftlab.recipe import Recipe

STAGES = ("pt", "sft")
_traces: dict[tuple[str, str, Plan], Trace] = {}  # the newest MOST of them
MOST = 200


class Fit(NamedTuple):
    """A device and a run: GB it has, GB needed, whether that fits, seconds a step at best."""

    card: str
    gigabytes: float
    needed: float
    verdict: str
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run needs on a device, before it starts.

    ``parts``: component -> bytes at the peak; ``phases``: part of the step -> bytes when it holds
    most; ``tokens`` and ``flops`` of one optimizer step; ``seconds`` a step at best.
    """

    recipe: Recipe = field(repr=False)
    model: str
    config: Any = field(repr=False)
    device: Device
    plan: Plan
    trace: Trace = field(repr=False)

    @property
    def phases(self) -> dict[str, int]:
        """Part of the step -> bytes that are held at its highest moment."""
        found: Counter[str] = Counter()
        for (part, _), size in self.trace.held.items():
            found[part] += size
        return dict(found)

    @property
    def phase(self) -> str:
        """The part of the step that holds most."""
        return max(self.phases, key=lambda part: self.phases[part])

    @property
    def parts(self) -> dict[str, int]:
        """Component -> bytes at the peak; on a card with what CUDA takes."""
        held, phase = self.trace.held, self.phase
        parts = {name: held[phase, name] for name in COMPONENTS}
        return parts | ({"CUDA context": self.device.context} if self.device.context else {})

    @property
    def peak(self) -> int:
        """Bytes of tensors at the peak (``torch.cuda.max_memory_allocated`` on a GPU)."""
        return sum(self.trace.held[self.phase, name] for name in COMPONENTS)

    @property
    def needed(self) -> int:
        """Bytes of memory that the process needs: the peak and what CUDA takes."""
        return self.peak + self.device.context

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.plan.rows * self.plan.length * self.recipe.gradient_accumulation_steps

    @property
    def flops(self) -> float:
        """FLOPs of the matrix products of one optimizer step, recomputation among them."""
        ga = self.recipe.gradient_accumulation_steps
        return sum(kind.flops * n for kind, n in self.trace.operations.items()) * ga

    @property
    def flops_per_token(self) -> float:
        """FLOPs of each token in training."""
        return self.flops / self.tokens

    @property
    def seconds(self) -> float:
        """Seconds of one optimizer step at best."""
        return self.device.seconds(self.trace.operations, self.recipe.gradient_accumulation_steps)

    @property
    def fit(self) -> Fit:
        """This run on this device."""
        room = self.device.room
        enough = "fits" if self.needed * (1 + SPARE) <= room else "tight"
        verdict = enough if self.needed <= room else "too large"
        return Fit(self.device.name, room / 1e9, self.needed / 1e9, verdict, self.seconds)

    @property
    def fits(self) -> list[Fit]:
        """This run on each card of `ftlab.calculator.cards.CARDS`, in the precision of cards."""
        return [self.on(card).fit for card in CARDS]

    def on(self, device: str) -> Estimate:
        """The same run on another device."""
        return estimate(self.recipe, config=self.config, device=device, name=self.model)

    def advice(self, device: str | None = None, stop: Event | None = None) -> advice.Advice:
        """What to change in the recipe so that it fits: each change that saves, with its saving.

        Takes a second an estimate; raises ``advice.Stopped`` between two of them once ``stop`` is
        set.
        """
        return advice.advise(self if device is None else self.on(device), stop)

    def rows(self) -> list[tuple[str, str, str]]:
        """Component, size and share, as text."""
        whole = self.needed or 1
        shown = {name: size for name, size in self.parts.items() if size} | {"needed": self.needed}
        return [(name, human(size), f"{size / whole:.0%}") for name, size in shown.items()]

    def __str__(self) -> str:
        lines = [f"{name:<14} {size:>9} {share:>5}" for name, size, share in self.rows()]
        return "\n".join([self.caption(), *lines, *self.remarks()])

    def caption(self) -> str:
        """What is estimated, in a sentence."""
        recipe, plan = self.recipe, self.plan
        bits = f", base in {recipe.quantization_bit} bits" if recipe.quantization_bit else ""
        again = ", checkpointing" if recipe.gradient_checkpointing else ""
        rows = f"{plan.rows} rows of {plan.length:,} tokens"
        return f"{self.model}, {recipe.finetuning_type}{bits}{again}, {rows} on {self.device.name}"

    def remarks(self) -> list[str]:
        """Where the peak is, what a step costs, and by which convention."""
        per_token = human(self.flops_per_token).replace("B", "FLOP")
        return [
            f"peak in: {self.phase}; device has {human(self.device.room)}: {self.fit.verdict}",
            f"a step: {self.tokens:,} tokens, {per_token} a token, "
            f"{self.seconds:.3g} s at best ({self.device.convention})",
        ]

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:{}">{}</td>'.format
        rows = "".join(
            f"<tr>{cell('left', escape(name))}{cell('right', size)}{cell('right', share)}</tr>"
            for name, size, share in self.rows()
        )
        remarks = "<br>".join(map(escape, self.remarks()))
        return f"<table><caption>{escape(self.caption())}</caption>{rows}</table><p>{remarks}</p>"


def estimate(
    recipe: Recipe, *, config: Any = None, device: str | None = None, name: str | None = None
) -> Estimate:
    """The bytes and seconds that training as ``recipe`` says takes, before it starts.

    Rows are taken to be as long as ``cutoff_len`` (or the model) allows; several rows of stage sft
    to be padded, so that attention has a mask. ``config`` says which
    shapes: a name in ``ftlab.memory.SHAPES``, a folder or file with a config.json, or a
    configuration; without it ``recipe.model_name_or_path`` does. Nothing is downloaded. ``device``
    is a card of ``ftlab.calculator.cards.CARDS``, or None for this machine. ``name`` is what to
    call the model. Raises RecipeError and ModelError.

    >>> found = estimate(Recipe(quantization_bit=4), config="Llama-3.1-8B", device="RTX 4090")
    >>> found.parts["weights"] + found.parts["constants"] < 6e9
    True
    """
    if recipe.stage not in STAGES:
        raise RecipeError(
            f"stage={recipe.stage}: only the step of {' and '.join(STAGES)} is predicted. Estimate "
            "it as sft: a pair is two rows."
        )
    source = recipe.model_name_or_path if config is None else config
    shapes = read_shapes(source)
    plan = _plan(recipe, shapes, _device(device))
    known = name or (Path(str(source)).name if isinstance(source, str) else shapes.model_type)
    return Estimate(recipe, known, shapes, _device(device), plan, _trace(shapes, recipe, plan))


def _device(name: str | None) -> Device:
    if name is None:
        return here()
    near = {card.lower(): card for card in CARDS}
    if name.lower() in near:
        return card_device(CARDS[near[name.lower()]])
    close = get_close_matches(name.lower(), near, n=1, cutoff=0.3)
    hint = f" Did you mean {near[close[0]]!r}?" if close else ""
    raise EnvironmentProblem(f"device={name!r}: known are {', '.join(CARDS)}.{hint}")


def _plan(recipe: Recipe, config: Any, device: Device) -> Plan:
    """The step that ftlab.train would take on this device."""
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or recipe.cutoff_len
    length = recipe.cutoff_len if recipe.rope_scaling else min(recipe.cutoff_len, context)
    kind = "cpu" if device.dtype == "float32" else "cuda"
    chosen = precision(recipe, Hardware(kind, device.name, bf16=device.dtype == "bfloat16"))
    dtype = getattr(torch, chosen.compute)
    autocast = dtype if chosen.autocast else None
    kernels = recipe.use_unsloth or recipe.enable_liger_kernel  # these hold a part at a time, too
    chunked = kernels or loss_type(recipe, text.vocab_size) != "nll"
    rows = recipe.per_device_train_batch_size
    masked = packs(recipe) or (recipe.stage == "sft" and rows > 1)
    return Plan(rows, length, dtype, autocast, chunked, masked)


def _trace(config: Any, recipe: Recipe, plan: Plan) -> Trace:
    """The rehearsal, remembered: what does not change the step does not repeat it."""
    same = {"learning_rate": 5e-5, "seed": 42, "dataset": None, "output_dir": None}
    key = (config.to_json_string(), json.dumps({**recipe.to_dict(), **same}), plan)
    if key not in _traces:
        found = rehearse(config, recipe, plan)
        while len(_traces) >= MOST:
            _traces.pop(next(iter(_traces)), None)
        _traces[key] = found
    return _traces[key]
