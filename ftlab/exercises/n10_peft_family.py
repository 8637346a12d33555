"""Exercises of notebooks/10_peft_family.ipynb."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Write the shapes down: a prompt is `size` vectors as wide as the model; a prefix has a "
        "key and a value for each of `size` places in each layer.",
        "IA3 has one number for each key, each value and each number inside the MLP. A bottleneck "
        "is a down and an up matrix with a bias each, at two places in a layer.",
        "A bottleneck: `2 * hidden * size` weights, `size + hidden` biases, times `2 * layers`.",
    ),
    solution="""
def trained_numbers(method, layers, hidden, keys, inside, size):
    if method == "prompt":
        return size * hidden
    if method == "prefix":
        return layers * 2 * size * keys
    if method == "ia3":
        return layers * (2 * keys + inside)
    return layers * 2 * (2 * hidden * size + size + hidden)
""",
    why="Only the prompt's size does not grow with the number of layers.",
)
def trained_numbers(answer: Callable[..., int]) -> None:
    """Method, layers, widths (hidden, keys, inside the MLP), size -> how many numbers train."""
    tiny = {"layers": 4, "hidden": 128, "keys": 64, "inside": 384}

    def told(method: str, size: int = 20, **change: int) -> int:
        shape = tiny | change
        return answer(
            method, shape["layers"], shape["hidden"], shape["keys"], shape["inside"], size
        )

    expect(told("prompt") == 20 * 128, "a prompt is `size` vectors, each as wide as the model")
    expect(told("prompt", layers=8) == 20 * 128, "a prompt stands before the first layer only")
    expect(told("prefix", layers=8) == 2 * told("prefix"), "every layer has a prefix of its own")
    expect(told("prefix") != 4 * 20 * 64, "a prefix has keys and values")
    expect(told("prefix") == 4 * 2 * 20 * 64, "a prefix is as wide as keys are, not as the model")
    expect(told("ia3", size=99) == told("ia3"), "IA3 has no size to choose")
    expect(told("ia3") == 4 * (64 + 64 + 384), "IA3: a number per key, value and inside number")
    small, wide = told("bottleneck", size=0), told("bottleneck", size=64)
    expect(wide - small >= 4 * 2 * 2 * 128 * 64, "two matrices (down, up) at two places in a layer")
    expect(wide == 4 * 2 * (2 * 128 * 64 + 64 + 128), "down and up have a bias each")


@exercise(
    "build",
    hints=(
        "Three things get longer by `len(prompt)`, all at the front: vectors, mask and labels.",
        "`prompt.expand(batch, -1, -1)` repeats it for each row; `torch.cat` along dimension 1.",
        "`F.pad(mask, (n, 0), value=1)`; labels the same way with -100: nobody trains to say it.",
    ),
    solution="""
import torch
import torch.nn.functional as F


def with_prompt(prompt, vectors, mask, labels):
    n = len(prompt)
    vectors = torch.cat([prompt.expand(len(vectors), -1, -1), vectors], dim=1)
    return vectors, F.pad(mask, (n, 0), value=1), F.pad(labels, (n, 0), value=-100)
""",
    why="This is all of prompt tuning: the gradient flows through the model into these vectors.",
)
def with_prompt(answer: Callable[[Any, Any, Any, Any], Any]) -> None:
    """Prompt [n, width], vectors [rows, length, width], mask, labels -> the three, n longer."""
    import torch

    prompt = torch.arange(6.0).reshape(2, 3).requires_grad_()
    vectors = 10 + torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, 8, -100]])
    found = answer(prompt, vectors.clone(), mask.clone(), labels.clone())
    expect(isinstance(found, tuple) and len(found) == 3, "three tensors: vectors, mask, labels")
    shapes = [tuple(tensor.shape) for tensor in found]
    expect(
        shapes == [(2, 6, 3), (2, 6), (2, 6)],
        "each of the three is as many places longer as the prompt has vectors",
        yours=shapes,
    )
    longer, new_mask, new_labels = found
    expect(torch.equal(longer[:, 2:], vectors), "the rows' own vectors stand after the prompt")
    same = all(torch.equal(row[:2], prompt) for row in longer)
    expect(same, "each row begins with the prompt, in its order")
    expect(
        bool((new_mask[:, :2] == 1).all()),
        "the mask is 1 where the prompt is",
        yours=new_mask.tolist(),
    )
    expect(torch.equal(new_mask[:, 2:], mask), "padding stays padding")
    expect(
        bool((new_labels[:, :2] == -100).all()),
        "no label where the prompt is: the model reads it, it does not learn to write it",
        yours=new_labels.tolist(),
    )
    expect(torch.equal(new_labels[:, 2:], labels), "the rows' own labels stand after the prompt's")
    expect(longer.requires_grad, "the prompt can learn: its gradient is not cut off")


Table = dict[str, tuple[float, float]]


@exercise(
    "explore",
    hints=(
        "Take one method and look for another that makes it pointless.",
        "Another beats it with no more parameters and no lower score, if one of the two is better.",
        "Keep a name unless `any(...)` of the others beats it; two equal ones both stay.",
    ),
    solution="""
def pareto(table):
    def beaten(parameters, score):
        return any(
            p <= parameters and s >= score and (p, s) != (parameters, score)
            for p, s in table.values()
        )

    return {name for name, pair in table.items() if not beaten(*pair)}
""",
    why="Everything off the front costs more than it must. Intervals say how sure the front is.",
)
def pareto(answer: Callable[[Table], Iterable[str]]) -> None:
    """Name -> (trainable parameters, score); gives the names that no other beats in both."""
    plain: Table = {"small": (10, 0.2), "middle": (50, 0.6), "large": (90, 0.9)}
    cases: list[tuple[str, Table, set[str]]] = [
        ("one method alone is never beaten", {"only": (10, 0.5)}, {"only"}),
        ("more parameters and a higher score is a choice, not a defeat", plain, set(plain)),
        (
            "more parameters and a lower score is beaten",
            {**plain, "waste": (70, 0.5)},
            set(plain),
        ),
        (
            "as many parameters and a lower score is beaten",
            {**plain, "weak": (50, 0.5)},
            set(plain),
        ),
        ("more parameters for the same score is beaten", {**plain, "fat": (60, 0.6)}, set(plain)),
        (
            "two that are equal in both do not beat each other",
            {**plain, "twin": (50, 0.6)},
            {*plain, "twin"},
        ),
        (
            "the best score beats nobody who has fewer parameters",
            {"a": (1, 0), "b": (2, 1)},
            {*"ab"},
        ),
    ]
    for wanted, table, names in cases:
        found = answer(dict(table))
        expect(not isinstance(found, str | dict), "a set or list of names", yours=found)
        expect(set(found) == names, wanted, given=table, yours=sorted(map(str, found)))
