"""Near-duplicates by MinHash and locality-sensitive hashing.

Two texts are alike when the sets of their five-letter pieces share much (Jaccard similarity). Of
each set a signature is kept: the smallest hash in each of 128 bins (one permutation hashing: Li,
Owen and Zhang 2012). Two signatures agree in a bin about as often as the sets are similar, so texts
that agree in a whole band of bins are candidates, and only candidates are compared piece by piece.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.errors import DataError

LETTERS, BINS = 5, 128
# How far below the truth a similarity estimated from 128 bins may lie: three standard deviations.
SLACK = 0.1


def near_twins(texts: Sequence[str], places: Sequence[int], near: float) -> dict[int, int]:
    """place -> place of an earlier text at least this similar, among the given places."""
    if not isinstance(near, int | float) or not 0 < near <= 1:
        raise DataError(f"near={near!r} is no similarity. Fix: write one up to 1, such as 0.8.")
    signed = signatures([texts[place] for place in places])
    found: dict[int, int] = {}
    for a, likely in groupby(_candidates(signed, near), key=itemgetter(0)):
        best = sorted(likely, key=itemgetter(2))[-2:]
        for b in dict.fromkeys(found.get(b, b) for _, b, _ in best):  # a twin's twin, if it has one
            if similarity(texts[places[a]], texts[places[b]]) >= near:
                found[a] = b
                break
    return {places[a]: places[b] for a, b in found.items()}


def _candidates(signed: NDArray[np.uint32], near: float) -> Iterator[tuple[int, int, float]]:
    """(row, earlier row, estimated similarity) in order of rows, where a whole band agrees."""
    width, count = _band_width(near), len(signed)
    bands = (signed[:, start : start + width] for start in range(0, BINS - width + 1, width))
    pairs = np.sort(np.concatenate([a * count + b for band in bands for a, b in _same(band)]))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    for start in range(0, len(pairs), 50_000):
        later, earlier = np.divmod(pairs[start : start + 50_000], count)
        alike = (signed[later] == signed[earlier]).mean(axis=1)
        likely = alike >= near - SLACK
        yield from zip(*(x[likely].tolist() for x in (later, earlier, alike)), strict=True)


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the sets of five-letter pieces, in any case of letters."""
    one, two = _pieces(a), _pieces(b)
    both = len(one & two)
    return both / (len(one) + len(two) - both)


@lru_cache(maxsize=4096)
def _pieces(text: str) -> set[str]:
    text = _padded(text)
    return {text[start : start + LETTERS] for start in range(len(text) - LETTERS + 1)}


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """[texts, BINS]: the smallest hash of each text's pieces in each bin."""
    parts = (_signatures(texts[start : start + 500]) for start in range(0, len(texts), 500))
    return np.concatenate([*parts])


def _signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    padded = [_padded(text) for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(codes) - LETTERS + 1, np.uint64)
    for at in range(LETTERS):  # numbers of 64 bits wrap around: that is the hash
        hashes = hashes * np.uint64(0x100000001B3) + codes[at : at + len(hashes)]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    lengths = np.array([len(text) for text in padded])
    owner, ends = np.repeat(np.arange(len(texts)), lengths), np.cumsum(lengths)
    inside = np.arange(len(hashes)) + LETTERS <= ends[owner[: len(hashes)]]  # within one text
    places = owner[: len(hashes)] * BINS + (hashes >> np.uint64(57)).astype(np.intp)
    smallest = np.full(len(texts) * BINS, _EMPTY, np.uint32)
    np.minimum.at(smallest, places[inside], (hashes[inside] >> np.uint64(25)).astype(np.uint32))
    table = smallest.reshape(len(texts), BINS)
    while (empty := table == _EMPTY).any():  # short texts: an empty bin borrows from the next
        table = np.where(empty, np.roll(table, -1, axis=1), table)
    return table


_EMPTY = np.uint32(2**32 - 1)


def _padded(text: str) -> str:
    return text.casefold().ljust(LETTERS)


def _band_width(near: float) -> int:
    """The widest band that still brings 99 % of the texts this similar together."""
    return max(w for w in range(1, 17) if w == 1 or (1 - near**w) ** (BINS // w) <= 0.01)


def _same(band: NDArray[np.uint32]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs of rows with the same band: each with the two before it, and the first, of its group.

    Not all pairs: a band that thousands share (a template's words) would give millions of them.
    """
    keys = band.astype(np.uint64) @ _ODD[: band.shape[1]]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    for back in (1, 2):
        same = keys[back:] == keys[:-back]
        yield order[back:][same], order[:-back][same]
    starts = np.searchsorted(keys, keys)
    far = np.arange(len(keys)) - starts > 2
    yield order[far], order[starts[far]]


_ODD = np.random.default_rng(0).integers(1, 2**63, 16, dtype=np.uint64) * np.uint64(2) + np.uint64(
    1
)
