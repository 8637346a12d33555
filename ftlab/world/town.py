"""Tidewick, a fictional harbor town: its residents and the facts about them, in two languages.

Everything is drawn from one seed with the standard library alone: the town is the same everywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ftlab.world.wordings import FACTS, FIRST_NAMES, LAST_NAMES

SEED = 2026
LANGUAGES = ("en", "zh")
TEST_SHARE = 3  # every third resident is kept out of the training questions


@dataclass(frozen=True)
class Resident:
    """One inhabitant. `values[fact]` is the (English, Chinese) pair of that fact's value."""

    en: str
    zh: str
    values: dict[str, tuple[str, str]]
    held_out: bool

    def name(self, language: str) -> str:
        """The resident's name in `language` ("en" or "zh")."""
        return self.en if language == "en" else self.zh

    def value(self, fact: str, language: str) -> str:
        """The value of `fact` in `language`, without article or final punctuation."""
        return self.values[fact][LANGUAGES.index(language)]


def pairs(table: str) -> list[tuple[str, str]]:
    """Split "word 词, two words 两词" into (English, Chinese) pairs."""
    words = [item.split() for item in table.split(",")]
    return [(" ".join(item[:-1]), item[-1]) for item in words]


def shuffled_deck(
    rng: random.Random, cards: list[tuple[str, str]], size: int
) -> list[tuple[str, str]]:
    """`size` cards in random order, each card equally often: no value is a good guess."""
    deck = [cards[i % len(cards)] for i in range(size)]
    rng.shuffle(deck)
    return deck


def build_town(seed: int = SEED) -> list[Resident]:
    """All residents of the town, in alphabetical order of their first names."""
    rng = random.Random(f"town-{seed}")
    first = pairs(FIRST_NAMES)
    last = shuffled_deck(rng, pairs(LAST_NAMES), len(first))
    decks = {fact.key: shuffled_deck(rng, pairs(fact.values), len(first)) for fact in FACTS}
    held_out = shuffled_deck(rng, [(str(i), "") for i in range(TEST_SHARE)], len(first))
    return [
        Resident(
            en=f"{first[i][0]} {last[i][0]}",
            zh=f"{last[i][1]}{first[i][1]}",
            values={key: deck[i] for key, deck in decks.items()},
            held_out=held_out[i][0] == "0",
        )
        for i in range(len(first))
    ]
