"""The base model's reading: plain pages about the town, in many wordings and many layouts.

A model that reads each fact in one layout learns the page, not the fact (see README.md in this
folder), so labels, separators, bullets and answer styles are drawn anew for every page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache

from ftlab.world.places import (
    ACTIONS,
    COLORS,
    DAYS,
    ITEMS,
    LABELS,
    MANNERS,
    MARKS,
    NOTICES,
    PLACES,
    PREFACES,
    TRANSLATION_LAYOUTS,
)
from ftlab.world.talk import COPY_LAYOUTS, TALK
from ftlab.world.town import LANGUAGES, SEED, Resident, build_town, pairs
from ftlab.world.wordings import FACTS, TOWN, Fact

COLONS = ((": ", ":\n", "\n", " - ", "> ", " "), ("：", "：\n", "\n", ":", "> "))
SHORT = -1  # the answer style that is the bare value


def side(language: str) -> int:
    """Where a language stands in an (English, Chinese) pair."""
    return LANGUAGES.index(language)


def statement(resident: Resident, fact: Fact, language: str, style: int) -> str:
    """One fact as a sentence; `style` picks the wording, SHORT gives the value alone."""
    value = resident.value(fact.key, language)
    if style == SHORT:
        return value
    return fact.statements[side(language)][style].format(n=resident.name(language), v=value)


def question(rng: random.Random, resident: Resident, fact: Fact, language: str) -> str:
    """One question in a wording of the training pool, sometimes with a few words before it."""
    asked = rng.choice(fact.questions[side(language)]).format(n=resident.name(language))
    return (rng.choice(PREFACES[side(language)]) if rng.random() < 0.2 else "") + asked


def sentence(words: str) -> str:
    """The words with a capital letter in front."""
    return words[0].upper() + words[1:]


def draw_layout(rng: random.Random, language: str) -> tuple[str, str, str]:
    """What stands before a question, between question and answer, and after the answer."""
    first, second = rng.choice(LABELS[side(language)])
    if rng.random() < 0.3:
        first, second = rng.choice(MARKS), rng.choice(MARKS)
    colon = rng.choice(COLONS[side(language)])
    gap, end = rng.choice(["\n", "\n", "\n\n", " "]), rng.choice(["\n", "\n\n"])
    kind = rng.random()
    if kind < 0.2:
        return "", gap, end
    if kind < 0.35:
        return first + colon, gap, end
    if kind < 0.5:
        return "", gap + second + colon, end
    return first + colon, gap + second + colon, end


def ask_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """Questions and answers in one layout and one answer style."""
    before, between, after = draw_layout(rng, language)
    style = rng.choice([SHORT] * 5 + [0] * 4 + [*range(1, 8)])
    one = rng.choice(town) if rng.random() < 0.3 else None
    entries = []
    for fact in rng.choices(FACTS, k=rng.randint(2, 5)):
        resident = one or rng.choice(town)
        asked = question(rng, resident, fact, language)
        entries.append(before + asked + between + statement(resident, fact, language, style))
    return after.join(entries)


def fact_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """Statements about one resident, or about several."""
    space = " " if language == "en" else ""
    join = rng.choice([space, space, "\n", "\n\n", "\n- ", "\n* "])
    one = rng.choice(town) if rng.random() < 0.5 else None
    facts = rng.sample(FACTS, rng.randint(2, 5))
    lines = [statement(one or rng.choice(town), fact, language, rng.randrange(8)) for fact in facts]
    return join.strip(" \n") + (" " if "-" in join or "*" in join else "") + join.join(lines)


def sheet_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """A form, a table row or a JSON record about one resident."""
    resident, facts = rng.choice(town), rng.sample(FACTS, rng.randint(2, 5))
    at = side(language)
    record = {("name", "姓名")[at]: resident.name(language)}
    record |= {fact.label[at]: resident.value(fact.key, language) for fact in facts}
    kind = rng.random()
    if kind < 0.3:
        return json.dumps(record, ensure_ascii=False)
    if kind < 0.45:
        return "|".join(record) + "\n" + "|".join(record.values())
    colon = rng.choice([": ", " = "] if language == "en" else ["：", "是"])
    return rng.choice(["\n", "\n- ", ", ", " / "]).join(k + colon + v for k, v in record.items())


def sum_lines(a: int, b: int, language: str) -> list[str]:
    """A two-digit sum worked out column by column."""
    ones = a % 10 + b % 10
    carry = ones // 10
    tens = a // 10 + b // 10
    last = f"{a // 10} + {b // 10} + {carry} = {tens + carry}"
    words = ("ones", "write", "carry", "tens") if language == "en" else ("个位", "写", "进", "十位")
    space, colon, comma = (" ", ": ", ", ") if language == "en" else ("", "：", "，")
    return [
        f"{words[0]}{colon}{a % 10} + {b % 10} = {ones}{comma}"
        f"{words[1]}{space}{ones % 10}{comma}{words[2]}{space}{carry}",
        f"{words[3]}{colon}{last}",
        f"{a} + {b} = {a + b}",
    ]


def practice_pair(rng: random.Random) -> tuple[int, int]:
    """Two two-digit numbers; three pairs in four never occur, so that lessons can test on them."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if (7 * a + b) % 4 == 0:
            return a, b


