"""Exercises of notebooks/04_loss_masking.ipynb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect

Ids = list[int]
Spans = list[tuple[int, int]]


@exercise(
    "start",
    hints=(
        "Begin with a list that trains nothing and is as long as `ids`.",
        "`labels = [-100] * len(ids)`; then copy the ids of one span after the other.",
        "`labels[start:end] = ids[start:end]` for each pair of `spans`.",
    ),
    solution="""
def labels_from_spans(ids, spans):
    labels = [-100] * len(ids)
    for start, end in spans:
        labels[start:end] = ids[start:end]
    return labels
""",
    why="Labels are a copy of the ids with holes: same length, same places, -100 elsewhere.",
)
def labels_from_spans(answer: Callable[[Ids, Spans], Ids]) -> None:
    """Token ids, (start, end) of each answer with its end mark -> labels."""
    ids = [11, 12, 13, 14, 15, 16, 17, 18]
    one = answer(ids, [(3, 6)])
    expect(len(one) == len(ids), "as many labels as ids")
    expect(all(label in (-100, i) for i, label in zip(ids, one, strict=True)),
           "a label is -100 or the id at the same place: the loss does the shift")  # fmt: skip
    expect(one[3] != -100, "`start` is the first token of the answer")
    expect(one[5] != -100 and one[6] == -100, "`end` is the first place after the answer")
    expect(one[:3] == [-100] * 3, "everything before the answer is masked")
    two = answer(ids, [(1, 3), (6, 8)])
    expect(two[1:3] == [12, 13] and two[6:] == [17, 18], "every answer is trained, not just one")
    expect(two[3:6] == [-100] * 3, "what stands between two answers is masked")
    expect(answer(ids, []) == [-100] * 8, "without answers nothing is trained")
    expect(ids == [11, 12, 13, 14, 15, 16, 17, 18], "`ids` stays as it was")


HEADER, ENDING = [7, 8, 9], 5


def _marked(found: Ids) -> Spans:
    """The reference: where the answers of a conversation of toy ids are."""
    spans, at = [], 0
    while at < len(found):
        if found[at : at + 3] == HEADER and ENDING in found[at + 3 :]:
            end = found.index(ENDING, at + 3) + 1
            spans.append((at + 3, end))
            at = end
        else:
            at += 1
    return spans


def _expected(ids: Ids) -> Ids:
    labels = [-100] * len(ids)
    for start, end in _marked(ids):
        labels[start:end] = ids[start:end]
    return labels


@exercise(
    "build",
    hints=(
        "Walk through the ids; where the next ids equal `header`, an answer begins behind them.",
        "`ids[at:at + len(header)] == header` finds the place; `ids.index(end, start)` its end.",
        "Copy through the end mark, go on behind it; where no end follows, copy nothing.",
    ),
    solution="""
def labels_from_markers(ids, header, end):
    labels, at = [-100] * len(ids), 0
    while at < len(ids):
        start = at + len(header)
        if ids[at:start] == header and end in ids[start:]:
            stop = ids.index(end, start) + 1
            labels[start:stop] = ids[start:stop]
            at = stop
        else:
            at += 1
    return labels
