"""Rows among rows: what is doubled, what is held out, what is mixed with what."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftlab.data.shapes import Row
from ftlab.errors import DataError

if TYPE_CHECKING:
    from ftlab.data.rows import Data


def draw(
    rows: Sequence[Row], count: int, seed: int, group: str | Callable[[Row], Any] | None
) -> set[int]:
    """The places of `count` rows, drawn by the seed; of whole groups, as many as fit."""
    if group is None:
        return set(random.Random(seed).sample(range(len(rows)), count))
    groups: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(_group(row, group), []).append(place)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    drawn: set[int] = set()
    for places in order:
        if len(drawn) + len(places) <= count:
            drawn.update(places)
    return drawn


def _group(row: Row, group: str | Callable[[Row], Any]) -> Any:
    if callable(group):
        return group(row)
    extra = row.get("extra", {})
    if group not in extra:
        where, fix = row.get("source", "a row"), "name an extra field that every row has"
        raise DataError(
            f"{where}: no field {group!r} to group by; found {list(extra)}. Fix: {fix}."
        )
    value = extra[group]
    return value if isinstance(value, str | int | float | None) else repr(value)


def twins(rows: Sequence[Row], near: float | None = None) -> list[tuple[int, int]]:
    """(place, place of an earlier row that says the same), for each doubled row.

    The same are rows that agree except for blanks; with `near`, also rows in which the Jaccard
    similarity of the five-letter pieces of what is said is at least that.
    """
    texts = [content(row) for row in rows]
    first: dict[str, int] = {}
    found = {}
    for place, text in enumerate(texts):
        if first.setdefault(text, place) != place:
            found[place] = first[text]
    if near is not None:
        from ftlab.data.minhash import near_twins

        found |= near_twins([spoken(row) for row in rows], list(first.values()), near)
    return sorted(found.items())


def content(row: Row) -> str:
    """All that a row holds, in one text, each run of blanks made one."""
    parts: list[str] = [row.get("text", "")]
    for name in ("messages", "prompt", "chosen", "rejected", "completion"):
        for turn in row.get(name, ()):
            calls = turn.get("tool_calls")
            parts += [name, turn["role"], turn["content"], json.dumps(calls) if calls else ""]
    parts += [json.dumps(row[name]) for name in ("tools", "label") if name in row]
    return _plain(parts)


def spoken(row: Row) -> str:
    """What is said in a row: names of roles and tools, alike in all rows, are left out."""
    parts: list[str] = [row.get("text", "")]
    for name in ("messages", "prompt", "chosen", "rejected", "completion"):
        for turn in row.get(name, ()):
            calls = [call["function"]["arguments"] for call in turn.get("tool_calls") or ()]
            parts += [turn["content"], *map(str, calls)]
    return _plain(parts)


def _plain(parts: Sequence[str]) -> str:
    return " ".join(unicodedata.normalize("NFC", "\n".join(parts)).split())


def fill(rows: Sequence[Row], values: dict[str, str]) -> list[Row]:
    """The rows with each {{name}} in their texts replaced; DataError for open and unknown names."""
    unused, still = set(values), set()

    def replaced(match: re.Match[str]) -> str:
        unused.discard(match[1])
        still.update({match[1]} - values.keys())
        return values.get(match[1], match[0])

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\{\{(\w+)\}\}", replaced, value)
        if isinstance(value, list):
            return [filled(item) for item in value]
        return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else value

    result = []
    for row in rows:
        aside = {key: row[key] for key in ("source", "extra") if key in row}
        result.append(filled({k: v for k, v in row.items() if k not in aside}) | aside)
        if still:
            name = min(still)
            reason = f"the placeholder {{{{{name}}}}} stays open"
            raise DataError(f"{row.get('source', 'a row')}: {reason}. Fix: fill({name}=...).")
    if unused:
        raise DataError(f"fill: no row holds {{{{{min(unused)}}}}}. Fix: check the name.")
    return result


def mix(*datas: Data, ratio: str | Sequence[float], n: int | None = None, seed: int = 42) -> Data:
    """Datasets mixed by ratio, such as "7:3" or (0.7, 0.3), in an order drawn by the seed.

    n: rows in all; without it as many as the ratio allows without repeating a row. Rows of a set
    that is too small are repeated, and `reason` says how often.

    >>> from ftlab.data import Data
    >>> len(mix(Data([{"text": "a"}] * 70), Data([{"text": "b"}] * 50), ratio="5:5"))
    100
    """
    _check_not_empty(datas)
    shares = _shares(ratio, len(datas), "mix: ratio")
    if n is None:
        n = math.floor(min(len(data) / share for data, share in zip(datas, shares, strict=True)))
    if type(n) is not int or n < 1:
        raise DataError(f"mix: n={n!r} leaves no row. Fix: write a whole number above 0.")
    ends = [round(n * share) for share in itertools.accumulate(shares)]
    chance, rows, notes = random.Random(seed), [], []
    for data, start, end in zip(datas, [0, *ends], ends, strict=False):
        whole, rest = divmod(end - start, len(data))
        rows += [*data] * whole + chance.sample(data, rest)
        repeated = (
            f", each {(end - start) / len(data):.1f} times" if (end - start) > len(data) else ""
        )
        notes.append(f"{end - start} of {len(data)} rows of {data.name}{repeated}")
    chance.shuffle(rows)
    return _joined(datas, rows, f"mixed: {'; '.join(notes)}")


def interleave(
    datas: Sequence[Data],
    probs: Sequence[float] | None = None,
    strategy: str = "interleave_under",
    seed: int = 42,
) -> Data:
    """LLaMA-Factory's `mix_strategy`, row by row in the order that it gives for the same seed.

    "concat": one after the other; "interleave_under": in turns, until one dataset has been used
    up; "interleave_over": until each has, the others starting again. probs: how often each has its
    turn (`interleave_probs`); without it each in turn.
    """
    _check_not_empty(datas)
    known = ("concat", "interleave_under", "interleave_over")
    if strategy not in known:
        raise DataError(f"mix_strategy={strategy!r}. Fix: write one of {', '.join(known)}.")
    if strategy == "concat":
        return _joined(datas, [row for data in datas for row in data], "")
    over, left = strategy == "interleave_over", {*range(len(datas))}
    used, rows = [0] * len(datas), []
    for turn in _turns(len(datas), probs, seed):
        rows.append(datas[turn][used[turn] % len(datas[turn])])
        used[turn] += 1
        if used[turn] >= len(datas[turn]):
            left.discard(turn)
        round_over = probs is not None or turn == len(datas) - 1
        if round_over and (not left if over else len(left) < len(datas)):
            break
    notes = (f"{n} from {len(d)} rows of {d.name}" for n, d in zip(used, datas, strict=True))
    return _joined(datas, rows, f"{strategy}: {'; '.join(notes)}")


def _check_not_empty(datas: Sequence[Data]) -> None:
    if not datas or not all(datas):
        raise DataError("mix: a dataset is empty or none is given. Fix: give rows to mix.")


def _turns(count: int, probs: Sequence[float] | None, seed: int) -> Iterator[int]:
    """Whose turn it is, for ever; with probabilities by the generator that `datasets` uses."""
    if probs is None:
        yield from itertools.cycle(range(count))
    else:
        import numpy as np

        shares = _shares(probs, count, "interleave_probs")
        chance = np.random.default_rng(seed)
        while True:
            yield from map(int, chance.choice(count, size=1000, p=shares))


def _shares(ratio: str | Sequence[float], count: int, place: str) -> list[float]:
    """The parts as shares of 1."""
    try:
        parts = [float(part) for part in (ratio.split(":") if isinstance(ratio, str) else ratio)]
    except (TypeError, ValueError):
        parts = []
    if len(parts) != count or not all(0 < part < math.inf for part in parts):
        fix = f"write {count} numbers above 0, such as {':'.join('5' * count)}"
        raise DataError(f"{place}={ratio!r} for {count} datasets. Fix: {fix}.")
    return [part / sum(parts) for part in parts]


def _joined(datas: Sequence[Data], rows: list[Row], reason: str) -> Data:
    kind = type(datas[0])
    data = kind(rows, "+".join(data.name for data in datas), [p for d in datas for p in d.paths])
    data.reason = reason or "; ".join(dict.fromkeys(d.reason for d in datas if d.reason))
    data.check_one_kind()
    return data
