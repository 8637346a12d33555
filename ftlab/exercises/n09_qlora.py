"""Exercises of notebooks/09_qlora.ipynb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Each weight has its code; everything else is shared by the weights of a block.",
        "Without double quantization a block shares one number of 32 bits.",
        "With it a block shares 8 bits, and 256 blocks share one number of 32 bits.",
    ),
    solution="""
def bits_per_weight(block, double):
    if not double:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * 256)
""",
    why="Small blocks are more exact, and it is their constants that make them dear.",
)
def bits_per_weight(answer: Callable[[int, bool], float]) -> None:
    """Size of a block, and whether its absmax is quantized too -> bits that a weight takes."""
    single = answer(64, False)
    expect(single > 4, "more than the 4 bits of the code: the absmax needs room", yours=single)
    expect(abs(single - 4.5) < 1e-9, "32 bits of absmax for each block", yours=single)
    expect(abs(answer(128, False) - 4.25) < 1e-9, "the size of a block is an argument")
    twice = answer(64, True)
    expect(twice < single, "double quantization makes it smaller", yours=twice)
    expect(twice > 4.125, "256 blocks still share an absmax of 32 bits", yours=twice)
    wanted = 4 + 8 / 64 + 32 / (64 * 256)
    expect(abs(twice - wanted) < 1e-9, "one absmax of 32 bits for 256 blocks, not 256 weights")


@exercise(
    "build",
    hints=(
        "As in `round_to`, but a block is a row and the levels are the integers.",
        "`weights.abs().amax(1)` is one absmax a row; divide, times 127, round.",
        "A row of zeros would divide by zero: `absmax.clamp(min=1e-12)` in the division.",
    ),
    solution="""
def int8_rows(weights):
    absmax = weights.abs().amax(1)
    scaled = weights / absmax.clamp(min=1e-12)[:, None]
    return (127 * scaled).round(), absmax
""",
    why="This is how bitsandbytes keeps weights in 8 bits: no table, no blocks, one absmax a row.",
)
def int8_rows(answer: Callable[[Any], Sequence[Any]]) -> None:
    """A matrix -> integer codes from -127 to 127, and the absmax of each row."""
    import torch

    weights = torch.tensor([[0.5, -1.0, 0.26, 0.0], [0.01, 0.02, -0.03, 0.04]])
    found = answer(weights.clone())
    expect(isinstance(found, tuple) and len(found) == 2, "two tensors: codes and absmax")
    codes, absmax = (torch.as_tensor(part).double() for part in found)
    expect(codes.shape == weights.shape, "as many codes as weights")
    expect(absmax.numel() == len(weights), "one absmax for each row")
    expect(torch.equal(codes, codes.round()), "codes are whole numbers")
    top = codes.abs().amax(1)
    expect(bool((top <= 127).all()), "no code beyond 127", yours=top.tolist())
    expect(bool((top == 127).all()), "the largest weight of each row gets 127", yours=top.tolist())
    off = (codes * absmax.reshape(-1, 1) / 127 - weights.double()).abs().amax(1)
    half = absmax.flatten() / 254 + 1e-6
    expect(
        bool((off <= half).all()), "no weight is off by more than half a step: round, do not cut"
    )
    codes, absmax = answer(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    expect(bool(torch.isfinite(codes).all()), "a row of zeros gives codes, not NaN")
    expect(bool((codes[0] == 0).all()), "zeros stay zeros")


def _error(values: Any, levels: Any) -> float:
    import numpy as np

    return float((np.abs(values[:, None] - np.asarray(levels)[None]).min(1) ** 2).mean())


@exercise(
    "explore",
    hints=(
        "Lloyd's algorithm: each value goes to its nearest level, each level to their mean.",
        "Start at quantiles: `np.quantile(values, (np.arange(count) + 0.5) / count)`.",
        "Repeat 200 times: `near = np.abs(values[:, None] - levels).argmin(1)`, then the means.",
    ),
    solution="""
import numpy as np


def best_levels(values, count):
    levels = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(300):
        near = np.abs(values[:, None] - levels).argmin(1)
        means = [values[near == k].mean() if (near == k).any() else levels[k]
                 for k in range(count)]
        levels = np.sort(means)
    return levels
""",
    why="Levels made for these very weights beat NF4; NF4 is one table that needs no data at all.",
)
def best_levels(answer: Callable[[Any, int], Any]) -> None:
    """A NumPy array, a number -> that many levels, sorted, with the least squared error."""
    import numpy as np

    rng = np.random.default_rng(3)
    two = np.concatenate([rng.normal(-0.8, 0.02, 300), rng.normal(0.5, 0.02, 100)])
    found = np.asarray(answer(two.copy(), 2), dtype=float)
    expect(found.shape == (2,), "as many levels as were asked for", yours=found.shape)
    expect(bool((np.diff(found) >= 0).all()), "sorted levels, the smallest first")
    expect(
        bool(np.allclose(found, [-0.8, 0.5], atol=0.01)),
        "two heaps of values, two levels: one in the middle of each",
        given="300 values near -0.8 and 100 near 0.5", yours=found.round(3).tolist(),
    )  # fmt: skip
    values = np.clip(rng.normal(0, 0.3, 1500), -1, 1)
    found = np.asarray(answer(values.copy(), 8), dtype=float)
    quantiles = np.quantile(values, (np.arange(8) + 0.5) / 8)
    given = {"given": "1,500 normal values, 8 levels"}
    expect(
        _error(values, found) < 0.999 * _error(values, quantiles),
        "a smaller squared error than that of the quantiles", **given,
    )  # fmt: skip
    near = np.abs(values[:, None] - found[None]).argmin(1)
    used = [k for k in range(8) if (near == k).any()]
    expect(len(used) == 8, "no level that nothing is near to", **given)
    off = max(abs(float(values[near == k].mean()) - found[k]) for k in used)
    expect(off < 5e-3, "every level lies at the mean of the values nearest to it: repeat", **given)
