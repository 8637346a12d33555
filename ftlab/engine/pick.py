"""Choose the engine of a run, say why, and import Unsloth in time.

Unsloth replaces parts of transformers, TRL and PEFT in its process when it is imported, and it has
to come first. So a run that uses it happens in a process where ``begin`` was called before those
libraries came in: the one of ``ftlab train``, or one of its own (``ftlab.engine.apart``) when this
one, such as a notebook's kernel, holds them already. Nothing here imports transformers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.data.registry import data_dir
from ftlab.errors import EnvironmentProblem, RecipeError
from ftlab.hardware import (
    Choice,
    Hardware,
    attention,
    check_liger,
    here,
    packages,
    precision,
)
from ftlab.recipe import rules

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

ENGINES = ("auto", "transformers", "unsloth")
PATCHED = ("transformers", "trl", "peft")  # what Unsloth wants to be imported before
OLDEST = (7, 0)  # Unsloth's oldest CUDA capability: V100, T4
# Weights below this train in less time than Unsloth takes to start.
SMALL = 200_000_000
# No statistics, no batches of its own making; its other prints go to stderr.
QUIET = {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1"}


def settle(
    recipe: Recipe,
    *,
    given: bool = False,
    hardware: Hardware | None = None,
    found: Collection[str] | None = None,
) -> tuple[Recipe, list[str]]:
    """The recipe with ``use_unsloth`` decided, and a sentence for what was decided alone.

    ``given``: the caller passes a loaded model. Raises EnvironmentProblem where this machine lacks
    what the recipe asks for, RecipeError where a loaded model cannot have it; loads nothing.
    """
    hardware = here() if hardware is None else hardware
    found = packages() if found is None else found
    attention(recipe.flash_attn, hardware, found)
    if recipe.enable_liger_kernel:
        check_liger(hardware, found)
    if recipe.use_unsloth is False:
        return recipe, []
    if recipe.use_unsloth:
        if _several():
            raise RecipeError("use_unsloth: is for one process. Leave it out under a launcher.")
        if given:
            raise RecipeError(
                "use_unsloth: Unsloth loads the model itself. Leave model and tokenizer out, or "
                "use_unsloth."
            )
        if problem := lacks(hardware, found):
            raise EnvironmentProblem(f"use_unsloth: {problem}")
        return recipe, []
    chosen = choose(recipe, hardware, found, given=given)
    picked = chosen.value == "unsloth"
    notes = [f"engine: unsloth ({chosen.reason})."] if picked else []
    return recipe.replace(use_unsloth=picked), notes


def choose(
    recipe: Recipe, hardware: Hardware, found: Collection[str], *, given: bool = False
) -> Choice:
    """What ``auto`` picks: Unsloth where it runs, knows the recipe and is worth its start.

    >>> from ftlab.recipe import Recipe
    >>> choose(Recipe(), Hardware(), [])[0]
    'transformers'
    """
    why = None
    if hardware.device != "cuda":
        why = "no NVIDIA GPU"
    elif given:
        why = "the model was loaded before"
    elif _several():
        why = "several processes"
    elif _small(recipe.model_name_or_path):
        why = "a small model trains in less time than Unsloth takes to start"
    why = why or lacks(hardware, found) or rules.beyond_unsloth(recipe)
    return Choice("transformers", why) if why else Choice("unsloth", f"installed, and {hardware}")


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def lacks(hardware: Hardware, found: Collection[str]) -> str | None:
    """Why Unsloth cannot run here, as a sentence; None where it can.

    UNSLOTH_FORCE_CPU=1, Unsloth's own switch to its backend for CPUs, is believed.
    """
    if os.environ.get("UNSLOTH_FORCE_CPU") != "1":
        if hardware.device != "cuda":
            return f"Unsloth wants an NVIDIA GPU, and here is {hardware}. Remove the key."
        if hardware.capability < OLDEST:
            return f"Unsloth wants capability 7.0 or later, and here is {hardware}. Remove the key."
    if "unsloth" not in found:
        return "Unsloth is not installed: pip install 'ftlab[gpu]'"
    return None


def notices(recipe: Recipe, hardware: Hardware) -> list[str]:
    """A sentence for each speed key that does less here than its name says, or costs time first."""
    said = []
    if recipe.use_unsloth_gc and hardware.device != "cuda":
        said.append(
            "use_unsloth_gc: activations are recomputed; without a GPU they are in main memory "
            "already."
        )
    if recipe.torch_compile:
        said.append(
            "torch_compile: the first steps compile, which takes minutes; lengths that "
            "change from batch to batch may compile again."
        )
    return said


def describe(recipe: Recipe, hardware: Hardware) -> dict[str, str]:
    """On what a settled recipe trains: ``engine``, which this process has imported, ``device``,
    ``precision`` with its reason."""
    name = "unsloth" if recipe.use_unsloth else "transformers"
    chosen = precision(recipe, hardware)
    kernels = " with Liger's kernels" if recipe.enable_liger_kernel else ""
    return {
        "engine": f"{name} {getattr(sys.modules[name], '__version__', '')}{kernels}",
        "device": str(hardware),
        "precision": f"{chosen.compute} ({chosen.reason})",
    }


def _small(name: str) -> bool:
    """Whether a model is the shipped one, or a folder of few bytes of weights."""
    folder = data_dir() / "tiny" if name == "tiny" else Path(name).expanduser()
    weights = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return bool(weights) and sum(path.stat().st_size for path in weights) < SMALL


def started() -> bool:
    """Whether this process runs with Unsloth's patches."""
    return "unsloth" in sys.modules


def elsewhere(recipe: Recipe) -> bool:
    """Whether a settled recipe needs a process of its own: Unsloth, and it did not come first."""
    return bool(recipe.use_unsloth) and not started()


def begin() -> None:
    """Import Unsloth into this process; EnvironmentProblem where it is too late or it fails."""
    if started():
        return
    held = [name for name in PATCHED if name in sys.modules]
    if held:
        raise EnvironmentProblem(
            f"Unsloth has to be imported before {', '.join(held)}, which this process holds "
            "already. Use ftlab.train with use_unsloth: true, which starts a process of its own, "
            "or restart the kernel and import unsloth first."
        )
    for name, value in {**QUIET, "UNSLOTH_COMPILE_LOCATION": _cache()}.items():
        os.environ.setdefault(name, value)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import unsloth  # noqa: F401
    except Exception as error:  # whatever of its many imports fails
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise EnvironmentProblem(f"Unsloth does not start here: {reason}") from error


def begin_for(recipe: Recipe) -> None:
    """Import Unsloth now if ``recipe`` will use it and it is not too late in this process."""
    if settle(recipe)[0].use_unsloth and not any(name in sys.modules for name in PATCHED):
        begin()


def _cache() -> str:
    """Where Unsloth writes the trainers it makes; its default is the current folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(home) / "ftlab" / "unsloth")
