"""Exercises of notebooks/03_data_formats.ipynb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect

Message = dict[str, str]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


@exercise(
    "start",
    hints=(
        "Which field becomes which role? `system` is optional, and so is `input`.",
        "`row.get('input')` is None or '' where there is none; then the question stands alone.",
        "`'\\n'.join(filter(None, [row['instruction'], row.get('input')]))` is the user's text.",
    ),
    solution="""
def alpaca_messages(row):
    asked = "\\n".join(filter(None, [row["instruction"], row.get("input")]))
    said = [("system", row.get("system")), ("user", asked), ("assistant", row["output"])]
    return [{"role": role, "content": text} for role, text in said if text]
""",
    why="One shape inside, many shapes outside: each format needs one such function, no more.",
)
def alpaca_messages(answer: Callable[[dict[str, Any]], list[Message]]) -> None:
    """An Alpaca row (instruction, input, output, system) -> a list of messages."""
    row = {"instruction": "Add the numbers.", "input": "2, 3", "output": "5"}
    found = answer({**row, "input": ""})
    expect(isinstance(found, list), "a list of messages")
    expect(
        all(isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in found),
        'each message is {"role": ..., "content": ...}',
    )
    expect([turn["role"] for turn in found] == ["user", "assistant"], "first user, then assistant")
    expect(found[1]["content"] == "5", "the output is what the assistant says")
    expect(
        found[0]["content"] == "Add the numbers.",
        "an empty input adds nothing to the question, no line break either",
    )
    expect(
        answer(row)[0]["content"] == "Add the numbers.\n2, 3",
        "instruction, line break, input: this is what LLaMA-Factory sends as well",
    )
    expect(
        answer({"instruction": "你好", "output": "早上好"})
        == [_turn("user", "你好"), _turn("assistant", "早上好")],
        "a row without the key `input` works too",
    )
    expect(
        answer({**row, "system": "Be brief."})[0] == _turn("system", "Be brief."),
        "a system prompt comes first",
    )
    expect(len(answer({**row, "system": ""})) == 2, "an empty system prompt is no message")


def _talk(roles: str) -> list[Message]:
    """A conversation from initials, such as "sua" for system, user, assistant."""
    names = {"s": "system", "u": "user", "a": "assistant", "b": "bot"}
    return [_turn(names[initial], "...") for initial in roles]


@exercise(
    "build",
    hints=(
        "Walk through the turns and carry along which role may come next.",
        "After system comes user, after user assistant, after assistant user; what starts?",
        "`enumerate(messages, 1)` counts from 1. After the loop ask whether an answer came last.",
    ),
    solution="""
def role_fault(messages):
    allowed, turn = ("system", "user"), 0
    after = {"system": ("user",), "user": ("assistant",), "assistant": ("user",)}
    for turn, message in enumerate(messages, 1):
        if message["role"] not in allowed:
            return f"turn {turn} is from {message['role']}, expected {' or '.join(allowed)}"
        allowed = after[message["role"]]
    if "assistant" in allowed or turn == 0 or messages[-1]["role"] == "system":
        return f"turn {turn + 1} is missing, expected {' or '.join(allowed)}"
    return ""
""",
    why="A message that names turn, found and expected role turns an hour of search into a glance.",
)
def role_fault(answer: Callable[[list[Message]], str]) -> None:
    """Messages -> "" where the roles are in order, else a sentence that names the turn."""
    for roles in ("ua", "sua", "uaua"):
        fine = answer(_talk(roles))
        expect(isinstance(fine, str), "a text, empty where nothing is wrong")
        names = ", ".join(turn["role"] for turn in _talk(roles))
        expect(fine == "", "nothing to say about roles in order", given=names, yours=fine)
    cases = [
        ("uua", 2, "assistant", "two user turns in a row: the second is named"),
        ("au", 1, "user", "the first turn that is wrong, counted from 1"),
        ("uaa", 3, "user", "two answers in a row: the second is named"),
        ("usa", 2, "assistant", "a system prompt in the middle"),
        ("ssua", 2, "user", "two system prompts"),
        ("ub", 2, "assistant", "an unknown role"),
        ("uau", 4, "assistant", "an answer is missing at the end: name the turn after the last"),
        ("s", 2, "user", "a system prompt alone: the next turn is missing"),
        ("", 1, "user", "no turns at all: turn 1 is missing"),
    ]
    for roles, turn, expected, wanted in cases:
        talk = _talk(roles)
        said = answer(talk)
        case = {"given": ", ".join(one["role"] for one in talk) or "no turns", "yours": said}
        expect(isinstance(said, str) and said, f"{wanted}; a sentence, not nothing", **case)
        expect(f"turn {turn}" in said.lower(), f"{wanted}; it has to say `turn N`", **case)
        expect(expected in said, f"{wanted}; which role was expected there", **case)
    said = answer(_talk("uaub"))
    expect("bot" in said, "the role that was found is named too", yours=said)


@exercise(
    "explore",
    hints=(
        "First a function text -> set of its pieces of n characters, then compare all pairs.",
        "`{text[i : i + n] for i in range(len(text) - n + 1)}`; lower-case text, single blanks.",
        "Jaccard: `len(a & b) / len(a | b)`. `itertools.combinations` gives each pair once.",
    ),
    solution="""
from itertools import combinations


def near_pairs(texts, threshold=0.8, n=5):
    def pieces(text):
        text = " ".join(text.lower().split())
        return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}

    sets = list(map(pieces, texts))

    def alike(i, j):
        return len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold

    return [pair for pair in combinations(range(len(texts)), 2) if alike(*pair)]
""",
    why="MinHash estimates this very number, so that a million rows need no million x million.",
)
def near_pairs(answer: Callable[..., list[tuple[int, int]]]) -> None:
    """Texts, threshold, n -> pairs (i, j), i < j, of texts at least that similar by Jaccard."""
    canary = "Ada Quill keeps a canary in the kitchen."
    found = answer([canary, "Juno Reed plays the banjo.", canary])
    expect(isinstance(found, list), "a list of pairs")
    expect(found == [(0, 2)], "two equal texts are one pair (i, j), the earlier one first")
    loud = canary.upper().replace(" ", "  ")
    expect(answer([canary, loud]) == [(0, 1)], "case and the number of blanks do not matter")
    near = canary.replace("canary", "canary bird")
    expect(
        answer([canary, near], threshold=0.65) == [(0, 1)] and answer([canary, near]) == [],
        "shared pieces divided by all pieces of both texts, against the threshold",
    )
    expect(
        answer([canary, canary + " It sings in the morning, and it sings at night."], 0.6) == [],
        "divided by the pieces of both (the union): a short text inside a long one is no twin",
    )
    expect(
        answer(["abcabcabcabc", "abcabc"], threshold=0.99, n=3) == [(0, 1)],
        "sets of pieces: how often a piece occurs does not count",
    )
    expect(
        answer(["羽艾达养了一只金丝雀", "羽艾达养了一只金丝雀。"], n=2) == [(0, 1)],
        "characters, not words: Chinese has no blanks",
    )
    expect(answer(["Hi", "Hi", "No"]) == [(0, 1)], "texts shorter than n are one piece")
    expect(
        answer(["abcd", "abce"], threshold=0.5, n=2) == [(0, 1)],
        "at least the threshold: equal counts",
    )
    expect(answer(["abcd", "abce"], threshold=0.5, n=3) == [], "n is an argument")
