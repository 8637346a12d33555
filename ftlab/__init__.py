"""ftlab: learn to fine-tune language models by running it.

The public names below are imported on first use, so that ``import ftlab`` stays fast and
reading data or recipes needs no PyTorch.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ftlab import deferred
from ftlab.errors import (
    CheckpointError,
    DataError,
    EnvironmentProblem,
    Error,
    ModelError,
    RecipeError,
)

if TYPE_CHECKING:
    from ftlab import memory as memory
    from ftlab import panels as panels
    from ftlab import plots as plots
    from ftlab.adapters import trainable_parameters as trainable_parameters
    from ftlab.adapters.cards import describe_adapters as describe_adapters
    from ftlab.adapters.switching import AdapterSet as AdapterSet
    from ftlab.alignment.contests import agreement as agreement
    from ftlab.alignment.contests import preference_pairs as preference_pairs
    from ftlab.alignment.contests import win_rate as win_rate
    from ftlab.alignment.judges import judge as judge
    from ftlab.alignment.rewards import preference_accuracy as preference_accuracy
    from ftlab.calculator import estimate as estimate
    from ftlab.chat import encode as encode
    from ftlab.data import Data as Data
    from ftlab.data import data_dir as data_dir
    from ftlab.data import read as read
    from ftlab.data.doctor import diagnose as diagnose
    from ftlab.data.mix import mix as mix
    from ftlab.doctor import setup as setup
    from ftlab.evaluate import compare as compare
    from ftlab.evaluate import evaluate as evaluate
    from ftlab.exercises import check as check
    from ftlab.exercises import hint as hint
    from ftlab.exercises import solution as solution
    from ftlab.export import export as export
    from ftlab.generate import generate as generate
    from ftlab.generate import stream as stream
    from ftlab.merge import merge as merge
    from ftlab.models import load as load
    from ftlab.panels import panel as panel
    from ftlab.recipe import Recipe as Recipe
    from ftlab.run import Run as Run
    from ftlab.serving.server import serve as serve
    from ftlab.train import resume as resume
    from ftlab.train import train as train

__version__ = "0.1.0"

# TRL's trainers would report each run to the hub; must be set before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# bitsandbytes warns, when PEFT imports it, of a package it could fetch kernels with, and in 8 bits
# once a layer of casts.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
deferred.install()

# public name -> the module that holds it
_HOME = {
    "AdapterSet": "adapters.switching",
    "Data": "data",
    "Recipe": "recipe",
    "Run": "run",
    "agreement": "alignment.contests",
    "check": "exercises",
    "compare": "evaluate",
    "data_dir": "data",
    "describe_adapters": "adapters.cards",
    "diagnose": "data.doctor",
    "encode": "chat",
    "estimate": "calculator",
    "evaluate": "evaluate",
    "export": "export",
    "generate": "generate",
    "hint": "exercises",
    "judge": "alignment.judges",
    "load": "models",
    "merge": "merge",
    "mix": "data.mix",
    "panel": "panels",
    "preference_accuracy": "alignment.rewards",
    "preference_pairs": "alignment.contests",
    "read": "data",
    "resume": "train",
    "serve": "serving.server",
    "setup": "doctor",
    "solution": "exercises",
    "stream": "generate",
    "train": "train",
    "trainable_parameters": "adapters",
    "win_rate": "alignment.contests",
}

__all__ = [
    "CheckpointError",
    "DataError",
    "EnvironmentProblem",
    "Error",
    "ModelError",
    "RecipeError",
    "memory",
    "panels",
    "plots",
    *sorted(_HOME),
]


class _Package(ModuleType):
    """``ftlab.train`` is the function also after something imported the module ``ftlab.train``.

    Python binds a submodule to its package when it is first imported; here the function of the
    same name is bound in its place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in ("memory", "panels", "plots"):
        return import_module(f"ftlab.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'ftlab' has no attribute {name!r}")
    return getattr(import_module(f"ftlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
