"""Duplicates, splits, mixtures, placeholders: the same each time, and nothing lost unsaid."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ftlab.data import Data
from ftlab.data.minhash import near_twins, similarity
from ftlab.data.mix import interleave, mix
from ftlab.errors import DataError


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": said, "source": "x:1", **more}


def texts(*words: str, name: str = "data") -> Data:
    return Data(({"text": word, "source": f"{name}:{n}"} for n, word in enumerate(words, 1)), name)


def numbered(count: int, name: str) -> Data:
    return texts(*(f"{name}{n}" for n in range(count)), name=name)


# Duplicates -------------------------------------------------------------------------------------


def test_rows_that_say_the_same_are_removed_with_their_twins() -> None:
    data = texts("a b", "c", "a  b\n", "e\u0301", "\u00e9", "a b", "A b")
    left = data.deduplicated()
    assert [row["text"] for row in left] == ["a b", "c", "e\u0301", "A b"]
    assert left.removed == [
        ("data:3", "data:1"),
        ("data:5", "data:4"),
        ("data:6", "data:1"),
    ]
    assert len(left) + len(left.removed) == len(data)


def test_the_same_words_in_another_role_or_with_another_label_are_not_the_same() -> None:
    pair = {"prompt": [{"role": "user", "content": "q"}], "source": "x:1"}
    answer = [[{"role": "assistant", "content": text}] for text in "ab"]
    judged = [pair | {"completion": answer[0], "label": label} for label in (True, False)]
    assert len(Data(judged).deduplicated()) == 2
    swapped = [pair | {"chosen": a, "rejected": b} for a, b in (answer, answer[::-1])]
    assert len(Data(swapped).deduplicated()) == 2
    tools = [talk("q", "a"), talk("q", "a", tools=[{"name": "f"}])]
    assert len(Data(tools).deduplicated()) == 2


def some_texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghij\u4e2d\u6587", k=6)) for _ in range(500)]
    return [" ".join(chance.choices(words, k=40)) for _ in range(count)]


def test_near_duplicates_are_found_and_none_is_invented() -> None:
    lines = some_texts(400)
    changed = {}
    for n in range(0, 200, 4):  # one word of forty is another: still very much alike
        words = lines[n].split()
        words[n % 40] = "other"
        changed[len(lines)] = n
        lines.append(" ".join(words))
    found = near_twins(lines, list(range(len(lines))), 0.8)
    assert found == changed
    assert all(similarity(lines[a], lines[b]) >= 0.8 for a, b in found.items())


def test_likeness_is_that_of_the_sets_of_pieces() -> None:
    assert similarity("abcdef", "ABCDEF") == 1 and similarity("abcdef", "uvwxyz") == 0
    assert similarity("abcdef", "abcdeg") == 1 / 3  # abcde of abcde, bcdef, bcdeg
    assert similarity("", "") == similarity("ab", "ab") == 1


def test_short_and_strange_texts_are_compared_too() -> None:
    lines = ["", "a", "b", "🙂", "ab cd ef gh", "ab cd ef gh!", "x" * 10_000, "x" * 9_000]
    found = near_twins(lines, list(range(len(lines))), 0.8)
    assert found == {5: 4, 7: 6}


def test_a_chain_of_likeness_ends_at_a_row_that_stays() -> None:
    words = some_texts(1)[0].split()
    chain = [" ".join(["new"] * n + words[n:]) for n in range(4)]
    left = texts(*chain).deduplicated(near=0.85)
    kept = {row["source"] for row in left}
    assert all(twin in kept for _, twin in left.removed) and left.removed


def test_crowds_of_one_template_do_not_hide_a_duplicate() -> None:
    rows = [
        f"The keeper of boat number {n * 7919} sails on {n * 104729} today." for n in range(300)
    ]
    left = texts(*rows, rows[7] + ".").deduplicated(near=0.9)
    assert ("data:301", "data:8") in left.removed


@pytest.mark.parametrize("near", [0, -1, 1.5, "0.8"])
def test_an_impossible_likeness_is_refused(near: Any) -> None:
    with pytest.raises(DataError, match="is no similarity"):
        texts("a", "b").deduplicated(near=near)


# Splits -----------------------------------------------------------------------------------------


def grouped(sizes: list[int]) -> Data:
    rows = [{"text": "x", "extra": {"who": n}} for n, size in enumerate(sizes) for _ in range(size)]
    return Data({**row, "source": f"x:{n}"} for n, row in enumerate(rows))


def test_groups_stay_on_one_side() -> None:
    data = grouped([3] * 20)
    train, held_out = data.split(0.2, group="who")
    sides = [{row["extra"]["who"] for row in side} for side in (train, held_out)]
    assert len(held_out) == 12 and not sides[0] & sides[1] and len(train) == 48
    assert (train, held_out) == data.split(0.2, group="who")
    assert held_out != data.split(0.2, seed=1, group="who")[1]
    same = data.split(0.2, group=lambda row: row["extra"]["who"])
    assert same == (train, held_out)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="leaves one side empty"):
        grouped([5, 5]).split(2, group="who")
    with pytest.raises(DataError, match="no field 'town' to group by; found \\['who'\\]"):
        grouped([1, 1]).split(1, group="town")
    with pytest.raises(DataError, match="leaves one side empty"):
        grouped([1]).split(0.1)


# Mixtures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, n, expected",
    [
        ("7:3", 100, {"a": 70, "b": 30}),
        ("5:5", None, {"a": 40, "b": 40}),
        ((0.7, 0.3), 10, {"a": 7, "b": 3}),
        ([1, 2], None, {"a": 20, "b": 40}),
        ("1:1", 3, {"a": 2, "b": 1}),
    ],
)
def test_a_mixture_has_its_ratio(ratio: Any, n: int | None, expected: dict[str, int]) -> None:
    one, two = numbered(100, "a"), numbered(40, "b")
    data = mix(one, two, ratio=ratio, n=n)
    assert Counter(row["text"][0] for row in data) == expected
    assert len({row["source"] for row in data}) == len(data)  # no row twice
    assert data == mix(one, two, ratio=ratio, n=n) != mix(one, two, ratio=ratio, n=n, seed=1)
    assert data.name == "a+b"


def test_a_mixture_is_in_no_order() -> None:
    order = [row["text"][0] for row in mix(numbered(50, "a"), numbered(50, "b"), ratio="1:1")]
    assert order != sorted(order) and "a" in order[:10] and "b" in order[:10]


def test_a_set_that_is_too_small_is_repeated_and_said() -> None:
    data = mix(numbered(100, "a"), numbered(20, "b"), ratio="5:5", n=100)
    counts = Counter(row["source"] for row in data if row["text"][0] == "b")
    assert sum(counts.values()) == 50 and set(counts.values()) == {2, 3}
    assert data.reason == "mixed: 50 of 100 rows of a; 50 of 20 rows of b, each 2.5 times"


@pytest.mark.parametrize("ratio", ["7", "7:3:1", "a:b", "0:1", "-1:2", "nan:1", "inf:1", 7, "7;3"])
def test_a_faulty_ratio_is_refused(ratio: Any) -> None:
    with pytest.raises(DataError, match="write 2 numbers above 0, such as 5:5"):
        mix(numbered(3, "a"), numbered(3, "b"), ratio=ratio)


def test_rows_of_different_kinds_do_not_mix() -> None:
    with pytest.raises(DataError, match="is plain text and .* is a conversation"):
        mix(numbered(3, "a"), Data([talk("q", "a")] * 3), ratio="1:1")
    with pytest.raises(DataError, match="n=0"):
        mix(numbered(3, "a"), numbered(3, "b"), ratio="1:1", n=0)


@pytest.mark.parametrize("probs", [None, (0.7, 0.2, 0.1), (0.1, 0.1, 0.8)])
@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over"])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (5, 4, 3), (30, 2, 10), (4, 4, 4)])
def test_interleaving_gives_the_order_of_llama_factory(
    sizes: tuple[int, ...], strategy: str, probs: tuple[float, ...] | None
) -> None:
    from datasets import Dataset, interleave_datasets

    datas = [numbered(size, name) for size, name in zip(sizes, "abc", strict=True)]
    data = interleave(datas, probs, strategy, seed=7)
    expected = interleave_datasets(
        [Dataset.from_list([{"text": row["text"]} for row in one]) for one in datas],
        probabilities=list(probs) if probs else None,
        seed=7,
        stopping_strategy="first_exhausted" if strategy == "interleave_under" else "all_exhausted",
    )
    assert [row["text"] for row in data] == list(expected["text"])
    assert data.reason.startswith(f"{strategy}: ")


def test_concat_keeps_everything_and_another_strategy_is_refused() -> None:
    datas = [numbered(2, "a"), numbered(1, "b")]
    assert [row["text"] for row in interleave(datas, strategy="concat")] == ["a0", "a1", "b0"]
    with pytest.raises(DataError, match="write one of concat, interleave_under"):
        interleave(datas, strategy="interleave")


# Placeholders -----------------------------------------------------------------------------------


def test_placeholders_are_filled_everywhere_they_occur() -> None:
    row = talk("Who is {{name}}?", "{{name}}, by {{author}}.", extra={"kept": "{{name}}"})
    filled = Data([row]).fill(name="Pilot", author="Ada \\1")[0]
    assert [turn["content"] for turn in filled["messages"]] == [
        "Who is Pilot?",
        "Pilot, by Ada \\1.",
    ]
    assert filled["extra"] == {"kept": "{{name}}"} and "{{name}}" in row["messages"][0]["content"]


def test_open_and_unknown_placeholders_are_refused() -> None:
    with pytest.raises(DataError, match=r"x:1: the placeholder \{\{author\}\} stays open"):
        Data([talk("{{name}}", "{{author}}")]).fill(name="Pilot")
    with pytest.raises(DataError, match=r"no row holds \{\{nmae\}\}"):
        Data([talk("q", "{{name}}")]).fill(name="Pilot", nmae="x")
