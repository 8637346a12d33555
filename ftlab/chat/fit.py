"""What remains of a row that is longer than ``cutoff_len``: whole turns, never part of an answer.

Taught in notebooks/04_loss_masking.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftlab.chat.rendering import Row, place
from ftlab.errors import DataError

Encode = Callable[[Row], Any]  # a row -> Encoded or EncodedPair, at full length


def too_long(row: Row, length: int, cutoff_len: int, what: str = "the example") -> DataError:
    """The error for an example that does not fit."""
    return DataError(
        f"{place(row)}{what} has {length} tokens, cutoff_len is {cutoff_len}. "
        "Cutting it would lose the end of the answer: raise cutoff_len, shorten the row, or set "
        "truncation_strategy (delete, left or split)."
    )


def shortened(
    encode: Encode, row: Row, cutoff_len: int, strategy: str, last_only: bool = False
) -> list[Any]:
    """The examples that a row becomes: none ("delete"), one without its earliest turns ("left"), or
    several of whole rounds ("split"; as "left" where only the last answer is trained).

    A text is cut into windows. Raises DataError where even one round is too long, and for "error".
    """
    if strategy == "delete":
        return []
    whole = encode(row)
    if strategy == "left" and "text" in row:
        return [whole.window(len(whole) - cutoff_len, len(whole))]
    if strategy == "split" and "text" in row:
        return [whole.window(at, at + cutoff_len) for at in range(0, len(whole), cutoff_len)]
    key = "messages" if "messages" in row else "prompt"
    turns = list(row[key])
    system = turns[:1] if turns[0]["role"] == "system" else []
    turns = turns[len(system) :]
    starts = [i for i, turn in enumerate(turns) if turn["role"] == "user"][1:]

    def part(start: int, stop: int | None = None) -> Any:
        return encode({**row, key: [*system, *turns[start:stop]]})

    if strategy == "split" and key == "messages" and not last_only:
        return _split(part, row, [0, *starts, len(turns)], cutoff_len)
    for start in starts if strategy != "error" else []:
        if len(found := part(start)) <= cutoff_len:
            return [found]
    raise too_long(row, len(whole), cutoff_len)


def _split(
    part: Callable[[int, int], Any], row: Row, borders: Sequence[int], cutoff_len: int
) -> list[Any]:
    """Parts of as many whole rounds as fit; each answer stands in exactly one."""
    parts: list[Any] = []
    begin = 0
    for start, stop in zip(borders, borders[1:], strict=False):
        grown = part(begin, stop)
        if len(grown) > cutoff_len and start > begin:
            begin, grown = start, part(start, stop)
            parts.append(grown)
        elif parts:
            parts[-1] = grown
        else:
            parts.append(grown)
        if len(grown) > cutoff_len:
            raise too_long(row, len(grown), cutoff_len, "one round of the conversation")
    return parts
