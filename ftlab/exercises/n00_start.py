"""Exercises of notebooks/00_start_here.ipynb."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "The loss is minus the natural logarithm of the probability. Turn that around.",
        "If `loss = -log(p)`, then `log(p) = -loss`. Which function undoes a logarithm?",
        "`math.exp` undoes `math.log`; mind the minus.",
    ),
    solution="""
import math


def probability(loss):
    return math.exp(-loss)
""",
    why="Loss and probability are one number on two scales: every 0.7 of loss halves it.",
)
def probability(answer: Callable[[float], float]) -> None:
    """Loss in nats per token -> probability of the right token (geometric mean)."""
    expect(math.isclose(answer(0.0), 1.0), "a loss of 0 is certainty: probability 1")
    near, far = answer(1.0), answer(5.0)
    expect(near > far, "a higher loss is a lower probability", yours=f"{near:.4g} and {far:.4g}")
    expect(0 < answer(9.0) < 1, "a probability, above 0 and below 1, for a high loss too")
    even = answer(math.log(2))
    expect(math.isclose(even, 0.5), "one half for a loss of ln 2: an even chance of two tokens")
    flat = answer(math.log(2048))
    expect(math.isclose(flat, 1 / 2048), "1 in 2,048 for a loss of ln 2,048: blind guessing")


@exercise(
    "build",
    hints=(
        "Each weight has its own gradient; go through both lists together.",
        "The gradient points to where the loss grows. You want it to shrink.",
        "`weight - learning_rate * gradient` for each pair of `zip(weights, gradients)`.",
    ),
    solution="""
def one_step(weights, gradients, learning_rate):
    pairs = zip(weights, gradients)
    return [weight - learning_rate * gradient for weight, gradient in pairs]
""",
    why="Against the gradient, scaled by the learning rate: every optimizer grows from this line.",
)
def one_step(answer: Callable[[list[float], list[float], float], list[float]]) -> None:
    """Weights, their gradients and a learning rate -> the weights after one step."""

    def close(yours: object, wanted: list[float]) -> bool:
        values = list(yours)  # type: ignore[call-overload]
        return all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(values, wanted, strict=True))

    weights, gradients = [1.0, -2.0, 0.5], [0.5, -1.0, 0.0]
    expect(len(answer(weights, gradients, 0.1)) == 3, "one new weight for each weight")
    expect(close(answer(weights, gradients, 0.0), weights), "a learning rate of 0 moves nothing")
    still = answer(weights, [0.0, 0.0, 0.0], 0.1)
    expect(close(still, weights), "a weight with a gradient of 0 stays where it is")
    up, down = answer([0.0], [1.0], 0.1)[0], answer([0.0], [-1.0], 0.1)[0]
    expect(up < 0 < down, "a step against the gradient", given="gradients 1 and -1",
           yours=f"{up:g} and {down:g}")  # fmt: skip
    expect(close(answer([0.0], [1.0], 0.2), [2 * up]), "twice the learning rate moves twice as far")
    expect(close(answer([0.0], [3.0], 0.1), [3 * up]), "three times the gradient moves three times")
    expect(close(answer(weights, gradients, 0.1), [0.95, -1.9, 0.5]), "the exact new weights")


def _curve(start: float, end: float, speed: float, noise: float, steps: int = 60) -> list[float]:
    """A loss that goes from `start` towards `end`, with the noise of its batches."""
    draw = random.Random(0)
    fall = [end + (start - end) * math.exp(-speed * step / steps) for step in range(steps)]
    return [max(0.0, value * (1 + draw.uniform(-noise, noise))) for value in fall]


@exercise(
    "explore",
    hints=(
        "Where does the loss end, compared with where it began and with the lowest it has been?",
        "One batch is noise: compare averages, say of the first, the last and the best fifth.",
        "Not finite, or the last average above the first loss, or far above the lowest average:"
        " too high. Else, the last average more than half of the first loss: too low.",
    ),
    solution="""
import math


def diagnose(losses):
    if not all(math.isfinite(loss) for loss in losses):
        return "too high"
    size = max(1, len(losses) // 5)
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    means = [sum(part) / len(part) for part in parts]
    untrained, last = losses[0], means[-1]
    if last > 1.2 * untrained or last > 2 * min(means):
        return "too high"
    return "too low" if last > 0.5 * untrained else "good"
""",
    why="Ratios of averages judge any model's curve; a threshold or a single batch does not.",
)
def diagnose(answer: Callable[[list[float]], str]) -> None:
    """The losses of a run, one for each step -> "too high", "too low" or "good"."""
    good = _curve(5.0, 0.3, 12, 0.1)
    slow = _curve(5.0, 4.0, 2, 0.05)
    jumps = [3.4, 1.8, *_curve(17.0, 5.6, 15, 0.1, 58)]
    back = _curve(5.0, 0.3, 12, 0.1, 20) + _curve(0.3, 1.5, 8, 0.1, 40)
    words = ("too high", "too low", "good")
    expect(answer(good) in words, 'one of the words "too high", "too low", "good"')
    cases = [
        (good, "good", "a loss that falls and stays low is good"),
        (slow, "too low", "a loss that hardly falls has a rate that is too low"),
        ([*good[:20], math.nan], "too high", "a loss that is no number (NaN) is too high a rate"),
        ([*good[:20], math.inf], "too high", "an infinite loss is too high a rate"),
        (_curve(5.0, 9.0, 4, 0.1), "too high", "a loss that climbs is too high a rate"),
        (back, "too high", "a loss that falls and then climbs back is too high a rate"),
        (jumps, "too high", "a loss that jumps up and stays above its start is too high a rate"),
        ([*good[:-1], 8 * good[-1]], "good", "one noisy batch at the end changes nothing"),
        ([*good[:-1], 0.0], "good", "one lucky batch at the end changes nothing"),
        (_curve(30.0, 8.0, 12, 0.1), "good", "only the shape counts: from 30 to 8 is a fall"),
        (_curve(0.5, 0.4, 2, 0.05), "too low", "only the shape counts: 0.5 to 0.4 is slow"),
        (_curve(5.0, 0.3, 12, 0.1, 20), "good", "a short run is judged like a long one"),
        (_curve(5.0, 0.3, 12, 0.1, 400), "good", "a long run is judged like a short one"),
    ]
    for losses, verdict, wanted in cases:
        said = answer(losses)
        shown = f"{len(losses)} losses, {losses[0]:.2g} ... {losses[-1]:.2g}"
        expect(said == verdict, wanted, given=shown, yours=said)
