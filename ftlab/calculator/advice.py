"""What to change in a recipe so that a run fits: tried out by estimating it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from threading import Event
from typing import TYPE_CHECKING, Any

from ftlab.calculator.cards import CARDS
from ftlab.errors import Error
from ftlab.memory import human
from ftlab.recipe import Recipe

if TYPE_CHECKING:
    from ftlab.calculator.prediction import Estimate

SHORTEST = 256  # tokens below which no shorter rows are advised


@dataclass(frozen=True)
class Change:
    """Keys of a recipe with new values, bytes needed then, and whether the run fits."""

    changes: dict[str, Any]
    needed: int
    fits: bool

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.changes.items())


@dataclass(frozen=True)
class Advice:
    """``single``: each change alone, mildest first; ``best``: the one or the few that are enough,
    None where the run fits as it is or where nothing here is enough."""

    before: Estimate
    single: list[Change]
    best: Change | None

    def __str__(self) -> str:
        return "\n".join([self.headline(), *map(self._line, self.single)])

    def headline(self) -> str:
        """The advice in a sentence."""
        fit = self.before.fit
        if fit.verdict != "too large":
            return f"{fit.card}: needs {fit.needed:.1f} of {fit.gigabytes:.0f} GB: {fit.verdict}."
        start = f"{fit.card}: needs {fit.needed:.1f} GB and has {fit.gigabytes:.0f}."
        if self.best is None:
            return f"{start} No change here is enough: a smaller model, or several GPUs."
        return f"{start} It fits with {self.best} ({human(self.best.needed)})."

    def _line(self, change: Change) -> str:
        saved = self.before.needed - change.needed
        share = f"{saved / self.before.needed:.0%}"
        enough = ", and it fits" if change.fits else ""
        return f"  {change}: saves {human(saved)} ({share}){enough}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(self._line(one).strip())}</li>" for one in self.single)
        return f"<p>{escape(self.headline())}</p><ul>{lines}</ul>"


class Stopped(Exception):
    """Nobody wants the advice any more."""


Attempt = Callable[[dict[str, Any]], Change | None]  # what a run with these changes needs


def advise(before: Estimate, stop: Event | None = None) -> Advice:
    """The changes that save memory, and the fewest that make the run fit on its device.

    That takes many estimates; raises Stopped before the next one when ``stop`` is set.
    """
    attempt = partial(_tried, before, stop or Event())
    tried = map(attempt, candidates(before.recipe, before.plan.length))
    single = [one for one in tried if one is not None and one.needed < before.needed]
    if before.fit.verdict != "too large":
        return Advice(before, single, None)
    enough = [one for one in single if one.fits]
    return Advice(before, single, enough[0] if enough else _together(attempt, single))


def candidates(recipe: Recipe, length: int) -> Iterator[dict[str, Any]]:
    """Single changes that may save memory, those first that change the result least."""
    rows, ga = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    whole = recipe.finetuning_type in ("full", "freeze")
    if rows > 1:
        yield {"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows * ga}
    if not recipe.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if whole and not recipe.pure_bf16:
        yield {"pure_bf16": True}
    if whole and recipe.optim.startswith("adamw_torch"):
        yield {"optim": "adamw_8bit"}
    lora = {"finetuning_type": "lora"} if whole else {}
    if whole:
        yield lora
    for bits in (8, 4):
        if (recipe.quantization_bit or 16) > bits:
            yield {**lora, "quantization_bit": bits}
    while length // 2 >= SHORTEST:
        length //= 2
        yield {"cutoff_len": length}


def _tried(before: Estimate, stop: Event, changes: dict[str, Any]) -> Change | None:
    """The run with these changes; None where the recipe does not allow them."""
    from ftlab.calculator.prediction import estimate

    if stop.is_set():
        raise Stopped
    device = before.device.name if before.device.name in CARDS else None
    try:
        recipe = before.recipe.replace(**changes)
        after = estimate(recipe, config=before.config, device=device, name=before.model)
    except Error:
        return None
    return Change(changes, after.needed, after.fit.verdict != "too large")


def _together(attempt: Attempt, single: list[Change]) -> Change | None:
    """Changes that are enough together: the one that saves most, then the next, and so on; then
    without those that turn out not to be needed, the harshest first."""
    taken: list[dict[str, Any]] = []
    order = sorted(single, key=lambda one: one.needed)
    keys: set[str] = set()
    for one in order:
        if keys & set(one.changes) - {"finetuning_type"}:
            continue  # a stronger change of the same key is in already
        taken.append(one.changes)
        keys |= set(one.changes)
        found = attempt(_joined(taken))
        if found is not None and found.fits:
            mildest = [one.changes for one in single]
            harshest = sorted(taken[:-1], key=mildest.index, reverse=True)
            return _pruned(attempt, taken, harshest, found)
    return None


def _pruned(
    attempt: Attempt, taken: list[dict[str, Any]], order: list[dict[str, Any]], found: Change
) -> Change:
    """Without what is not needed, tried in this order."""
    for one in order:
        fewer = [other for other in taken if other is not one]
        again = attempt(_joined(fewer))
        if again is not None and again.fits:
            taken, found = fewer, again
    return found


def _joined(changes: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for one in changes for key, value in one.items()}
