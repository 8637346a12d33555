"""Devices as the calculator sees them: how much memory, and how fast. Measured here, or a card's.

A step's seconds are a floor: each operation takes what its FLOPs or its bytes take, whichever is
more, and starting it takes a while. Nothing is fitted to a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import psutil
import torch

from ftlab.calculator.cards import BANDWIDTH_SHARE, COMPUTE_SHARE, CONTEXT, LAUNCH, Card
from ftlab.calculator.ledger import Ledger, Operation
from ftlab.hardware import pick_device, pick_dtype


class Device(NamedTuple):
    """``room`` bytes for a run, ``dtype`` of weights, FLOP/s in 16 bits and in fp32, bytes/s,
    seconds that starting an operation takes, bytes that CUDA takes, and how that is known."""

    name: str
    room: int
    dtype: str
    half: float
    single: float
    bandwidth: float
    start: float
    context: int
    convention: str

    def seconds(self, operations: Mapping[Operation, float], batches: int = 1) -> float:
        """Seconds for these operations, those of the batch so many times."""
        work = started = 0.0
        for kind, count in operations.items():
            times = count * (1 if kind.part == "optimizer" else batches)
            rate = self.single if kind.dtype == "float32" else self.half
            work += times * max(kind.flops / rate, kind.moved / self.bandwidth)
            # A GPU is given views without a kernel; a CPU's own time goes into all of them.
            started += times * self.start * (kind.moved > 0 or not self.context)
        return max(work, started) if self.context else work + started


def card_device(card: Card) -> Device:
    """A card by its data sheet."""
    convention = (
        f"products at {COMPUTE_SHARE:.0%} of the sheet's {card.half / 1e12:g} TFLOP/s in 16 bits "
        f"and {card.single / 1e12:g} in fp32, memory at {BANDWIDTH_SHARE:.0%} of "
        f"{card.bandwidth / 1e9:,.0f} GB/s, {LAUNCH * 1e6:g} µs a kernel"
    )
    return Device(
        card.name, card.gigabytes * 10**9, "float16" if card.name == "T4" else "bfloat16",
        COMPUTE_SHARE * card.half, COMPUTE_SHARE * card.single, BANDWIDTH_SHARE * card.bandwidth,
        LAUNCH, CONTEXT, convention,
    )  # fmt: skip


def here() -> Device:
    """This machine: its device with the memory that is free now, and its rates, measured once."""
    device = pick_device().value
    cuda = device == "cuda"
    room = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    single, half, bandwidth, start = _rates(device)
    convention = (
        f"measured here: {single / 1e9:,.0f} GFLOP/s in fp32, {bandwidth / 1e9:,.1f} GB/s, "
        f"{start * 1e6:.1f} µs an operation"
    )
    name = torch.cuda.get_device_name(0) if cuda else f"this {device}"
    return Device(
        name, room, pick_dtype(device).value, half, single, bandwidth, start,
        CONTEXT if cuda else 0, convention,
    )  # fmt: skip


@lru_cache(maxsize=4)
def _rates(device: str) -> tuple[float, float, float, float]:
    """FLOP/s in fp32 and in 16 bits, bytes/s of a copy, seconds an operation: a fraction of a
    second on a CPU."""
    size = 8192 if device == "cuda" else 1024
    dtypes = [torch.float32, getattr(torch, pick_dtype(device).value)]
    rates = []
    for dtype in dict.fromkeys(dtypes):
        square = torch.randn(size, size, device=device, dtype=dtype)
        rates.append(2 * size**3 / _fastest(partial(torch.matmul, square, square), device))
    source = torch.ones(2**24 if device != "cuda" else 2**28, device=device)
    target = torch.empty_like(source)
    copied = _fastest(lambda: target.copy_(source), device)
    return rates[0], rates[-1], 2 * source.nbytes / copied, _start(device)


def _start(device: str) -> float:
    """Seconds to start one operation of a model, forward or backward: a chain of tiny layers."""
    layers = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(32)]).to(device)
    x = torch.ones(1, 8, device=device)
    ledger = Ledger(0)
    with ledger:
        ledger.enter("start")
        layers(x).sum().backward()
    count = sum(ledger.found()[1].values())
    return _fastest(lambda: layers(x).sum().backward(), device) / count


def _fastest(work: Callable[[], object], device: str, times: int = 5) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
