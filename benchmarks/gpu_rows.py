"""The two tracks: full rows, which measure kernels, and rows of real lengths, which measure also
what a system does about padding.

Every id of the vocabulary but the special ones is drawn with the same chance. The same numbers go
to every system: as ids and labels to TRL and Unsloth, as words to ftlab, which encodes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_models import SHAPES, SPECIAL, word

# Lengths of prompts and answers in tokens: log-normal, with the long tail of instruction data. A
# model of Alpaca's lengths, not a count of them.
PROMPT = (24, 0.6)  # median, spread of the logarithm
ANSWER = (60, 0.9)
ROWS = {"A": 128, "B": 4096}
IGNORED = -100


@dataclass(frozen=True)
class Row:
    """``ids`` and ``labels`` as a trainer takes them, and ``source``, a row as ftlab takes it."""

    ids: list[int]
    labels: list[int]
    source: dict[str, Any]


def rows(track: str, model: str, length: int) -> list[Row]:
    """The rows of a track; the same in every process."""
    chance = np.random.default_rng(0)
    vocabulary = SHAPES[model]["vocab_size"]
    free = vocabulary - len(SPECIAL)
    _, user, assistant, end = range(free, vocabulary)
    if track == "A":
        return [_text(chance.integers(0, free, length - 1), end) for _ in range(ROWS["A"])]
    found = []
    for asked, answered in lengths(ROWS["B"], length):
        prompt = chance.integers(0, free, asked).tolist()
        answer = chance.integers(0, free, answered).tolist()
        start = [user, *prompt, end, assistant]
        turns = (("user", prompt), ("assistant", answer))
        messages = [{"role": role, "content": _words(ids)} for role, ids in turns]
        ids, labels = start + answer + [end], [IGNORED] * len(start) + answer + [end]
        found.append(Row(ids, labels, {"messages": messages}))
    return found


def _text(numbers: Any, end: int) -> Row:
    ids = [*numbers.tolist(), end]  # ftlab closes a text so
    return Row(ids, ids, {"text": _words(ids[:-1])})


def _words(ids: list[int]) -> str:
    return " ".join(map(word, ids))


def lengths(count: int, longest: int) -> list[tuple[int, int]]:
    """Tokens of prompt and answer of each row of track B; with the four special tokens around them
    no row is longer than ``longest``."""
    chance = np.random.default_rng(1)
    pairs = [
        np.maximum(1, chance.lognormal(np.log(median), spread, count)).astype(int)
        for median, spread in (PROMPT, ANSWER)
    ]
    room = longest - 4
    prompts = np.minimum(pairs[0], room // 2)
    answers = np.minimum(pairs[1], room - prompts)
    return list(zip(prompts.tolist(), answers.tolist(), strict=True))


def span(found: list[Row]) -> float:
    """How long the sample of a token is, on the average over tokens: what attention costs."""
    sizes = np.array([len(row.ids) for row in found], dtype=float)
    return float((sizes**2).sum() / sizes.sum())
