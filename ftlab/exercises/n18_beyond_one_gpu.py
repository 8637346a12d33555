"""Exercises of notebook 18: rows of a step, a gradient of several processes, tensors shared out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "batch x accumulation x processes = rows. First: how many rows has each process?",
        "`mine = rows // processes`; the batch has to divide it without a rest.",
        "`max(n for n in range(1, most + 1) if mine % n == 0)`, and accumulation `mine // batch`.",
    ),
    solution="""
def same_step(rows, processes, most):
    mine = rows // processes
    batch = max(n for n in range(1, most + 1) if mine % n == 0)
    return batch, mine // batch
""",
    why="With the same rows a step, rate, schedule and losses are those of one process.",
)
def same_step(answer: Callable[[int, int, int], tuple[int, int]]) -> None:
    """Rows of a step, processes, room of one -> its batch and its accumulation."""
    for rows, processes, most in ((8, 1, 8), (32, 8, 4), (64, 8, 4), (24, 2, 8), (32, 4, 3)):
        found = answer(rows, processes, most)
        expect(
            isinstance(found, (tuple, list)) and len(found) == 2, "two numbers: batch, accumulation"
        )
        batch, accumulation = found
        expect(
            isinstance(batch, int) and isinstance(accumulation, int), "whole numbers (int), no rest"
        )
        expect(batch <= most, "no more rows at once than there is room for: the batch comes first")
        expect(batch * accumulation * processes == rows, "a step sees exactly so many rows")
    expect(tuple(answer(32, 2, 8)) == (8, 2), "the batch as large as possible")
    expect(tuple(answer(24, 2, 5)) == (4, 3), "the largest batch that divides without a rest")
    expect(tuple(answer(8, 8, 16)) == (1, 1), "never more rows than a process has")


@exercise(
    "build",
    hints=(
        "A mean times its count is a sum. What may be added up, means or sums?",
        "Add `gradient * tokens` over the processes, then divide by all tokens.",
        "NaN times 0 is NaN: leave out every process with 0 tokens.",
    ),
    solution="""
def shared_gradient(parts):
    total = sum(tokens for _, tokens in parts)
    return sum(gradient * (tokens / total) for gradient, tokens in parts if tokens)
""",
    why="Every token counts the same, whichever process it came to.",
)
def shared_gradient(answer: Callable[[list[tuple[Any, int]]], Any]) -> None:
    """(Mean gradient, tokens) of each process -> the mean gradient over all tokens."""
    import torch

    made = torch.Generator().manual_seed(0)
    tokens = torch.randn(12, 3, generator=made)  # the gradient of each token

    def result(*sizes: int) -> Any:
        pieces = tokens[: sum(sizes)].split(sizes)
        found = answer([(piece.mean(0), len(piece)) for piece in pieces])
        expect(getattr(found, "shape", None) == (3,), "one tensor, of the shape of a gradient")
        return found

    def near(found: Any, wanted: Any) -> bool:
        return bool(torch.allclose(found, wanted, atol=1e-5))

    expect(near(result(4, 4, 4), tokens.mean(0)), "with equal counts, the mean of the gradients")
    expect(near(result(5), tokens[:5].mean(0)), "one process keeps its gradient")
    expect(near(result(1, 9), tokens[:10].mean(0)), "every token counts the same")
    expect(near(result(1, 9, 2), tokens.mean(0)), "every token counts the same, with three too")
    found = result(3, 0, 9)
    expect(not bool(found.isnan().any()), "a process without tokens brings NaN: it may not spread")
    expect(near(found, tokens.mean(0)), "a process without tokens changes nothing")


@exercise(
    "explore",
    hints=(
        "Go through the tensors one by one: who should get this one?",
        "Always the process that holds least so far. In which order do you go through?",
        "Largest first: `sorted(sizes, key=sizes.get, reverse=True)`; keep the sums in a list.",
    ),
    solution="""
def shared_out(sizes, processes):
    names, held = [[] for _ in range(processes)], [0] * processes
    for name in sorted(sizes, key=sizes.get, reverse=True):
        emptiest = held.index(min(held))
        names[emptiest].append(name)
        held[emptiest] += sizes[name]
    return names
""",
    why="PyTorch's ZeroRedundancyOptimizer does so. A tensor larger than the mean spoils it: FSDP "
    "cuts every tensor.",
)
def shared_out(answer: Callable[[dict[str, int], int], list[list[str]]]) -> None:
    """Bytes by name, processes -> the names that each process holds."""

    def fullest(sizes: dict[str, int], processes: int) -> int:
        found = answer(sizes, processes)
        expect(
            isinstance(found, list)
            and len(found) == processes
            and all(isinstance(each, (list, tuple)) for each in found),
            "a list with one list of names for each process",
        )
        names = [name for each in found for name in each]
        expect(all(name in sizes for name in names), "names, as `sizes` has them")
        expect(len(names) == len(set(names)), "no name twice: nothing is held by two")
        expect(len(names) == len(sizes), "no name is left out")
        return max(sum(sizes[name] for name in each) for each in found)

    expect(fullest({"a": 3, "b": 5}, 1) == 8, "one process holds all")
    expect(fullest({"a": 3}, 4) == 3, "more processes than tensors: some hold nothing")
    expect(fullest({"a": 4, "b": 4, "c": 4, "d": 4}, 2) == 8, "equal tensors, equal shares")
    turns = {f"layer {i}, {part}": size for i in range(4) for part, size in (("A", 1), ("W", 9))}
    expect(fullest(turns, 2) <= 30, "sizes count, not how many tensors each has")
    rising = {"norm": 1, "bias": 1, "up": 6, "down": 6, "head": 12}
    least = "a large tensor that comes late finds an empty process: the fullest holds little"
    expect(fullest(rising, 2) <= 13, least)
    layers = {f"w{i}": 7 + (i * 5) % 11 for i in range(24)}
    mean = sum(layers.values()) / 4
    expect(fullest(layers, 4) <= math.ceil(1.05 * mean), "with many tensors, near the mean")