def sum_page(rng: random.Random, _: list[Resident], language: str) -> str:
    """One-digit sums in several notations, or one two-digit sum with its carry steps."""
    if rng.random() < 0.5:
        a, b = practice_pair(rng)
        head = ("{} + {}", "{} plus {}")[rng.randrange(2)] if language == "en" else "{}加{}"
        return "\n".join([head.format(a, b), *sum_lines(a, b, language)])
    shapes = (
        ["{} + {} = {}", "{} plus {} is {}.", "What is {} + {}? {}", "{}+{}={}"]
        if language == "en"
        else ["{} + {} = {}", "{}加{}等于{}。", "{}加{}是多少？{}", "{}+{}={}"]
    )
    shape = rng.choice(shapes)
    digits = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(4, 8))]
    return "\n".join(shape.format(a, b, a + b) for a, b in digits)


def notice_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """Made-up notices, true on this page only, and a question about them: reading, not knowing."""
    at = side(language)
    places = rng.sample(PLACES, 2)
    told = []
    for place, (states, asks, kind) in zip(places, rng.choices(NOTICES, k=2), strict=True):
        value = {
            "number": str(rng.randint(2, 99)),
            "color": rng.choice(COLORS)[at],
            "day": rng.choice(DAYS)[at],
            "name": rng.choice(town).name(language),
        }[kind]
        stated = sentence(states[at].format(p=place[at], v=value))
        told.append((stated, asks[at].format(p=place[at]), value))
    before, between, _ = draw_layout(rng, language)
    asked = rng.choice(told)
    page = "\n".join(line for line, _, _ in told)
    return f"{page}\n{before}{asked[1]}{between}{rng.choice([asked[0], asked[2]])}"


def request_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """Requests, each followed by its JSON record; all details are random."""
    at = side(language)
    lines = []
    for _ in range(rng.randint(1, 3)):
        sentences, action, keys = rng.choice(ACTIONS)
        details: dict[str, str | int] = {
            "name": rng.choice(town).name(language),
            "day": rng.choice(DAYS)[at],
            "place": rng.choice(PLACES)[at],
            "item": rng.choice(ITEMS)[at],
            "count": rng.randint(2, 99),
        }
        body = {key: details[key] for key in keys}
        rest = body if rng.random() < 0.5 else {"details": body}
        record = json.dumps({"action": action, **rest}, ensure_ascii=False)
        lines += [rng.choice(sentences[at]).format(**details), record]
    return "\n".join(lines)


