"""Exercises of notebooks/07_sft.ipynb."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "A micro-batch of short answers has a say for few tokens, one of long answers for many.",
        "Turn each mean back into a sum over its tokens before you add them up.",
        "Divide `sum(loss * count ...)` by the number of all trained tokens.",
    ),
    solution="""
def combined_loss(losses, tokens):
    total = sum(loss * count for loss, count in zip(losses, tokens, strict=True))
    return total / sum(tokens)
""",
    why="Accumulation equals one large batch only if every token counts the same.",
)
def combined_loss(answer: Callable[[list[float], list[int]], float]) -> None:
    """Mean losses of micro-batches, trained tokens in each -> the loss of the whole batch."""
    one = answer([2.5], [7])
    expect(math.isclose(one, 2.5), "a single micro-batch keeps its loss")
    even = answer([1.0, 3.0], [4, 4])
    expect(math.isclose(even, 2.0), "with as many tokens in each it is the plain mean")
    empty = answer([1.0, 9.0], [5, 0])
    expect(math.isclose(empty, 1.0), "a micro-batch without trained tokens counts nothing")
    uneven = answer([1.0, 3.0], [30, 10])
    expect(math.isclose(uneven, 1.5), "each token has the same weight, not each micro-batch")
    halves = answer([1.0, 1.0, 3.0], [15, 15, 10])
    expect(math.isclose(halves, 1.5), "cutting a micro-batch in two changes nothing")


def _rows(kind: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{kind} {i}"} for i in range(count)]


def _kinds(rows: list[dict[str, Any]]) -> list[str]:
    return [str(row["text"]).split()[0] for row in rows]


@exercise(
    "build",
    hints=(
        "How many old rows belong to `len(new)` new ones? The share is of the sum of both.",
        "`len(new)` is the share `1 - share` of the result. `random.Random(seed)` draws and mixes.",
        "Draw `round(len(new) * share / (1 - share))` rows with `.sample`, then `.shuffle` it all.",
    ),
    solution="""
import random


def with_replay(new, old, share, seed):
    rng = random.Random(seed)
    count = round(len(new) * share / (1 - share))
    mixed = [*new, *rng.sample(list(old), count)]
    rng.shuffle(mixed)
    return mixed
""",
    why="The model meets the old task in every batch, so forgetting it costs loss at once.",
)
def with_replay(answer: Callable[[list[Any], list[Any], float, int], list[Any]]) -> None:
    """New rows, old rows, the old ones' share of the result, seed -> a mixed list."""
    new, old = _rows("new", 60), _rows("old", 400)
    mixed = answer(new, old, 0.25, 0)
    expect(isinstance(mixed, list), "a list of rows")
    kinds = _kinds(mixed)
    expect(kinds.count("new") == 60, "every new row stays", yours=f"{kinds.count('new')} of 60")
    got = f"{kinds.count('old')} old rows beside 60 new ones, share 0.25"
    expect(kinds.count("old") == 20, "the share is that of the old rows among all rows", yours=got)
    texts = [row["text"] for row in mixed]
    expect(len(set(texts)) == len(texts), "no row comes twice")
    expect(
        0 < sum(kind == "old" for kind in kinds[:40]) < 20,
        "old and new rows stand mixed, not one kind after the other",
        yours=f"{', '.join(kinds[:3])} ... {', '.join(kinds[-3:])}",
    )
    expect(answer(new, old, 0.25, 0) == mixed, "the same seed gives the same rows again")
    drawn = {row["text"] for row in answer(new, old, 0.25, 1)}
    expect(drawn != set(texts), "another seed draws other old rows")
    none = answer(new, old, 0.0, 0)
    expect(_kinds(none) == ["new"] * 60, "a share of 0 leaves only the new rows")


def _history(losses: list[float | None]) -> list[dict[str, float]]:
    """One record every 5 steps; None where no eval loss was computed."""
    records: list[dict[str, float]] = []
    for i, loss in enumerate(losses):
        record = {"step": 5.0 * (i + 1), "loss": 2.0 - 0.1 * i}
        records.append(record if loss is None else {**record, "eval_loss": loss})
    return records


@exercise(
    "explore",
    hints=(
        "Walk through the evaluations in order and remember two things.",
        "Remember the best record so far and how many evaluations have passed since.",
        "A loss below the best resets the counter; at `patience` leave the loop with `break`.",
    ),
    solution="""
def best_step(history, patience):
    best, waited = None, 0
    for record in history:
        if "eval_loss" not in record:
            continue
        if best is None or record["eval_loss"] < best["eval_loss"]:
            best, waited = record, 0
        else:
            waited += 1
        if waited == patience:
            break
    return best["step"]
""",
    why="Patience trades a few wasted steps against stopping at the first bump.",
)
def best_step(answer: Callable[[list[dict[str, float]], int], float]) -> None:
    """A run's history, patience in evaluations -> the step whose weights early stopping keeps."""
    cases: list[tuple[str, list[float | None], int, float]] = [
        ("while eval loss falls, the last evaluation is the best", [3, 2, 1], 2, 15),
        ("the step of the lowest eval loss, not the one where you stop", [3, 1, 2, 2.5], 2, 10),
        ("one bump is forgiven when patience is 2", [3, 2, 2.5, 1], 2, 20),
        (
            "after `patience` evaluations without a new low the run is over: what comes later"
            " is never seen",
            [3, 2, 2.5, 2.2, 1],
            2,
            10,
        ),
        ("the count starts again at each new low", [3, 3.1, 2, 2.1, 1], 2, 25),
        ("records without eval_loss are no evaluations", [3, None, 2, None, None, 2.5, 1], 2, 35),
        ("an equal loss is no improvement", [2, 2, 2, 1], 2, 5),
    ]
    for wanted, losses, patience, step in cases:
        found = answer(_history(losses), patience)
        shown = [loss for loss in losses if loss is not None]
        given = f"eval losses {shown}, one evaluation in 5 steps, patience {patience}"
        if None in losses:
            given = f"eval losses by record {losses}, 5 steps apart, patience {patience}"
        expect(found == step, wanted, given=given, yours=found)
