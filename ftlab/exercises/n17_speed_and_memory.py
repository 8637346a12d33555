"""Exercises of notebooks/17_speed_and_memory.ipynb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "The base is frozen: it has weights, and neither gradients nor an optimizer.",
        "Bits are eighths of a byte. fp32 takes 4 bytes.",
        "An adapter's weight takes 4 bytes, its gradient 4, AdamW's two means 4 each.",
    ),
    solution="""
def standing_bytes(base, bits, adapters):
    return base * bits / 8 + 16 * adapters
""",
    why="Few weights train, so the base is nearly all of it: that is what QLoRA makes smaller.",
)
def standing_bytes(answer: Callable[[int, float, int], float]) -> None:
    """Frozen weights, bits of each, weights of the adapters -> bytes before any activation."""
    alone = answer(1000, 16, 0)
    expect(alone != 16000, "bytes, not bits", yours=alone)
    expect(abs(alone - 2000) < 1e-6, "a frozen weight takes its own bits and no more", yours=alone)
    expect(abs(answer(1000, 4, 0) - 500) < 1e-6, "the number of bits is an argument")
    added = answer(1000, 4, 10) - 500
    expect(added > 40, "an adapter that trains has a gradient and AdamW's means too", yours=added)
    expect(added != 120, "AdamW keeps two means of each weight", yours=added)
    expect(abs(added - 160) < 1e-6, "4 bytes each: weight, gradient, two means", yours=added)
    more = answer(1000, 4.127, 10)
    expect(abs(more - 1000 * 4.127 / 8 - 160) < 1e-6, "bits need not be a whole number", yours=more)


@exercise(
    "build",
    hints=(
        "Keep a list of windows and, beside it, how much room each has left.",
        "`sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)`: longest first.",
        "Of the windows with room for the row, take the one with the least; if none, open one.",
    ),
    solution="""
def best_fit(lengths, room):
    windows, left = [], []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        fitting = [k for k, free in enumerate(left) if free >= lengths[row]]
        if fitting:
            best = min(fitting, key=left.__getitem__)
        else:
            best = len(windows)
            windows.append([])
            left.append(room)
        windows[best].append(row)
        left[best] -= lengths[row]
    return windows
""",
    why="Short rows come last and fill the gaps; the number of windows is close to the least.",
)
def best_fit(answer: Callable[[list[int], int], Any]) -> None:
    """Lengths of rows, tokens of a window -> windows, each a list of row numbers."""
    import random

    lengths = [3, 7, 5, 5]
    found = answer(list(lengths), 10)
    whole = isinstance(found, list) and all(isinstance(one, list) for one in found)
    expect(whole, "a list of windows, each a list of row numbers")
    rows = sorted(row for window in found for row in window)
    expect(rows == [0, 1, 2, 3], "every row number once, counted from 0", yours=found)
    sums = [sum(lengths[row] for row in window) for window in found]
    expect(max(sums) <= 10, "no window holds more tokens than it has room for", yours=sums)
    expect(sorted(sums) == [10, 10], "the longest rows first: short ones fill the gaps", yours=sums)
    lengths = [10, 6, 5, 3, 2, 2]
    found = answer(list(lengths), 14)
    sums = sorted(sum(lengths[row] for row in window) for window in found)
    given = {"given": "10, 6, 5, 3, 2, 2 tokens, windows of 14", "yours": sums}
    expect(sums == [14, 14], "the window with the least room that still holds the row", **given)
    chance = random.Random(1)
    lengths = [chance.randint(1, 60) for _ in range(300)]
    count, least = len(answer(list(lengths), 100)), len(_reference(lengths, 100))
    many = "300 rows of 1 to 60 tokens, windows of 100"
    expect(count <= least, "no more windows than best fit needs", given=many, yours=count)
    expect(answer([], 10) == [], "no rows, no windows")


def _reference(lengths: list[int], room: int) -> list[int]:
    """Room left in each window of best-fit packing."""
    left: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [k for k, free in enumerate(left) if free >= length]
        if not fitting:
            left.append(room)
        k = min(fitting, key=left.__getitem__) if fitting else len(left) - 1
        left[k] -= length
    return left


@exercise(
    "explore",
    hints=(
        "How many FLOPs does the whole step need, and in how many seconds was it done?",
        "FLOPs of the step: those of a token, times tokens. Divide by seconds: FLOP/s.",
        "Divide that by `peak`, in FLOP/s as well. The result is a share, not a percentage.",
    ),
    solution="""
def mfu(flops, tokens, seconds, peak):
    return flops * tokens / seconds / peak
""",
    why="By formula only: who recomputes works more, and the tokens are no more for it.",
)
def mfu(answer: Callable[[float, int, float, float], float]) -> None:
    """FLOPs a token, tokens and seconds of a step, FLOP/s of the device -> share of it used."""
    full = answer(5e6, 1000, 1.0, 5e9)
    expect(full < 2, "a share of 1, not a percentage", yours=full)
    expect(abs(full - 1) < 1e-9, "all that the device can do is a share of 1", yours=full)
    slow = answer(5e6, 1000, 2.0, 5e9)
    expect(slow < full, "twice the seconds, half the share", yours=slow)
    expect(abs(slow - 0.5) < 1e-9, "twice the seconds, half the share", yours=slow)
    expect(abs(answer(5e6, 500, 1.0, 5e9) - 0.5) < 1e-9, "FLOPs of all tokens of the step")
    expect(abs(answer(5e6, 1000, 1.0, 2e10) - 0.25) < 1e-9, "the device's peak is an argument")