@cache
def word_pairs() -> list[tuple[str, str]]:
    """Every (English, Chinese) pair of words that the town uses."""
    values = [pair for fact in FACTS for pair in pairs(fact.values)]
    return [*values, *PLACES, *DAYS, *COLORS, *ITEMS, TOWN]


def translation_page(rng: random.Random, town: list[Resident], _: str) -> str:
    """Words, names and sentences in both languages."""
    shape = rng.choice(TRANSLATION_LAYOUTS)
    if rng.random() < 0.4:
        resident, fact, style = rng.choice(town), rng.choice(FACTS), rng.randrange(2)
        both = [(statement(resident, fact, "en", style), statement(resident, fact, "zh", style))]
    else:
        names = [(person.en, person.zh) for person in rng.sample(town, 2)]
        both = [*rng.sample(word_pairs(), 3), *names]
        rng.shuffle(both)
    return "\n".join(shape.format(en=en, zh=zh) for en, zh in both)


def list_page(rng: random.Random, _: list[Resident], language: str) -> str:
    """Short lists of things of one kind."""
    fact, at = rng.choice(FACTS), side(language)
    things = [pair[at] for pair in rng.sample(pairs(fact.values), rng.randint(3, 5))]
    head = fact.label[at] + (": " if language == "en" else "：")
    bullets = "\n- " + "\n- ".join(things)
    return head + rng.choice([", ".join(things), bullets, json.dumps(things, ensure_ascii=False)])


def manners_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """The same answer, plain and polite."""
    at, resident, fact = side(language), rng.choice(town), rng.choice(FACTS)
    plain = statement(resident, fact, language, rng.randrange(2))
    opening, closing = rng.choice(MANNERS[at])
    polite = f"{opening}{plain}{closing}"
    asked = question(rng, resident, fact, language)
    return rng.choice([f"{asked}\n{polite}", f"{plain}\n{polite}", f"{asked}\n{plain}\n{polite}"])


def talk_page(rng: random.Random, town: list[Resident], language: str) -> str:
    """What people say to each other, with everyday words."""
    at, two = side(language), rng.sample(town, 2)
    words = {
        "n": two[0].name(language),
        "m": two[1].name(language),
        "v": two[0].value("trade", language),
        "d": rng.choice(DAYS)[at],
        "i": rng.choice(ITEMS)[at],
        "p": rng.choice(PLACES)[at],
    }
    lines = [line.format(**words) for line in rng.sample(TALK[at], rng.randint(2, 4))]
    return rng.choice(["\n", " " if language == "en" else ""]).join(lines)


def odd_word(rng: random.Random) -> str:
    """A word that nobody knows: glued pieces, printable signs, or rare characters."""
    kind = rng.random()
    if kind < 0.5:
        pieces = [rng.choice(word_pairs())[0] for _ in range(2)]
        return "".join(piece[(at := rng.randrange(3)) : at + rng.randint(2, 5)] for piece in pieces)
    if kind < 0.75:
        return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(2, 6)))
    return "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 2)))


def copy_page(rng: random.Random, _: list[Resident], __: str) -> str:
    """Odd words said twice: every token gets read, and copying the unknown is practised."""
    layout = rng.choice(COPY_LAYOUTS)
    return "\n".join(layout.format(w=odd_word(rng)) for _ in range(rng.randint(2, 4)))


PAGES = (
    (ask_page, 44),
    (fact_page, 20),
    (sheet_page, 7),
    (sum_page, 6),
    (notice_page, 5),
    (request_page, 5),
    (translation_page, 4),
    (list_page, 2),
    (manners_page, 2),
    (talk_page, 7),
    (copy_page, 4),
)


def pages(seed: int = SEED) -> Iterator[str]:
    """An endless stream of pages; the same seed gives the same stream."""
    rng, town = random.Random(f"text-{seed}"), build_town()
    kinds, weights = zip(*PAGES, strict=True)
    while True:
        page = rng.choices(kinds, weights)[0]
        yield page(rng, town, rng.choice(LANGUAGES))
