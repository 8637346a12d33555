"""Exercises of notebooks/08_lora.ipynb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Each layer gets two matrices. What are their shapes?",
        "A is `rank x in`, B is `out x rank`.",
        "Sum `rank * (out + in)` over the layers.",
    ),
    solution="""
def lora_parameters(shapes, rank):
    return sum(rank * (out + into) for out, into in shapes)
""",
    why="It grows with the sides of a matrix, not with its area: that is the whole saving.",
)
def lora_parameters(answer: Callable[[list[tuple[int, int]], int], int]) -> None:
    """Shapes (out, in) of the layers, rank -> how many numbers LoRA trains."""
    expect(answer([], 8) == 0, "no layers, nothing to train")
    square = answer([(10, 10)], 1)
    expect(square == 20, "rank 1: one number for each row and one for each column", yours=square)
    oblong = answer([(30, 10)], 4)
    expect(oblong == 160, "both sides count, each `rank` times", yours=oblong)
    both = answer([(30, 10), (10, 10)], 4)
    expect(both == 240, "every layer has its own pair", yours=both)


def _pair(rank: int, out: int, into: int, seed: int) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, into, generator=generator)
    return A, torch.randn(out, rank, generator=generator)


@exercise(
    "build",
    hints=(
        "The formula of section 3, once and for all instead of in each forward pass.",
        "The rank needs no argument: it is the number of rows of A.",
        "Return `weight + alpha / len(A) * B @ A`: a new tensor, not `+=`.",
    ),
    solution="""
def merged_weight(weight, A, B, alpha):
    return weight + alpha / len(A) * (B @ A)
""",
    why="After merging, one matrix does the work of three: the latency is gone.",
)
def merged_weight(answer: Callable[[Any, Any, Any, float], Any]) -> None:
    """Weight [out, in], A [rank, in], B [out, rank], alpha -> the weight with the change in it."""
    import torch

    A, B = _pair(2, 5, 3, 0)
    weight = torch.zeros(5, 3)
    kept = weight.clone()
    merged = answer(weight, A, 0 * B, 4.0)
    expect(isinstance(merged, torch.Tensor), "a tensor")
    expect(tuple(merged.shape) == (5, 3), "the shape of the weight", yours=tuple(merged.shape))
    expect(torch.equal(merged, kept), "with B = 0 the weight stays the same")
    merged = answer(weight, A, B, 2.0)
    expect(torch.equal(weight, kept), "the old weight stays as it is: adapters come off again")
    expect(torch.allclose(merged, B @ A, atol=1e-5), "alpha = rank adds B @ A as it is")
    merged = answer(kept + 1, A, B, 8.0)
    expect(torch.allclose(merged, 1 + 4 * B @ A, atol=1e-5), "the change is alpha/rank times B @ A")
    A, B = _pair(4, 5, 3, 1)
    merged = answer(kept, A, B, 8.0)
    expect(torch.allclose(merged, 2 * B @ A, atol=1e-5), "the rank is that of A and B")


@exercise(
    "explore",
    hints=(
        "The best approximation of a matrix by one of lower rank comes from its singular values.",
        "`u, s, v = torch.linalg.svd(B @ A, full_matrices=False)`: u, s and v in falling order.",
        "Keep the first `rank`: A is `v[:rank]`, B is `u[:, :rank] * s[:rank]`.",
    ),
    solution="""
import torch


def shrink(A, B, rank):
    u, s, v = torch.linalg.svd(B @ A, full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank]
""",
    why="No other pair of this rank is nearer (Eckart and Young, 1936).",
)
def shrink(answer: Callable[[Any, Any, int], tuple[Any, Any]]) -> None:
    """A [rank, in], B [out, rank], a smaller rank -> a pair of that rank, as near as can be."""
    import torch

    A, B = _pair(6, 12, 9, 2)
    wanted, kept = B @ A, (A.clone(), B.clone())
    for rank in (6, 2, 1):
        given = f"A {tuple(A.shape)}, B {tuple(B.shape)}, new rank {rank}"
        pair = answer(A, B, rank)
        expect(isinstance(pair, tuple) and len(pair) == 2, "a pair: A, then B", given=given)
        shapes = tuple(pair[0].shape), tuple(pair[1].shape)
        expect(shapes == ((rank, 9), (12, rank)), "A is rank x in, B is out x rank", yours=shapes)
        same = torch.equal(A, kept[0]) and torch.equal(B, kept[1])
        expect(same, "the old pair stays as it is", given=given)
        best = torch.linalg.svdvals(wanted)[rank:].norm()
        off = (pair[1] @ pair[0] - wanted).norm()
        words = "at full rank the product stays the same" if rank == 6 else "no pair is nearer"
        expect(bool(off <= best + 1e-3), words, given=given, yours=f"{float(off):.2f} away")
