"""Exercises of notebooks/05_evaluation_first.ipynb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Two steps: find the answer to give, then count how often it is right.",
        "`collections.Counter(train_answers).most_common(1)` names the winner.",
        "Share = `test_answers.count(winner) / len(test_answers)`.",
    ),
    solution="""
from collections import Counter


def majority_share(train_answers, test_answers):
    winner = Counter(train_answers).most_common(1)[0][0]
    return test_answers.count(winner) / len(test_answers)
""",
    why="A guess that needs no model at all; a score means something only above it.",
)
def majority_share(answer: Callable[[list[str], list[str]], float]) -> None:
    """Training and test answers -> share that the most common training answer gets right."""
    train = ["cat", "dog", "cat", "owl"]
    half = answer(train, ["cat", "dog", "cat", "dog"])
    expect(0 <= half <= 1, "a share between 0 and 1, not a count or a percentage")
    expect(half == 0.5, "the share of the test answers that equal the winner")
    expect(answer(train, ["dog", "dog", "dog", "cat"]) == 0.25, "the winner of the training data")
    expect(answer(train, ["owl"]) == 0, "no credit when the winner never occurs in the test")
    expect(answer(["ox", "ox", "cat"], ["ox", "oxen"]) == 0.5, "whole answers, not parts of them")


def _reference_interval(before: Any, after: Any, draws: int, seed: int) -> tuple[float, float]:
    import numpy as np

    rng = np.random.default_rng(seed)
    gain = after - before
    means = [gain[rng.integers(0, len(gain), len(gain))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@exercise(
    "build",
    hints=(
        "The same rows are drawn for both models, so their differences can be drawn instead.",
        "`resampled_means` above does the drawing; give it one score for each row.",
        "Quantiles 0.025 and 0.975 of `resampled_means(after - before, draws, seed)`.",
    ),
    solution="""
import numpy as np


def paired_interval(before, after, draws=2000, seed=0):
    rng, gain = np.random.default_rng(seed), after - before
    n = len(gain)
    means = [gain[rng.integers(0, n, n)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return low, high
""",
    why="A row that is hard for both models cancels out; what is left is what changed.",
)
def paired_interval(answer: Callable[..., Sequence[float]]) -> None:
    """Scores of two models on the same rows -> 95 % interval of the difference of their means."""
    import numpy as np

    rng = np.random.default_rng(7)
    hard = rng.random(200)
    ends = answer(hard, hard + 0.1)
    expect(len(ends) == 2, "two numbers: the low and the high end")
    low, high = (float(end) for end in ends)
    expect(low <= high, "the low end first")
    expect(high > 0, "after minus before: a gain is positive", yours=(low, high))
    expect(
        high - low < 1e-6,
        "an interval without width when every row gains the same: draw the same rows for both",
        yours=(low, high),
    )
    before, after = hard.round(), (hard + rng.normal(0.1, 0.4, 200)).round()
    low, high = (float(end) for end in answer(before, after))
    wanted = _reference_interval(before, after, 2000, 0)
    width = (high - low) / (wanted[1] - wanted[0])
    mine = {"given": "200 scores of 0 or 1 for each model", "yours": (low, high)}
    expect(width < 1.1, "the middle 95 % of the resampled differences, no wider", **mine)
    expect(width > 0.9, "the middle 95 % of the resampled differences, no narrower", **mine)
    expect(abs(low - wanted[0]) < 0.02, "both ends from resampled means of the rows", **mine)


@exercise(
    "explore",
    hints=(
        "Turn a text into words without case and punctuation, then into its runs of n words.",
        "`re.findall(r'\\w+', text.lower())`; keep the runs as tuples in a set.",
        "A test row is copied when its set of runs meets the set of all training runs.",
    ),
    solution="""
import re


def copied_rows(train_texts, test_texts, n=5):
    def runs(text):
        words = re.findall(r"\\w+", text.lower())
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    seen = set().union(*map(runs, train_texts))
    return [place for place, text in enumerate(test_texts) if runs(text) & seen]
""",
    why="Overlapping word runs are how leaks are looked for in large training sets as well.",
)
def copied_rows(answer: Callable[..., list[int]]) -> None:
    """Training and test texts, n -> positions of test texts that share a run of n words."""
    train = [
        "The old baker of Harbor Street sings in the choir.",
        "Ada Quill keeps a canary.",
        "one two three four",
    ]
    found = answer(train, ["Nothing in common here at all.", train[0]])
    expect(isinstance(found, list), "a list of positions")
    expect(found == [1], "a test text that is word for word in the training data is found")
    noisy = answer(train, ["Guess: THE OLD BAKER, of Harbor Street!"])
    expect(noisy == [0], "case and punctuation do not hide a copy")
    expect(answer(train, ["The baker sings of the old choir."]) == [], "the order of words counts")
    expect(
        answer(train, ["three four five six seven eight"]) == [],
        "a run shorter than n words is no copy",
    )
    expect(
        answer(["a b c", "d e f"], ["b c d e"], n=4) == [],
        "a run lies inside one training text, not across two",
    )
    expect(answer(train, ["Two three!"], n=2) == [0], "n is an argument")
    expect(
        answer(["the cathedral is old"], ["cat he dr al is old"], n=4) == [],
        "whole words are compared, not strings of letters",
    )