""",
    why="Masks from markers work with any text, and break in silence when a marker never occurs.",
)
def labels_from_markers(answer: Callable[[Ids, Ids, int], Ids]) -> None:
    """Ids, ids of the header that opens an answer, id of the end mark -> labels."""
    question, reply = [6, 4, 21, 22, ENDING], [31, 32, 33, ENDING]
    one = [*question, *HEADER, *reply]
    found = answer(list(one), list(HEADER), ENDING)
    expect(len(found) == len(one), "as many labels as ids")
    expect(found[-1] == ENDING, "the end mark of the answer is trained")
    expect(found[8:11] == reply[:3], "the whole answer is trained, from its first token")
    expect(found[5:8] == [-100] * 3, "the header is masked: the template writes it")
    expect(found[4] == -100, "the end mark of the question is masked")
    expect(found[:4] == [-100] * 4, "the question is masked")
    two = [*one, *question, *HEADER, 41, ENDING]
    expect(
        answer(list(two), list(HEADER), ENDING) == _expected(two),
        "every answer of a conversation is trained, and nothing between them",
    )
    near = [6, 7, 8, 21, 9, ENDING, *HEADER, 9, 31, ENDING]
    expect(
        answer(list(near), list(HEADER), ENDING) == _expected(near),
        "an answer begins behind the whole header, not behind a part of it",
    )
    cut = [*one, *question, *HEADER, 41, 42]
    expect(
        answer(list(cut), list(HEADER), ENDING) == _expected(cut),
        "an answer that was cut before its end mark is left out",
    )
    expect(answer(list(question), list(HEADER), ENDING) == [-100] * 5, "no header: all is masked")


def _lose_end(ids: Ids, spans: Spans) -> Ids:
    return _keep(ids, [(start, end - 1) for start, end in spans])


def _keep(ids: Ids, spans: Spans) -> Ids:
    labels = [-100] * len(ids)
    for start, end in spans:
        labels[start:end] = ids[start:end]
    return labels


# Four maskers that ship in somebody's code, and a good one.
MASKERS: dict[str, Callable[[Ids, Spans], Ids]] = {
    "fine": _keep,
    "nothing trained": lambda ids, spans: [-100] * len(ids),
    "prompt trained": lambda ids, spans: list(ids),
    "end mark lost": _lose_end,
    "shifted": lambda ids, spans: [*_keep(ids, spans)[1:], -100],
}


@exercise(
    "explore",
    hints=(
        "Ask in turn: is anything trained, is each label its own id, only answers, each end?",
        "`label not in (-100, i)` for some pair of ids and labels means shifted.",
        "Collect the trained places in a set; compare it with the places in spans and `end - 1`.",
    ),
    solution="""
def find_bug(ids, labels, spans):
    trained = {place for place, label in enumerate(labels) if label != -100}
    inside = {place for start, end in spans for place in range(start, end)}
    if not trained:
        return "nothing trained"
    if any(labels[place] != ids[place] for place in trained):
        return "shifted"
    if trained - inside:
        return "prompt trained"
    if any(end - 1 not in trained for _, end in spans):
        return "end mark lost"
    return "fine"
""",
    why="Four questions, asked of two rows before each run, find the mask bugs that cost weeks.",
)
def find_bug(answer: Callable[[Ids, Ids, Spans], str]) -> None:
    """Ids, labels, spans of the answers with their end marks -> the name of the bug, or "fine"."""
    short = ([6, 4, 21, 5, 7, 8, 31, 32, 5], [(6, 9)])
    twice = ([*short[0], 6, 4, 22, 5, 7, 8, 33, 5], [(6, 9), (15, 17)])
    for ids, spans in (short, twice):
        for name, masker in MASKERS.items():
            labels = masker(ids, spans)
            given = f"ids {ids}, labels {labels}, spans {spans}"
            found = answer(list(ids), labels, list(spans))
            expect(found in MASKERS, f"one of {', '.join(map(repr, MASKERS))}", given=given)
            expect(found == name, _ASKED[name], given=given, yours=found)
    ids, spans = twice
    half = _keep(ids, [(6, 9), (15, 16)])
    given = f"ids {ids}, labels {half}, spans {spans}"
    found = answer(list(ids), half, list(spans))
    expect(found == "end mark lost", "every answer needs its end mark, the last one too",
           given=given, yours=found)  # fmt: skip


_ASKED: dict[str, Any] = {
    "fine": "good labels are called fine",
    "nothing trained": "labels that are all -100 are noticed",
    "prompt trained": "a trained token outside the answers is noticed",
    "end mark lost": "an answer without its end mark is noticed",
    "shifted": "a label that is not the id at its own place is noticed",
}
