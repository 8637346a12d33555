"""Exercises of notebooks/12_reward_model_and_ppo.ipynb."""

from __future__ import annotations

import math
from collections.abc import Callable

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Only the difference of the two scores counts.",
        "The sigmoid of the difference: 1 / (1 + e^-d).",
        "e^-d overflows for a large negative d: use e^d / (1 + e^d) there.",
    ),
    solution="""
import math


def preferred(first, second):
    d = first - second
    if d < 0:
        return math.exp(d) / (1 + math.exp(d))
    return 1 / (1 + math.exp(-d))
""",
    why="The reward loss is minus the log of this number, on average over pairs.",
)
def preferred(answer: Callable[[float, float], float]) -> None:
    """Two scores -> the probability that people prefer the first answer."""
    expect(abs(answer(1.5, 1.5) - 0.5) < 1e-9, "equal scores: nobody knows")
    both = answer(0.7, -0.4), answer(-0.4, 0.7)
    expect(both[0] > both[1], "the higher score wins more often", yours=both)
    expect(abs(sum(both) - 1) < 1e-9, "one of the two is preferred: both orders sum to 1")
    moved = answer(100.7, 99.6)
    expect(abs(moved - both[0]) < 1e-6, "adding 100 to both scores changes nothing", yours=moved)
    odds = math.log(both[0] / both[1])
    expect(abs(odds - 1.1) < 1e-6, "the log of the odds is the difference of scores", yours=odds)
    for scores in ((1000.0, -1000.0), (-1000.0, 1000.0)):
        far = answer(*scores)
        expect(abs(far - (scores[0] > 0)) < 1e-9, "scores far apart leave no doubt", yours=far)


@exercise(
    "build",
    hints=(
        "In each order, ask whether the judge named your answer.",
        'Yours is "A" in the first list and "B" in the second.',
        "Each pair is worth the mean of both orders; the rate is the mean over pairs.",
    ),
    solution="""
def fair_win_rate(shown_first, shown_second):
    wins = [(a == "A") + (b == "B") for a, b in zip(shown_first, shown_second)]
    return sum(wins) / (2 * len(wins))
""",
    why="A judge that always names one place gets 50 %: its habit no longer counts.",
)
def fair_win_rate(answer: Callable[[list[str], list[str]], float]) -> None:
    """Replies with your answer shown as A, then as B -> your win rate."""

    def rate(first: str, second: str, wanted: float, words: str) -> None:
        found = answer(list(first), list(second))
        expect(abs(found - wanted) < 1e-9, words)

    rate("AA", "BB", 1.0, "named in both orders, every time: you win all")
    rate("BB", "AA", 0.0, "never named: you win none")
    rate("AAA", "AAA", 0.5, "a judge that always says A says nothing about answers")
    rate("BB", "BB", 0.5, "a judge that always says B says nothing about answers")
    rate("AABA", "BABA", 0.625, "a contradiction is half a win, the others a whole one or none")


@exercise(
    "explore",
    hints=(
        "Keep one coefficient, and change it once for each KL.",
        "`error = kl / target - 1`, held between -0.2 and 0.2; then `coefficient *= 1 + error`.",
        "Append the coefficient after the change; `min(max(error, -0.2), 0.2)` holds it.",
    ),
    solution="""
def kl_prices(kls, target, start):
    prices, price = [], start
    for kl in kls:
        error = min(max(kl / target - 1, -0.2), 0.2)
        price *= 1 + error
        prices.append(price)
    return prices
""",
    why="Zero times 1.2 stays zero: a price of 0 never wakes up. And at 20 % a round a price takes "
    "four rounds to double: a rate that is too high is faster.",
)
def kl_prices(answer: Callable[[list[float], float, float], list[float]]) -> None:
    """KL of each round, the target, the first coefficient -> the coefficient after each round."""

    def prices(
        kls: list[float], target: float, start: float, wanted: list[float], words: str
    ) -> None:
        found = answer(kls, target, start)
        expect(len(found) == len(kls), "one coefficient for each round")
        expect(all(abs(a - b) < 1e-9 for a, b in zip(found, wanted, strict=True)), words)

    prices([6.0], 6.0, 0.1, [0.1], "at the target the price stays")
    prices([6.6], 6.0, 0.1, [0.11], "10 % above the target: 10 % dearer")
    prices([5.4], 6.0, 0.1, [0.09], "10 % below the target: 10 % cheaper")
    prices([600.0], 6.0, 0.1, [0.12], "20 % dearer in one round at most")
    prices([0.0], 6.0, 0.1, [0.08], "20 % cheaper in one round at most")
    prices([60.0, 60.0, 3.0], 6.0, 1.0, [1.2, 1.44, 1.152], "each round starts from the last price")
