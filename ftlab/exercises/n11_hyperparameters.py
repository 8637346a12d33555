"""Exercises of notebook 11: number of updates, gradient clipping, a rate chosen with care."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "First the batches of one epoch, then the updates of one epoch, then all epochs.",
        "Both divisions round up: a smaller last batch is still a batch.",
        "`math.ceil(math.ceil(rows / batch) / accumulation)`, times epochs, rounded up again.",
    ),
    solution="""
import math


def updates(rows, batch, accumulation, epochs):
    batches = math.ceil(rows / batch)
    return math.ceil(epochs * math.ceil(batches / accumulation))
""",
    why="So count transformers' Trainer and its schedule; warm-up in steps means these steps.",
)
def updates(answer: Callable[[int, int, int, float], int]) -> None:
    """Rows, batch, accumulation, epochs -> the number of optimizer steps of the run."""
    expect(answer(40, 4, 1, 1) == 10, "one update for each batch")
    expect(answer(40, 4, 1, 3) == 30, "every epoch passes over all rows")
    expect(answer(64, 4, 4, 2) == 8, "one update for `accumulation` batches")
    expect(answer(41, 4, 1, 1) == 11, "a smaller last batch counts")
    expect(answer(3, 8, 1, 1) == 1, "fewer rows than a batch still make an update")
    expect(answer(40, 4, 4, 1) == 3, "a smaller last group of batches makes an update too")
    expect(answer(41, 4, 1, 2) == 22, "batches do not reach across epochs")
    expect(answer(40, 4, 4, 2) == 6, "groups of batches do not reach across epochs")
    expect(answer(40, 4, 1, 0.55) == 6, "a part of an epoch is rounded up to whole updates")
    expect(isinstance(answer(40, 4, 1, 1.0), int), "a whole number (int)")


@exercise(
    "build",
    hints=(
        "One length for all tensors together: as if they stood in one long vector.",
        "The root of the sum of all squares; compare it with `max_norm`.",
        "Multiply every tensor by `min(1, max_norm / norm)`; a norm of 0 needs no division.",
    ),
    solution="""
def clipped(gradients, max_norm):
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    scale = max_norm / norm if norm > max_norm else 1.0
    return [g * scale for g in gradients]
""",
    why="One factor for all keeps the direction of the step; only its length changes.",
)
def clipped(answer: Callable[[list[Any], float], list[Any]]) -> None:
    """Gradient tensors, longest norm -> new tensors, scaled by one factor."""
    import torch

    def length(tensors: list[Any]) -> float:
        return math.sqrt(sum(float(t.square().sum()) for t in tensors))

    made = torch.Generator().manual_seed(0)
    long = [torch.randn(3, 4, generator=made), torch.randn(5, generator=made)]
    result = answer(long, 1.0)
    expect(isinstance(result, list) and len(result) == 2, "a list with one tensor for each")
    expect(all(a.shape == b.shape for a, b in zip(result, long, strict=True)), "the shapes stay")
    short = [tensor / 100 for tensor in long]
    expect(
        all(torch.allclose(a, b) for a, b in zip(answer(short, 1.0), short, strict=True)),
        "short gradients are not stretched",
        yours=f"norm {length(answer(short, 1.0)):.3g}, before {length(short):.3g}",
    )
    factors = [(a / b).flatten() for a, b in zip(result, long, strict=True)]
    every = torch.cat(factors)
    same = "one factor for every number of every tensor: the direction stays"
    expect(torch.allclose(every, every[:1], rtol=1e-3), same)
    expect(
        abs(length(result) - 1.0) < 1e-3,
        "all tensors together have length max_norm",
        yours=f"norm {length(result):.4g} where max_norm is 1",
    )
    expect(abs(length(answer(long, 0.25)) - 0.25) < 1e-3, "max_norm is an argument")
    zero = answer([torch.zeros(2)], 1.0)
    expect(bool(torch.equal(zero[0], torch.zeros(2))), "a gradient of zero stays zero")


@exercise(
    "explore",
    hints=(
        "Sort out what is not finite first. Then find the rate with the lowest mean.",
        "Standard error of that rate: `stdev(its losses) / sqrt(number of seeds)`.",
        "`min(rate for rate, mean in means.items() if mean <= lowest + error)`.",
    ),
    solution="""
import math
from statistics import mean, stdev


def careful_rate(losses):
    means = {rate: mean(x) for rate, x in losses.items() if all(map(math.isfinite, x))}
    best = min(means, key=means.get)
    error = stdev(losses[best]) / math.sqrt(len(losses[best]))
    return min(rate for rate, value in means.items() if value <= means[best] + error)
""",
    why="Where the data cannot tell two rates apart, the lower one stands further from the cliff.",
)
def careful_rate(answer: Callable[[dict[float, list[float]]], float]) -> None:
    """Losses over seeds by rate -> the lowest rate within one standard error of the best."""
    clear = {1e-4: [2.0, 2.02, 1.98], 1e-3: [0.5, 0.52, 0.48], 1e-2: [3.0, 3.1, 2.9]}
    expect(answer(clear) in clear, "one of the rates")
    expect(answer(clear) == 1e-3, "where one rate is clearly best, it is chosen")
    lucky = {1e-3: [0.1, 1.5, 1.4], 3e-3: [0.50, 0.51, 0.52]}
    expect(answer(lucky) == 3e-3, "means are compared, not the best seed")
    tie = {1e-4: [2.0, 2.1, 1.9], 3e-4: [0.53, 0.55, 0.51], 1e-3: [0.4, 0.5, 0.6]}
    expect(answer(tie) == 3e-4, "among rates within one standard error, the lowest")
    backward = dict(reversed(tie.items()))
    expect(answer(backward) == 3e-4, "the order of the dictionary does not matter")
    error = {3e-4: [0.58, 0.60, 0.56], 1e-3: [0.4, 0.5, 0.6]}
    expect(
        answer(error) == 1e-3,
        "the standard error is that of the mean: stdev / sqrt(number of seeds)",
    )
    noisy = {1e-3: [0.2, 0.7, 1.2], 3e-3: [0.50, 0.51, 0.52]}
    expect(answer(noisy) == 3e-3, "the standard error is the best rate's, not another's")
    for bad in (math.nan, math.inf):
        blown = {1e-3: [0.50, 0.51, 0.52], 3e-3: [0.1, bad, 0.1]}
        expect(answer(blown) == 1e-3, "a rate that blew up with any seed is out")
    expect(
        answer({1e-4: [0.5, math.nan], 1e-3: [0.7, 0.8], 1e-2: [2.0, 2.0]}) == 1e-3,
        "a rate that blew up is out, also where it stands first",
    )
