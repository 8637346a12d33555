"""Exercises of notebooks/15_merging_and_export.ipynb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Count the weights first, then the bytes for each block of 32 of them.",
        "f16: 2 bytes a weight. A block of q8_0: 2 + 32 bytes, of q4_0: 2 + 16 bytes.",
        "`{'f16': 64, 'q8_0': 34, 'q4_0': 18}[kind]` bytes for each 32 weights.",
    ),
    solution="""
def stored_bytes(rows, columns, kind):
    return rows * columns // 32 * {"f16": 64, "q8_0": 34, "q4_0": 18}[kind]
""",
    why="The scales make 4-bit weights 4.5 bits each: 28 % of 16 bits, not 25 %.",
)
def stored_bytes(answer: Callable[..., int]) -> None:
    """Rows, columns (a multiple of 32) and a format -> bytes of the matrix."""
    expect(answer(1, 32, "f16") == 64, "two bytes for each weight in f16")
    expect(answer(1, 32, "q8_0") == 34, "one byte for each code and two for the scale in q8_0")
    expect(answer(1, 32, "q4_0") == 18, "two codes share a byte in q4_0, the scale has two more")
    expect(answer(3, 64, "q4_0") == 108, "a scale for every block of every row")
    wanted = {"f16": 8192, "q8_0": 4352, "q4_0": 2304}
    found = {kind: answer(64, 64, kind) for kind in wanted}
    expect(found == wanted, "whole bytes, in every format", given="64 x 64", yours=found)


@exercise(
    "build",
    hints=(
        "The scale maps the largest size in the block to code 127.",
        "`scale = abs(block).max() / 127`; a code is the weight divided by it, rounded.",
        "`np.round(block / scale)` as int8; where the scale is 0, all codes are 0.",
    ),
    solution="""
import numpy as np


def q8_0(block):
    scale = abs(block).max() / 127
    codes = np.round(block / scale) if scale else np.zeros(len(block))
    return scale, codes.astype(np.int8)
""",
    why="Rounding moves a weight by half a step at most, and the step is a 127th of the largest.",
)
def q8_0(answer: Callable[..., Any]) -> None:
    """32 weights -> (scale, 32 codes from -127 to 127)."""
    import numpy as np

    rng = np.random.default_rng(0)
    for size in (1.0, 1e-3, 50.0):
        block = (size * rng.standard_normal(32)).astype(np.float32)
        scale, codes = answer(block)
        codes = np.asarray(codes)
        expect(codes.shape == (32,), "a code for each of the 32 weights")
        expect(np.array_equal(codes, np.trunc(codes)), "codes are whole numbers")
        expect(abs(codes).max() == 127, "the largest weight gets code 127 or -127")
        expect(np.sign(codes[abs(block).argmax()]) == np.sign(block[abs(block).argmax()]),
               "codes keep the sign of their weights")  # fmt: skip
        error = abs(float(scale) * codes.astype(np.float64) - block).max() / float(scale)
        expect(error <= 0.501, "scale x code lies within half a step of the weight", yours=error)
    scale, codes = answer(np.zeros(32, np.float32))
    restored = float(scale) * np.asarray(codes, np.float64)
    expect(bool(np.all(restored == 0)), "a block of zeros comes back as zeros")


@exercise(
    "explore",
    hints=(
        "Three steps for each weight: trim in each change, elect a sign, average what agrees.",
        "Trim: `k = round(density * change.size)`; keep the k largest of `abs(change)`, else 0.",
        "`sign = np.sign(sum(kept))`; then the mean over the kept values that have that sign.",
    ),
    solution="""
import numpy as np


def ties(changes, density):
    kept = []
    for change in changes:
        k = round(density * change.size)
        order = np.argsort(-abs(change), axis=None)[:k]
        trimmed = np.zeros(change.size)
        trimmed[order] = change.ravel()[order]
        kept.append(trimmed.reshape(change.shape))
    kept = np.array(kept)
    sign = np.sign(kept.sum(axis=0))
    agrees = (np.sign(kept) == sign) & (kept != 0)
    return (kept * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
""",
    why="Changes of opposite sign no longer cancel, and small ones no longer dilute large ones.",
)
def ties(answer: Callable[..., Any]) -> None:
    """Changes (arrays of one shape) and a density -> their TIES merge, of that shape."""
    import numpy as np

    def close(found: Any, wanted: Any) -> bool:
        found = np.asarray(found, dtype=float)
        return found.shape == np.shape(wanted) and bool(np.allclose(found, wanted))

    one = np.array([[3.0, -1.0], [0.5, 2.0]])
    expect(np.shape(answer([one], 1.0)) == (2, 2), "the result has the shape of a change")
    expect(close(answer([one], 1.0), one), "one change alone, all kept, comes back as it is")
    kept = answer([one], 0.5)
    expect(close(kept, [[3.0, 0], [0, 2.0]]), "the values that are largest in size are kept")
    negative = answer([np.array([-4.0, 1.0])], 0.5)
    expect(close(negative, [-4.0, 0]), "large negative values are large")
    mean = answer([np.array([2.0, 1.0]), np.array([4.0, 3.0])], 1.0)
    expect(close(mean, [3.0, 2.0]), "values that agree are averaged, not added")
    fight = answer([np.array([3.0, -1.0]), np.array([-1.0, -2.0])], 1.0)
    expect(close(fight, [3.0, -1.5]), "the sum elects the sign; a value against it is left out")
    alone = answer([np.array([4.0, 0.1]), np.array([0.1, 6.0])], 0.5)
    expect(close(alone, [4.0, 6.0]), "what was trimmed does not count in the mean")
