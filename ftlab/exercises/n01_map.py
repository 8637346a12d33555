"""Exercises of notebook 01: bytes of training, numbers of LoRA, where the weights moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Every weight is stored once, trained or not.",
        "A trained weight needs three more numbers: its gradient and AdamW's two.",
        "`size * (parameters + 3 * trained)`.",
    ),
    solution="""
def training_bytes(parameters, trained, size=4):
    return size * (parameters + 3 * trained)
""",
    why="Full tuning needs four times the weights; a small adapter little more than the weights.",
)
def training_bytes(answer: Callable[..., int]) -> None:
    """Number of parameters, how many train, bytes of a number -> bytes of training with AdamW."""
    expect(answer(1000, 0) == 4000, "the weights alone, where nothing trains")
    expect(answer(1000, 1000) == 16000, "full tuning: weight, gradient and two of AdamW's each")
    expect(answer(1000, 10) == 4120, "frozen weights have no gradient and nothing in the optimizer")
    expect(answer(1000, 1000, size=2) == 8000, "all numbers have `size` bytes")


@exercise(
    "build",
    hints=(
        "For one matrix of shape (out, in): A is (rank, in), B is (out, rank).",
        "A has rank x in numbers, B has out x rank; both are trained.",
        "`sum(rank * (out + inn) for out, inn in shapes)`.",
    ),
    solution="""
def lora_numbers(shapes, rank):
    return sum(rank * (outputs + inputs) for outputs, inputs in shapes)
""",
    why="It grows with the sides of a matrix, not with its area: the wider, the smaller the share.",
)
def lora_numbers(answer: Callable[[list[tuple[int, int]], int], int]) -> None:
    """Shapes (out, in) of the matrices, rank -> how many numbers LoRA trains."""
    expect(answer([(128, 128)], 1) == 256, "a row of A and a column of B for each rank")
    expect(answer([(128, 128)], 8) == 2048, "rank times both")
    expect(answer([(384, 128)], 8) == 4096, "outputs and inputs may differ")
    expect(answer([(64, 128), (128, 64), (128, 384)], 4) == 3584, "all matrices together")
    expect(answer([], 8) == 0, "no matrix, no numbers")
    # Qwen2.5-7B: 28 layers, q_proj 3584 x 3584, v_proj 512 x 3584
    expect(answer([(3584, 3584), (512, 3584)] * 28, 8) == 2_523_136, "a 7B model, q and v")


@exercise(
    "explore",
    hints=(
        "For each name: the length of after - before, divided by the length of before.",
        "Length: the root of the sum of squares, `tensor.norm()`.",
        "`max(before, key=lambda name: (after[name] - before[name]).norm() / ...)`.",
    ),
    solution="""
def moved_most(before, after):
    def moved(name):
        return float((after[name] - before[name]).norm() / before[name].norm())

    return max((name for name in before if before[name].norm() > 0), key=moved)
""",
    why="A relative change compares large matrices with small ones.",
)
def moved_most(answer: Callable[[dict[str, Any], dict[str, Any]], str]) -> None:
    """Two state dicts with the same names -> the name of the tensor that moved most."""
    import torch

    ones = torch.ones
    before = {"a": ones(4, 4), "b": ones(4, 4), "c": ones(4, 4)}
    after = {"a": ones(4, 4), "b": 1.5 * ones(4, 4), "c": 1.1 * ones(4, 4)}
    expect(isinstance(answer(before, after), str), "a name")
    expect(answer(before, after) == "b", "the tensor with the longest change")
    fallen = {"a": ones(4, 4), "b": 1.1 * ones(4, 4), "c": 0.5 * ones(4, 4)}
    expect(answer(before, fallen) == "c", "weights that fall have moved too")
    signs = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    pushed = ({"a": ones(2, 2), "b": ones(2, 2)}, {"a": ones(2, 2) + signs, "b": 1.5 * ones(2, 2)})
    expect(answer(*pushed) == "a", "ups and downs do not cancel out")
    sizes = ({"a": 100 * ones(4), "b": ones(4)}, {"a": 101 * ones(4), "b": 1.5 * ones(4)})
    expect(answer(*sizes) == "b", "the change counts relative to the tensor's own length")
    wide = ({"a": ones(1000), "b": ones(4)}, {"a": 1.1 * ones(1000), "b": 1.5 * ones(4)})
    expect(answer(*wide) == "b", "a larger tensor does not win by its size")
    single = torch.tensor([3.0, 1.0, 1.0, 1.0])
    one = ({"a": ones(4), "b": ones(4)}, {"a": single, "b": 2.5 * ones(4)})
    expect(answer(*one) == "b", "the whole tensor counts, not its largest entry")
    zero = ({"a": torch.zeros(4), "b": ones(4)}, {"a": torch.zeros(4), "b": 1.1 * ones(4)})
    expect(answer(*zero) == "b", "a tensor of zeros has no relative change")
