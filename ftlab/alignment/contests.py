"""Answers against answers: how often one side wins, how far judges agree, pairs to learn from.

Taught in notebooks/12_reward_model_and_ppo.ipynb and notebooks/16_evaluation.ipynb.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ftlab.alignment import asking
from ftlab.alignment.judges import Judge, Scorer, Verdict, as_judge
from ftlab.chat import asked
from ftlab.data import Data
from ftlab.errors import DataError, RecipeError
from ftlab.evaluate import Scores, wilson
from ftlab.generate import generate

Row = dict[str, Any]


class WinRate(Scores):
    """How often the answers win; a tie counts half. ``value``, ``low``, ``high`` as in Scores.

    The interval is Wilson's with a tie as half a win (a little too wide where there are ties, as a
    tie varies less than a win and a loss). ``unreadable`` rows are left out of it and counted.
    ``shown_first``: of the verdicts that name a winner, the share for the answer that was shown
    first: 50 % without position bias. ``contradictions``: rows whose winner changed with the order.
    """

    def __init__(self, name: str, rows: list[Row], verdicts: Sequence[Verdict]) -> None:
        pairs = zip(rows, verdicts, strict=True)
        kept = [row | {"score": v.value} for row, v in pairs if v.value is not None]
        self.unreadable = len(rows) - len(kept)
        if not kept:
            raise DataError(f"{name}: none of {len(rows)} verdicts is readable (A, B or tie).")
        values = [row["score"] for row in kept]
        self.wins, self.ties, self.losses = (values.count(x) for x in (1.0, 0.5, 0.0))
        orders = [v.orders for v in verdicts]
        said = [(turn, x) for pair in orders for turn, x in enumerate(pair) if x in (0.0, 1.0)]
        # In the second order a win of the answers is a win of the one shown second.
        ahead = sum((x == 1.0) == (turn == 0) for turn, x in said)
        self.shown_first = ahead / len(said) if said else None
        self.contradictions = sum(set(pair) == {0.0, 1.0} for pair in orders)
        super().__init__(f"win rate by {name}", kept)
        self.low, self.high = wilson(self.wins + self.ties / 2, self.n)

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        shown = f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}], n = {self.n} ({self.ties} ties"
        shown += f", {self.unreadable} unreadable left out)" if self.unreadable else ")"
        if self.shown_first is not None:
            shown += f"; shown first wins {100 * self.shown_first:.0f} %"
        return shown


def win_rate(
    judge: Judge | Any, rows: Sequence[Row], answers: Sequence[str], against: Sequence[str]
) -> WinRate:
    """How often ``answers`` beat those of ``against`` on the same questions.

    Equal texts are a tie, and the judge is not asked. Raises DataError when nothing is readable.
    """
    found = as_judge(judge)
    verdicts = _compared(found, rows, answers, against)
    kept = [
        {
            "prompt": asking.said(asked(row)),
            "reference": other,
            "prediction": answer,
            "source": str(row.get("source", f"row {number}")),
            "extra": dict(row.get("extra") or {}),
        }
        for number, (row, answer, other) in enumerate(zip(rows, answers, against, strict=True))
    ]
    return WinRate(found.name, kept, verdicts)


def _compared(
    judge: Judge, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]
) -> list[Verdict]:
    if not len(rows) == len(first) == len(second):
        raise DataError(
            f"{len(rows)} rows, {len(first)} and {len(second)} answers: pass one for each row."
        )
    differ = [i for i in range(len(rows)) if first[i].strip() != second[i].strip()]
    verdicts = [Verdict(0.5)] * len(rows)
    if differ:
        sides = [[side[i] for i in differ] for side in (first, second)]
        found = judge.compare([rows[i] for i in differ], *sides)
        for i, verdict in zip(differ, found, strict=True):
            verdicts[i] = verdict
    return verdicts


@dataclass(frozen=True)
class Agreement:
    """How often two judges say the same of the same pairs, and how much more than by chance.

    ``value``: the share of rows, with Wilson's interval; ``kappa``: Cohen's (1960), 0 where they
    agree as often as their habits alone would make them, 1 where always; not a number where both
    always say the same one thing. ``unreadable``: rows left out because one judge gave no verdict.
    ``table[i, j]``: rows where the first said i and the second j (0 loss, 1 tie, 2 win).
    """

    value: float
    low: float
    high: float
    kappa: float
    n: int
    unreadable: int
    table: np.ndarray

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        left = f" ({self.unreadable} unreadable left out)" if self.unreadable else ""
        share = f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}]"
        return f"{share}, kappa {self.kappa:.2f}, n = {self.n}{left}"


def agreement(
    first: Judge | Any,
    second: Judge | Any,
    rows: Sequence[Row],
    answers: Sequence[str] | None = None,
    against: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Agreement:
    """How far two judges agree on pairs of answers: those given, or the rows' chosen and rejected.

    Which of the two comes first is drawn by ``seed``, so that no judge looks right by habit.
    """
    if answers is None or against is None:
        if any("chosen" not in row for row in rows):
            raise DataError(
                "agreement: rows without chosen and rejected. Pass two lists of answers."
            )
        answers = [asking.last(row["chosen"]) for row in rows]
        against = [asking.last(row["rejected"]) for row in rows]
    draw = random.Random(seed)
    pairs = [
        (a, b) if draw.random() < 0.5 else (b, a) for a, b in zip(answers, against, strict=True)
    ]
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    said = [_compared(as_judge(one), rows, *sides) for one in (first, second)]
    both = [(a.value, b.value) for a, b in zip(*said, strict=True)
            if a.value is not None and b.value is not None]  # fmt: skip
    if not both:
        raise DataError(f"agreement: no pair of {len(rows)} got a readable verdict of both judges.")
    table = np.zeros((3, 3), dtype=int)
    for a, b in both:
        table[int(2 * a), int(2 * b)] += 1
    n, same = len(both), int(np.trace(table))
    chance = float(table.sum(1) @ table.sum(0)) / n**2
    kappa = (same / n - chance) / (1 - chance) if chance < 1 else float("nan")
    low, high = wilson(same, n)
    return Agreement(same / n, low, high, kappa, n, len(rows) - n, table)


def preference_pairs(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    judge: Judge | Any,
    *,
    n: int = 2,
    seed: int = 0,
    **options: Any,
) -> Data:
    """Preference rows made by the model itself: ``n`` sampled answers to each question, of which
    the judge's best becomes chosen and its worst rejected (RLAIF, Lee et al. 2023).

    Questions whose answers are all equally good (to a scoring judge: within its ``margin``), or get
    no readable verdict, are left out;
    ``.reason`` of the result counts them. ``options`` are those of ``generate`` (``temperature=1``
    and 64 new tokens unless you say otherwise). Save with ``.save``, train with stage dpo.
    """
    if n < 2:
        raise RecipeError(f"preference_pairs: n={n}: it takes two answers to compare.")
    found = as_judge(judge)
    prompts = [{"messages": asked(row), "tools": row.get("tools")} for row in rows]
    settings = {"do_sample": True, "temperature": 1.0, "seed": seed, **options}
    flat = generate(model, tokenizer, [p for p in prompts for _ in range(n)], **settings)
    answers = [flat[i : i + n] for i in range(0, len(flat), n)]
    points = _points(found, rows, answers)
    made: list[Row] = []
    margin = found.margin if isinstance(found, Scorer) else 0.0
    ties = unreadable = 0
    for row, texts, worth in zip(rows, answers, points, strict=True):
        if worth is None:
            unreadable += 1
        elif max(worth) - min(worth) <= margin:
            ties += 1
        else:
            best, worst = worth.index(max(worth)), worth.index(min(worth))
            pair: Row = {"prompt": asked(row)}
            for side, i in (("chosen", best), ("rejected", worst)):
                pair[side] = [{"role": "assistant", "content": texts[i]}]
            made.append(pair | {k: row[k] for k in ("tools", "source", "extra") if k in row})
    data = Data(made, name=f"judged by {found.name}")
    data.reason = (
        f"{len(made)} pairs of {len(rows)} questions, judged by {found.name}: left out are "
        f"{ties} ties and {unreadable} without a readable verdict."
    )
    if not made:
        raise DataError(f"preference_pairs: {data.reason} Sample more answers, or hotter ones.")
    return data


def _points(
    judge: Judge, rows: Sequence[Row], answers: Sequence[Sequence[str]]
) -> list[list[float] | None]:
    """What each answer is worth: its score, or its wins over the others of the same question."""
    n = len(answers[0])
    if isinstance(judge, Scorer):
        repeated = [row for row in rows for _ in range(n)]
        flat = judge.scores(repeated, [text for texts in answers for text in texts])
        return [flat[i : i + n] for i in range(0, len(flat), n)]
    points: list[list[float] | None] = [[0.0] * n for _ in rows]
    for a, b in combinations(range(n), 2):
        sides = [[texts[side] for texts in answers] for side in (a, b)]
        for i, verdict in enumerate(_compared(judge, rows, *sides)):
            worth = points[i]
            if verdict.value is None or worth is None:
                points[i] = None
                continue
            worth[a] += verdict.value
            worth[b] += 1 - verdict.value
    return points
