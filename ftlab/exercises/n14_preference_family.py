"""Exercises of notebooks/14_preference_family.ipynb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "The mean of the others leaves the answer itself out: of sum and of number.",
        "The others of `r` add up to `sum(rewards) - r`; there are `len(rewards) - 1`.",
        "`[r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]`.",
    ),
    solution="""
def leave_one_out(rewards):
    n, total = len(rewards), sum(rewards)
    return [r - (total - r) / (n - 1) for r in rewards]
""",
    why="The baseline does not depend on the answer itself, so it cannot bias the gradient.",
)
def leave_one_out(answer: Callable[[list[float]], Sequence[float]]) -> None:
    """Rewards of a group -> the RLOO advantage of each answer."""
    found = [float(x) for x in answer([1.0, 0.0])]
    expect(len(found) == 2, "one advantage for each reward")
    expect(found[0] > 0 > found[1], "the better answer has the positive advantage")
    expect(_near(found, [1, -1]), "the mean of the *others*: the answer itself is not in it")
    found = [float(x) for x in answer([2.0, 2.0, 2.0])]
    expect(_near(found, [0, 0, 0]), "a group of equal rewards has no advantage")
    found = [float(x) for x in answer([3.0, 0.0, 0.0])]
    expect(_near(found, [3, -1.5, -1.5]), "distances as they are, not in units of the spread")


def _near(found: Sequence[float], wanted: Sequence[float]) -> bool:
    if len(found) != len(wanted):
        return False
    return all(abs(a - b) < 1e-5 for a, b in zip(found, wanted, strict=True))


@exercise(
    "build",
    hints=(
        "The loss of section 3 for each row; the sign of the gain depends on the label.",
        "`gain = beta * (ratios - z)`; use it where good, `-gain` where bad (`torch.where`).",
        "Weights by `torch.where` too; then the mean of `weights * (1 - gain.sigmoid())`.",
    ),
    solution="""
import torch


def kto_loss(ratios, labels, z, beta, good_weight, bad_weight):
    gain = beta * (ratios - z)
    gain = torch.where(labels, gain, -gain)
    weights = torch.where(labels, good_weight, bad_weight)
    return (weights * (1 - gain.sigmoid())).mean()
""",
    why="With twice as many good labels as bad ones, a double weight of the bad evens them out.",
)
def kto_loss(answer: Callable[..., Any]) -> None:
    """Log-ratios [n], labels [n] (bool), z, beta, two weights -> KTO's mean loss."""
    import torch

    labels = torch.tensor([True, False])
    good, bad = labels[:1], labels[1:]
    ratios = torch.tensor([4.0, 4.0], requires_grad=True)
    loss = answer(ratios, labels, 4.0, 0.1, 1.0, 1.0)
    expect(getattr(loss, "ndim", 1) == 0, "one number (a tensor without dimensions): the mean")
    (pushed,) = torch.autograd.grad(loss, ratios)
    expect(pushed[0] < 0 < pushed[1], "good answers are pushed up, bad ones down", yours=pushed)
    for one in (good, bad):
        loss = answer(torch.tensor([4.0]), one, 4.0, 0.1, 1.0, 1.0)
        expect(_same(loss, 0.5), "at the point z every loss is one half")
    loss = answer(torch.tensor([4.0, 4.0]), labels, 4.0, 0.1, 1.0, 1.0)
    expect(_same(loss, 0.5), "the mean over the rows")
    far = answer(torch.tensor([1e4]), good, 0.0, 0.1, 1.0, 1.0)
    expect(_same(far, 0.0), "no loss is left for a good answer that gained very much")
    one = answer(torch.tensor([3.0]), good, 1.0, 0.5, 1.0, 1.0)
    expect(_same(one, 0.2689414), "beta times the distance from z, through a sigmoid")
    apart = torch.tensor([14.0, 4.0])  # losses 0.2689 (good) and 0.5 (bad)
    heavy = answer(apart, labels, 4.0, 0.1, 2.0, 1.0)
    expect(_same(heavy, 0.5189414), "good answers count with `good_weight`, divided by all rows")
    heavy = answer(apart, labels, 4.0, 0.1, 1.0, 3.0)
    expect(_same(heavy, 0.8844707), "bad answers count with `bad_weight`, divided by all rows")


def _same(loss: Any, wanted: float) -> bool:
    return abs(float(loss) - wanted) < 1e-5


Pairs = Iterable[tuple[str, str]]


@exercise(
    "explore",
    hints=(
        "Look at every two answers once; the scores say which of them comes first.",
        "Two loops over `zip(answers, scores)`: keep (a, b) where a's score is higher by `gap`.",
        "Collect the pairs in a set: the same two texts may have been sampled several times.",
    ),
    solution="""
def pairs_of_group(answers, scores, gap):
    scored = list(zip(answers, scores, strict=True))
    return {
        (a, b)
        for a, high in scored
        for b, low in scored
        if a != b and high > low and high - low >= gap
    }
""",
    why="A group of eight can hold 28 pairs: offline methods can eat what online ones sample.",
)
def pairs_of_group(answer: Callable[[list[str], list[float], float], Pairs]) -> None:
    """Answers, their scores, the least difference -> pairs of texts (better, worse)."""
    found = _listed(answer(["a", "b"], [0.0, 1.0], 0.5))
    expect(found == [("b", "a")], "one pair, the better text first", yours=found)
    found = _listed(answer(["a", "b", "c"], [0.0, 0.5, 1.0], 0.5))
    wanted = [("b", "a"), ("c", "a"), ("c", "b")]
    expect(found == wanted, "every two answers that are `gap` or more apart", yours=found)
    found = _listed(answer(["a", "b", "c"], [0.0, 0.5, 1.0], 0.75))
    expect(found == [("c", "a")], "answers closer than `gap` make no pair", yours=found)
    found = _listed(answer(["a", "b"], [1.0, 1.0], 0.0))
    expect(found == [], "equal scores are a tie, whatever the gap", yours=found)
    found = _listed(answer(["a", "b", "b", "a"], [0.0, 1.0, 1.0, 0.0], 0.5))
    expect(found == [("b", "a")], "a text that was sampled twice makes no second pair", yours=found)


def _listed(pairs: Pairs) -> list[tuple[str, ...]]:
    return sorted(tuple(pair) for pair in pairs)
