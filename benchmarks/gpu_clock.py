"""What is measured inside a cell: steps, tokens, memory. Knows no trainer; imports torch late."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu_figures import spread

WITHIN = 0.03  # five steps that differ by less are a steady state
Record = dict[str, Any]


def steady(times: list[float], least: int) -> bool:
    """Whether the warm-up is over: ``least`` steps are done, or the last five are alike. The first
    step never counts: kernels are compiled in it."""
    last = sorted(times[1:][-5:])
    return len(times) >= least or (len(last) == 5 and last[-1] - last[0] < WITHIN * last[2])


class Clock:
    """Seconds of each step, from its end to the end of the one before, data and all.

    ``tick`` is called at the end of each step and says whether enough are timed. The device is
    waited for at each end. Peak memory is that of the timed steps.
    """

    def __init__(self, device: str, steps: int, warm: int) -> None:
        self.device, self.steps, self.least = device, steps, warm
        self.times: list[float] = []
        self.warm: int | None = None

    @property
    def most(self) -> int:
        """The most steps that a run can take."""
        return self.steps + self.least

    def begin(self) -> None:
        """The first step begins."""
        self.started = time.time()
        self.last = self._now()

    def tick(self) -> bool:
        """A step has ended; whether training may end."""
        now = self._now()
        self.times.append(now - self.last)
        if self.warm is None and steady(self.times, self.least):
            self.warm = len(self.times)
            self._reset_peak()
        self.last = self._now()
        return self.warm is not None and len(self.times) - self.warm >= self.steps

    def figures(self) -> Record:
        """Milliseconds a step, and what came before the timed ones."""
        assert self.warm is not None
        return {
            "step_ms": {k: 1000 * v for k, v in spread(self.times[self.warm :]).items()},
            "steps": len(self.times) - self.warm,
            "warm_up_steps": self.warm,
            "warm_up_seconds": sum(self.times[: self.warm]),
            "first_step_seconds": self.times[0],
        }

    def _now(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def _reset_peak(self) -> None:
        if self.device == "cuda":
            import torch

            self.before = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()


class Tally:
    """Counts the batches that reach a model; sums stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Any, Any]] = []
        self.keys: list[str] = []

    def watch(self, owner: Any) -> None:
        """Count what ``owner.training_step`` (a trainer's, or its class's) is given."""
        plain: Callable[..., Any] = owner.training_step
        of_class = isinstance(owner, type)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.add(kwargs["inputs"] if "inputs" in kwargs else args[2 if of_class else 1])
            return plain(*args, **kwargs)

        owner.training_step = counting

    def add(self, batch: Mapping[str, Any]) -> None:
        """Positions, tokens that are no padding, and tokens with a loss, of one batch."""
        labels, ids = batch["labels"], batch["input_ids"]
        self.keys = sorted(batch)
        # what ftlab, any padded batch, and Unsloth's packed ones say; TRL flattens without padding
        known = (batch.get(key) for key in ("tokens", "attention_mask", "packed_seq_lengths"))
        real = next((value for value in known if value is not None), ids == ids)
        self.batches.append((ids.numel(), real.sum(), (labels[:, 1:] != -100).sum()))

    def per_step(self, warm: int, steps: int) -> dict[str, float]:
        """Means over the timed steps."""
        timed = self.batches[warm : warm + steps]
        names = ("positions", "tokens", "trained")
        sums = (sum(int(value) for value in column) for column in zip(*timed, strict=True))
        return {name: total / len(timed) for name, total in zip(names, sums, strict=True)}


def memory(clock: Clock) -> Record:
    """Bytes: of the timed steps on the GPU, of the whole process in main memory."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    resident = re.search(r"VmHWM:\s+(\d+)", text)
    found: Record = {
        "peak_allocated": None, "peak_reserved": None, "peak_before": None, "process_memory": None,
        "resident": int(resident[1]) * 1024 if resident else None,
    }  # fmt: skip
    if clock.device == "cuda":
        import torch

        found |= {
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
            "peak_before": clock.before,
            "process_memory": device_memory(),
        }
    return found


def device_memory() -> int | None:
    """Bytes in use on the first GPU, as nvidia-smi says; this process is alone on it."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def matmul_tflops(size: int = 8192, rounds: int = 20) -> float:
    """The device's rate in bf16: the median of square products of random numbers (zeros are
    multiplied faster)."""
    import torch

    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(rounds + 5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        torch.matmul(a, b)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / spread(times[5:])["median"] / 1e12
