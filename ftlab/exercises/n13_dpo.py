"""Exercises of notebooks/13_dpo.ipynb."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ftlab.exercises.engine import exercise, expect

Pairs = list[tuple[float, float]]


@exercise(
    "start",
    hints=(
        "A reward is what the model gained over the reference, not how likely the answer is.",
        "For each pair, subtract the reference's two numbers from the model's two.",
        "Count the pairs whose first difference is larger than the second; divide by all pairs.",
    ),
    solution="""
def ranked_right(model, reference):
    wins = 0
    for (chosen, rejected), (old_chosen, old_rejected) in zip(model, reference):
        wins += chosen - old_chosen > rejected - old_rejected
    return wins / len(model)
""",
    why="A short answer is likelier than a long one from the start: only the change tells.",
)
def ranked_right(answer: Callable[[Pairs, Pairs], float]) -> None:
    """(chosen, rejected) log-probabilities by model and reference -> share ranked right."""
    share = answer([(-1.0, -2.0)], [(-1.0, -1.0)])
    expect(share == 1, "the rejected answer lost, the chosen did not: ranked right", yours=share)
    share = answer([(-9.0, -2.0)], [(-12.0, -2.0)])
    expect(share == 1, "what counts is the gain over the reference", yours=share)
    share = answer([(-5.0, -9.0)], [(-1.0, -1.0)])
    expect(share == 1, "both may fall: the rejected one fell further", yours=share)
    share = answer([(-3.0, -4.0)], [(-3.0, -4.0)])
    expect(share == 0, "equal rewards are not ranked right: nothing was learned", yours=share)
    share = answer([(-1.0, -2.0), (-2.0, -1.0)] * 2, [(-1.5, -1.5)] * 4)
    expect(share == 0.5, "a share of all pairs, between 0 and 1", yours=share)


def _smoothed(margin: float, smoothing: float) -> float:
    def cost(x: float) -> float:  # -log sigmoid(x)
        return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))

    return (1 - smoothing) * cost(margin) + smoothing * cost(-margin)


@exercise(
    "build",
    hints=(
        "A label is wrong with probability `smoothing`: then the rejected answer is the better.",
        "Weigh two losses: that of the margin with 1 - smoothing, that of -margin with smoothing.",
        "`F.logsigmoid(x)` stays exact where `torch.sigmoid(x).log()` becomes minus infinity.",
    ),
    solution="""
import torch.nn.functional as F


def smoothed_dpo(chosen, rejected, beta, smoothing):
    margin = beta * (chosen - rejected)
    right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - smoothing) * right + smoothing * wrong).mean()
""",
    why="With smoothing the loss has a lowest point: it no longer pushes margins without end.",
)
def smoothed_dpo(answer: Callable[[Any, Any, float, float], Any]) -> None:
    """Gains over the reference in nats [pairs], beta, share of wrong labels -> the mean loss."""
    import torch

    def asked(chosen: Sequence[float], rejected: Sequence[float], beta: float, e: float) -> float:
        loss = answer(torch.tensor(chosen), torch.tensor(rejected), beta, e)
        number = isinstance(loss, torch.Tensor) and loss.ndim == 0
        expect(number, "one number for the batch: a tensor without dimensions")
        return float(loss)

    def expected(
        chosen: Sequence[float], rejected: Sequence[float], beta: float, e: float
    ) -> float:
        pairs = list(zip(chosen, rejected, strict=True))
        return sum(_smoothed(beta * (a - b), e) for a, b in pairs) / len(pairs)

    cases = [
        (([0.0], [0.0], 0.1, 0.0), "no margin: log 2"),
        (([2.0], [-1.0], 1.0, 0.0), "the chosen answer ahead: a loss below log 2"),
        (([2.0], [-1.0], 0.1, 0.0), "beta multiplies the margin"),
        (([2.0, -4.0], [-1.0, 0.0], 0.1, 0.0), "the mean over pairs"),
        (([2.0], [-1.0], 1.0, 0.25), "a quarter of the labels is wrong"),
        (([-900.0], [900.0], 0.5, 0.1), "a margin far below zero gives a large, finite loss"),
    ]
    for given, words in cases:
        loss = asked(*given)
        right = math.isclose(loss, expected(*given), rel_tol=1e-4, abs_tol=1e-6)
        expect(right, words, given=given, yours=loss)


@exercise(
    "explore",
    hints=(
        "The first record has the model at its start: there the log-probability is the usual one.",
        "Rewards are in units of beta: divide by it to get nats.",
        "Look at the mean of `rewards/chosen` over the last `window` records up to each step.",
    ),
    solution="""
def chosen_alarm(history, beta, nats, window=3):
    for end in range(window, len(history) + 1):
        last = [record["rewards/chosen"] / beta for record in history[end - window : end]]
        if sum(last) / window < -nats:
            return history[end - 1]["step"]
    return 0
""",
    why="It needs no generation and no second model, and it rings where KL is still calm.",
)
def chosen_alarm(answer: Callable[..., int]) -> None:
    """A run's history, beta, a limit in nats -> the first step where chosen answers lost more."""

    def asked(rewards: Sequence[float], beta: float, nats: float, window: int) -> int:
        history = [{"step": 10 * i, "rewards/chosen": r} for i, r in enumerate(rewards, 1)]
        return answer(history, beta, nats, window)

    fall = [0.0, -1.0, -2.0, -3.0, -4.0]
    step = asked(fall, 1.0, 1.5, 1)
    expect(step == 30, "with window 1, the `step` of the first record below the limit", yours=step)
    step = asked(fall, 1.0, 1.5, 3)
    expect(step == 40, "the mean of the last `window` records counts", yours=step)
    step = asked([r / 10 for r in fall], 0.1, 1.5, 3)
    expect(step == 40, "rewards are in units of beta, the limit is in nats", yours=step)
    step = asked([0.0, 3.0, 4.0, 5.0], 1.0, 1.5, 3)
    expect(step == 0, "chosen answers that gain ring no alarm: 0", yours=step)
    step = asked([0.0, -9.0, 0.5, 0.4, 0.6], 1.0, 4.0, 3)
    expect(step == 0, "one bad record is no trend", yours=step)
    step = asked([-9.0], 1.0, 1.0, 3)
    expect(step == 0, "fewer records than the window: no verdict yet", yours=step)
