"""Which engine trains: transformers and PEFT as they are, or with Unsloth's kernels.

``pick`` decides and imports Unsloth first, ``fast`` loads and attaches with its kernels (and
Liger's), ``apart`` runs a recipe in a process of its own. Importing this package
imports no transformers. Taught in notebooks/17_speed_and_memory.ipynb.
"""

from ftlab.engine.pick import (
    ENGINES,
    begin,
    begin_for,
    choose,
    describe,
    elsewhere,
    lacks,
    notices,
    settle,
    started,
)

__all__ = [
    "ENGINES",
    "begin",
    "begin_for",
    "choose",
    "describe",
    "elsewhere",
    "lacks",
    "notices",
    "settle",
    "started",
]
