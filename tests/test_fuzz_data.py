"""Damaged files of every format: only DataError escapes, and every row is accounted for.

300 mutations here; `make fuzz` (FTLAB_FUZZ=10000) makes more. The seed is printed by a failure.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from ftlab.data import Data, read
from ftlab.data.shapes import FORMATS
from ftlab.errors import DataError

COUNT = int(os.environ.get("FTLAB_FUZZ", "300"))
SEEDS = range(COUNT)
TALK = [
    {"role": "system", "content": "Sei kurz. 请简短。"},
    {"role": "user", "content": "q 🙂"},
    {"role": "assistant", "content": "a", "weight": 0},
    {"role": "user", "content": "r"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}],
    },
    {"role": "tool", "content": "[1]"},
    {"role": "assistant", "content": "b", "reasoning_content": "hm"},
]
PLAIN = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
KINDS: list[dict[str, Any]] = [
    {"messages": TALK, "tools": TOOLS},
    {"messages": PLAIN * 2},
    {"prompt": TALK[:4], "chosen": TALK[4:5], "rejected": PLAIN[1:], "tools": TOOLS},
    {"prompt": PLAIN[:1], "chosen": PLAIN[1:], "rejected": [TALK[6]]},
    {"prompt": PLAIN[:1], "completion": PLAIN[1:], "label": False},
    {"text": "Two words\u2028中文"},
]
TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\\", b"\xff", b"\0", b"null"]
TOKENS += [b"1e999", b"NaN", b"\\ud800", b"\xef\xbb\xbf", b"\xff\xfe", "中".encode("gbk"), b"true"]
JUNK: list[Any] = [
    None,
    True,
    0,
    -1.5,
    "",
    " ",
    "\u200b",
    "x",
    [],
    {},
    [[]],
    [{}],
    ["a"],
    "[1",
    "{}",
]
JUNK += [{"role": "user"}, {"from": "gpt", "value": "v"}, "true", "gpt", "user", "\0", 10**400]
WORDS = ["role", "content", "from", "value", "messages", "prompt", "label", "images", "tools", "x"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file of each format and file type that can hold it."""
    folder, files = tmp_path_factory.mktemp("good"), []
    for number, row in enumerate(KINDS):
        numbered = Data([row | {"extra": {"n": n}} for n in range(3)])
        rare = ["parquet", "jsonl.gz", "txt"]  # once for each kind: their damage is mostly the same
        for form in dict.fromkeys(form.name for form in FORMATS):
            for suffix in ("jsonl", "json", "csv", *rare):
                name = f"{number}-{form.replace('/', '-')}.{suffix}"
                try:
                    data = Data([row] * 3) if suffix == "txt" else numbered
                    files.append(data.save(folder / name, form))
                except DataError:
                    continue  # what the format cannot hold
                if suffix in rare:
                    rare.remove(suffix)
    assert len(files) > 80
    return files


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them replaced, cut out, moved or doubled."""
    work = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(work) + 1)
        end = start + chance.choice([0, 0, 1, 2, 20, 200])
        work[start:end] = chance.choice([*TOKENS, b"", work[start:end] * 2])
    return bytes(work[: chance.randrange(1, len(work) + 2)] if chance.random() < 0.2 else work)


def disturbed(row: Any, chance: random.Random) -> Any:
    """The row with one value, key or item changed, somewhere inside."""
    if isinstance(row, dict) and row and chance.random() < 0.8:
        key = chance.choice(list(row))
        if chance.random() < 0.2:
            return {chance.choice(WORDS) if k == key else k: v for k, v in row.items()}
        return {**row, key: disturbed(row[key], chance)}
    if isinstance(row, list) and row and chance.random() < 0.8:
        place, items = chance.randrange(len(row)), list(row)
        turn = chance.random()
        items[place : place + 1] = [] if turn < 0.2 else [items[place]] * (2 if turn < 0.4 else 1)
        return (
            items
            if turn < 0.4
            else [*items[:place], disturbed(row[place], chance), *items[place + 1 :]]
        )
    return copy.deepcopy(chance.choice(JUNK))


def mutated(path: Path, chance: random.Random) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz" and chance.random() < 0.7:
        return gzip.compress(damaged(gzip.decompress(content), chance))
    if path.suffix not in (".json", ".jsonl") or chance.random() < 0.25:
        return damaged(content, chance)
    lines = content.decode().strip("[]\n").split("\n")
    rows = [json.loads(line.rstrip(",")) for line in lines]
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(rows))
        rows[place] = disturbed(rows[place], chance)
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.mark.parametrize("first", SEEDS[:: max(1, COUNT // 10)])
def test_only_data_errors_escape_and_rows_add_up(
    good: list[Path], tmp_path: Path, first: int
) -> None:
    for seed in range(first, min(first + max(1, COUNT // 10), COUNT)):
        chance = random.Random(f"fuzz {seed}")
        origin = chance.choice(good)
        path = tmp_path / f"{seed}{''.join(origin.suffixes)}"
        path.write_bytes(mutated(origin, chance))
        form = chance.choice([None, None, *(form.name for form in FORMATS)])
        try:
            data = read(path, on_bad_row="skip", formatting=form)
        except DataError as error:
            assert "Fix: " in str(error) and str(path) in str(error), (seed, origin.name)
        except BaseException as error:
            pytest.fail(f"seed {seed}, {origin.name}, {form}: {error!r}")
        else:
            assert data.rows_read == len(data) + len(data.rejected), (seed, origin.name)
            assert all("Fix: " in str(bad) for bad in data.rejected), (seed, origin.name)
            data._repr_html_()


@pytest.mark.parametrize("first", SEEDS[:: max(1, COUNT // 10)])
def test_whatever_is_read_can_be_written_and_read_again(
    good: list[Path], tmp_path: Path, first: int
) -> None:
    for seed in range(first, min(first + max(1, COUNT // 10), COUNT)):
        chance = random.Random(f"again {seed}")
        origin = chance.choice(good)
        path = tmp_path / f"{seed}{''.join(origin.suffixes)}"
        path.write_bytes(mutated(origin, chance))
        try:
            data = read(path, on_bad_row="skip")
        except DataError:
            continue
        data = Data({k: v for k, v in row.items() if k != "extra"} for row in data)
        form = chance.choice(list(dict.fromkeys(f.name for f in FORMATS if f.kind == data.kind)))
        suffix = chance.choice(["jsonl", "json", "csv", "tsv", "parquet"])
        try:
            again = read(data.save(tmp_path / f"{seed}-again.{suffix}", form), formatting=form)
        except DataError as error:
            assert "Fix: " in str(error), (seed, origin.name)
        else:
            told = ("source", "extra")
            one, two = (
                [{k: v for k, v in r.items() if k not in told} for r in d] for d in (data, again)
            )
            assert one == two, (seed, origin.name, form, suffix)
