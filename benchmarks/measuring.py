"""What several measurements share: the clock of a trainer, fresh processes, their peak memory."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers import PrinterCallback, TrainerCallback

import ftlab
from ftlab.models import quiet_loading


class Clock(TrainerCallback):
    """Processor seconds at the end of each step of a trainer. One thread computes, so that they
    are what the clock on the wall shows, less what other programs took."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.process_time())


class RunClock:
    """The same of a run of ftlab, as its observer."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_start(self, run: ftlab.Run) -> None:
        pass

    def on_log(self, run: ftlab.Run, record: dict[str, float]) -> None:
        self.times.append(time.process_time())

    def on_end(self, run: ftlab.Run) -> None:
        pass


def fastest_step(rounds: list[list[float]], warm: int) -> float:
    """Seconds of a step, from the ends of all in rounds that repeat the same steps: the mean of
    each step's fastest, without the first ``warm``. What else a machine does makes a step slower,
    never faster."""
    repeated = zip(*(_steps(times, warm) for times in rounds), strict=True)
    return statistics.mean(map(min, repeated))


def _steps(times: list[float], warm: int) -> list[float]:
    return [after - before for before, after in pairwise(times)][warm - 1 :]


def wall_step(run: ftlab.Run, warm: int) -> float:
    """Seconds of a step of a run (median), by the clock on the wall."""
    return statistics.median(_steps([record["seconds"] for record in run.history], warm))


def with_trl(trainer: Any, config: Any, settings: dict[str, Any], **parts: Any) -> list[float]:
    """The ends of the steps of a trainer of TRL, called as its documentation does."""
    disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_loading(), redirect_stdout(io.StringIO()):
        arguments = config(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False,
            logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, **settings,
        )  # fmt: skip
        made = trainer(args=arguments, callbacks=[clock], **parts)
        made.remove_callback(PrinterCallback)
        made.train()
    return clock.times


def with_ftlab(recipe: ftlab.Recipe, rows: Any, **parts: Any) -> tuple[list[float], ftlab.Run]:
    """The ends of the steps of ftlab.train, and its run."""
    (model, tokenizer), clock = ftlab.load("tiny"), RunClock()
    run = ftlab.train(
        recipe, rows, model=model, tokenizer=tokenizer, save=False, quiet=True,
        observers=[clock], **parts,
    )  # fmt: skip
    return clock.times, run


def memory(field: str = "VmHWM") -> float:
    """MB that this process holds (VmRSS) or held at most (VmHWM), its libraries included.

    Not ru_maxrss where Linux tells better: that of a new process begins at what its parent used.
    """
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+)", status.read_text()) if status.exists() else None
    kilobytes = found[1] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes) * 1024 / 1e6


def fresh(module: str, *arguments: str, **environment: str) -> dict[str, float]:
    """What a module prints, as its last line and in JSON, in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    surroundings = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
