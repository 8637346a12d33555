"""Several processes that train one model: who speaks, who writes, and what they agree on.

`torchrun` and `accelerate launch` start the processes; each sees its part of every batch, and the
first of them writes the run folder. Taught in notebooks/18_beyond_one_gpu.ipynb.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from ftlab.errors import CheckpointError, EnvironmentProblem, Error, RecipeError

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
START = "torchrun --standalone --nproc-per-node N -m ftlab train FILE.yaml"
HEAD_START = 0.5  # seconds: of a mistake that all made, the first process tells
SILENCE = 3.0  # seconds in which the process that tells can print
_inside = False


def launched() -> bool:
    """Whether torchrun, accelerate launch or the like started this process."""
    return all(os.environ.get(name) for name in LAUNCHED)


def count() -> int:
    """How many processes train together.

    >>> count()
    1
    """
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def index() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def first() -> bool:
    """Whether this process writes and prints."""
    return index() == 0


def one_only(what: str) -> None:
    """EnvironmentProblem where several processes were started for what one process does."""
    if count() > 1:
        raise EnvironmentProblem(
            f"{what}: works in one process, and {count()} were started. Several train only: {START}"
        )


def check(recipe: Recipe) -> None:
    """RecipeError for what several processes cannot train; call before anything is loaded."""
    if count() == 1:
        return
    from ftlab.recipe.rules import ONLINE

    for key, why in (
        ("use_badam", "it trains other weights every few steps, which DDP does not follow"),
        ("galore_layerwise", "it updates within the backward pass, before gradients are shared"),
        ("apollo_layerwise", "it updates within the backward pass, before gradients are shared"),
    ):
        if getattr(recipe, key):
            raise RecipeError(f"{key}: {why}. Remove it, or start one process.")
    if recipe.stage in ONLINE:
        raise RecipeError(
            f"stage {recipe.stage}: ftlab samples its answers in one process, and {count()} were "
            "started. Start one, or train with stage sft, pt, rm, dpo or kto."
        )


def start(recipe: Recipe) -> None:
    """Join the other processes, each on a device of its own; nothing for a process alone."""
    import torch
    import torch.distributed as dist

    if not launched() or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= here:
            raise EnvironmentProblem(
                f"process {local} of this machine has no GPU: there are {here}. Start {here} "
                f"processes (--nproc-per-node {here})."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", _store()), rank=index(), world_size=count(),
        timeout=timedelta(seconds=recipe.ddp_timeout),
    )  # fmt: skip


@cache
def _store() -> Any:
    """A table of bytes that all processes read and write. torchrun itself holds it, so that it
    outlives a process that fails."""
    import torch.distributed as dist

    store, _, _ = next(dist.rendezvous("env://"))
    return dist.PrefixStore("ftlab", store)


@contextmanager
def one_message() -> Iterator[None]:
    """Inside, an error of any process ends all of them, and the first to fail says why.

    The others, which made the same mistake or lost the connection to it, leave in silence.
    """
    global _inside
    if count() == 1 or _inside:
        yield
        return
    store, _inside = _store(), True
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not first():
            time.sleep(HEAD_START)
        if store.add("failed", 1) > 1:
            time.sleep(SILENCE)
            codes: dict[type[BaseException], int] = {KeyboardInterrupt: 130}
            raise SystemExit(2 if isinstance(error, Error) else codes.get(type(error), 1)) from None
        if isinstance(error, Error) and not first():
            raise type(error)(f"process {index()} of {count()}: {error}") from error
        if _lost(error):
            raise EnvironmentProblem(
                f"process {index()} of {count()}: another one ended without a word, as when memory "
                f"runs out ({str(error).splitlines()[0][:200]}). Lower "
                "per_device_train_batch_size, or start fewer."
            ) from error
        raise
    finally:
        _inside = False


def _lost(error: BaseException) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def together(value: float, how: str = "MAX") -> float:
    """``MAX``, ``MIN`` or ``SUM`` over the value of each process; all wait for each other."""
    if count() == 1:
        return value
    import torch
    import torch.distributed as dist

    shared = torch.tensor(value, dtype=torch.float64)  # on the CPU: no GPU has to wait for it
    dist.all_reduce(shared, getattr(dist.ReduceOp, how))
    return float(shared)


def wait() -> None:
    """Go on when every process is here."""
    together(0.0)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(together(float(flag)))


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, in all of them."""
    if count() == 1:
        return make()
    import torch
    import torch.distributed as dist

    found = [make() if first() else None]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    return found[0]


def gathered(value: Any) -> list[Any]:
    """The value of each process, in all of them."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def averaged(values: dict[str, float]) -> dict[str, float]:
    """Measures as means over the processes that took them."""
    if count() == 1:
        return values
    every = gathered(values)
    return {
        key: sum(one[key] for one in every if key in one) / sum(key in one for one in every)
        for key in values
    }


def same_batch(recipe: Recipe, before: int) -> Recipe:
    """The recipe of a run of ``before`` processes for these, so that a step sees the same rows.

    CheckpointError where the rows of a step cannot be divided among these processes.
    """
    if before == count():
        return recipe
    size, steps = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    mine, rest = divmod(size * steps * before, count())
    if recipe.stage == "kto":  # its KL is that of the rows that are seen at once, by all together
        fits, size = size * before // count() * count() == size * before, size * before // count()
    else:
        fits, size = True, next((n for n in range(size, 0, -1) if mine % n == 0), 1)
    if rest or not fits or not size:
        raise CheckpointError(
            f"this run was begun by {before} processes with {mine * count() + rest} rows a step, "
            f"which {count()} cannot share evenly. Resume with {before} processes."
        )
    changes: dict[str, Any] = {
        "per_device_train_batch_size": size, "gradient_accumulation_steps": mine // size,
    }  # fmt: skip
    return recipe.replace(**changes)
