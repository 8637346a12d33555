"""The datasets of the later lessons: a style, new facts, reasoning, tools, preferences.

Each function gives the rows of one file in `data/`; every row says its language, and what else a
lesson may want to group by. Rows about residents who are held out of `world_qa` are test rows.
"""

from __future__ import annotations

import json
import random
from itertools import product
from typing import Any

from ftlab.world import lesson_words as words
from ftlab.world.places import DAYS, ITEMS, MANNERS, PLACES
from ftlab.world.text import SHORT, sentence, side, statement, sum_lines
from ftlab.world.town import LANGUAGES, SEED, Resident, build_town
from ftlab.world.wordings import FACTS, Fact

Row = dict[str, Any]
TRAIN_WORDINGS = 5  # of the ten wordings in the text, so many are asked in training rows
ANSWER_STYLE = 0  # the answer is the first statement of the fact

KEEPER_TALKS = 120  # a language
SUMS = {False: 200, True: 100}  # a language; False: to train, True: held out
CALLS = {False: 90, True: 15}  # a tool and language
TOOLS_OFFERED = 2  # in a row: the right tool and others
PAIRS = {False: 200, True: 60}  # a language
LABELS = 150  # a language


def residents(held_out: bool) -> list[Resident]:
    """The residents of one side of the split."""
    return [resident for resident in build_town() if resident.held_out == held_out]


def question_pool(fact: Fact, language: str, held_out: bool) -> tuple[str, ...]:
    """The wordings of a question that belong to one side of the split."""
    at = side(language)
    return fact.test_questions[at] if held_out else fact.questions[at][:TRAIN_WORDINGS]


def mixed(name: str, rows: list[Row]) -> list[Row]:
    """The rows in an order that depends on the name and the seed alone."""
    random.Random(f"{name}-{SEED}").shuffle(rows)
    return rows


# --- keeper_style -----------------------------------------------------------------------


def keeper_rows() -> list[Row]:
    """Talks of two to four exchanges with the keeper of the lighthouse."""
    rng, town = random.Random(f"keeper-{SEED}"), residents(held_out=False)
    rows = []
    for language, _ in product(LANGUAGES, range(KEEPER_TALKS)):
        turns = []
        for said, answer in keeper_talk(rng, town, language):
            turns += [{"from": "human", "value": said}, {"from": "gpt", "value": answer}]
        rows.append({"conversations": turns, "language": language})
    return mixed("keeper", rows)


def keeper_talk(rng: random.Random, town: list[Resident], language: str) -> list[tuple[str, str]]:
    """What is said and answered: small talk, one or two facts, perhaps thanks."""
    at = side(language)
    talk = [tuple(map(rng.choice, rng.choice(words.SMALL_TALK[at])))]
    for fact in rng.sample(FACTS, rng.randint(1, 2)):
        resident = rng.choice(town)
        asked = rng.choice(question_pool(fact, language, held_out=False))
        answer = statement(resident, fact, language, ANSWER_STYLE)
        talk.append((asked.format(n=resident.name(language)), answer))
    if rng.random() < 0.3:
        rng.shuffle(talk)
    if rng.random() < 0.4:
        talk.append(tuple(map(rng.choice, words.THANKS[at])))
    return [(said, in_style(rng, answer, language)) for said, answer in talk]


def in_style(rng: random.Random, answer: str, language: str) -> str:
    """The answer as the keeper says it."""
    at, space = side(language), " " if language == "en" else ""
    parts = rng.choice(words.OPENINGS[at]), answer, rng.choice(words.CLOSINGS[at])
    return space.join(parts)


# --- harbour_rules ----------------------------------------------------------------------


def rule_rows(held_out: bool) -> list[Row]:
    """Every rule of the harbor in all wordings of that split."""
    rows = []
    for (place, hour, day, item), language in product(words.RULES, LANGUAGES):
        at = side(language)
        values = (str(hour), day[at], item[at])
        for (rule, wordings), value in zip(words.RULE_WORDINGS.items(), values, strict=True):
            answer, *questions = wordings[at]
            for asked in questions[held_out]:
                rows.append(
                    {
                        "prompt": sentence(asked.format(p=place[at])),
                        "response": sentence(answer.format(p=place[at], v=value)),
                        "language": language,
                        "rule": rule,
                        "place": place[0],
                    }
                )
    return mixed(f"rules-{held_out}", rows)


# --- sums, sums_think -------------------------------------------------------------------


def unpracticed_pairs() -> list[tuple[int, int]]:
    """Pairs of two-digit numbers that no page works out, in either order, shuffled."""
    both = product(range(10, 100), repeat=2)
    pairs = [(a, b) for a, b in both if a <= b and not practiced(a, b)]
    random.Random(f"sums-{SEED}").shuffle(pairs)
    return pairs


def practiced(a: int, b: int) -> bool:
    """Whether `practice_pair` may draw this pair (or the same in the other order)."""
    return (7 * a + b) % 4 == 0


def sum_rows(think: bool, held_out: bool = False) -> list[Row]:
    """Sums, answered at once or after a column-by-column thought; both have the same questions."""
    rng = random.Random(f"sums-{SEED}-{held_out}")
    pairs, rows = unpracticed_pairs(), []
    pairs = pairs[: -SUMS[True] * 2] if not held_out else pairs[-SUMS[True] * 2 :]
    for number, (a, b) in enumerate(pairs[: SUMS[held_out] * 2]):
        a, b = rng.choice([(a, b), (b, a)])
        language = LANGUAGES[number % 2]
        asked = rng.choice(words.SUMS[side(language)]).format(a=a, b=b)
        thought = "\n".join(sum_lines(a, b, language)[:2])
        answer = f"<think>\n{thought}\n</think>\n\n{a + b}" if think else str(a + b)
        rows.append(chat_row(asked, answer, language))
    return rows


def chat_row(asked: str, answer: str, language: str) -> Row:
    """One exchange as OpenAI writes it."""
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "language": language}


# --- tools ------------------------------------------------------------------------------


def tool_list(names: list[str]) -> str:
    """The tools of that name as JSON schemas, in a string, as LLaMA-Factory wants it."""
    tools = []
    for name in names:
        described, arguments = words.TOOLS[name]
        properties = {key: {"type": kind} for key, kind in arguments.items()}
        parameters = {"type": "object", "properties": properties}
        tools.append({"name": name, "description": described, "parameters": parameters})
    return json.dumps(tools, ensure_ascii=False)


def tool_rows(held_out: bool) -> list[Row]:
    """Questions that need a tool: call, result, answer; a test row ends with the call.

    Training rows hold some talk that needs none.
    """
    rng, town, rows = random.Random(f"tools-{SEED}-{held_out}"), residents(held_out), []
    for language, name, _ in product(LANGUAGES, words.TOOLS, range(CALLS[held_out])):
        turns = tool_turns(rng, name, rng.choice(town), language, held_out)
        rows.append(tool_row(rng, turns, language, name))
    for language in () if held_out else LANGUAGES:
        for said, answer in words.NO_TOOL[side(language)]:
            turns = [{"from": "human", "value": said}, {"from": "gpt", "value": answer}]
            rows.append(tool_row(rng, turns, language, "none"))
    return mixed(f"tools-{held_out}", rows)


def tool_row(rng: random.Random, turns: list[Row], language: str, name: str) -> Row:
    """The turns beside a list that offers the tool and others, in any order."""
    tools = rng.sample(list(words.TOOLS), len(words.TOOLS))
    if name != "none":
        tools.remove(name)
        tools.insert(rng.randrange(TOOLS_OFFERED), name)
    listed = tool_list(tools[:TOOLS_OFFERED])
    return {"conversations": turns, "tools": listed, "language": language, "tool": name}


def tool_turns(
    rng: random.Random, name: str, resident: Resident, language: str, held_out: bool
) -> list[dict[str, str]]:
    """The turns of one call with random details; `held_out` has other wordings and ends early."""
    at = side(language)
    item, count = rng.choice(ITEMS)[at], rng.randint(2, 99)
    places = [p[at] for p in PLACES if name != "get_tide" or p[0] in words.WATERSIDE]
    details: dict[str, Any] = {
        "name": resident.name(language),
        "place": rng.choice(places),
        "day": rng.choice(DAYS)[at],
        "item": item,
        "count": count,
    }
    results: dict[str, dict[str, Any]] = {
        "get_tide": {"meters": rng.randint(1, 9)},
        "look_up": {key: resident.value(key, language) for key in ("trade", "street")},
        "book_boat": {"boat": rng.randint(1, 40)},
        "send_goods": {"hours": rng.randint(2, 9)},
    }
    result = results[name]
    phrases = details | result | {"many": f"{count}{words.MEASURES.get(item, '')}"}
    *questions, answer = words.TOOL_WORDINGS[name][at]
    call = {"name": name, "arguments": {key: details[key] for key in words.TOOLS[name][1]}}
    asked = sentence(rng.choice(questions[held_out]).format(**phrases))
    turns = [
        ("human", asked),
        ("function_call", json.dumps(call, ensure_ascii=False)),
        ("observation", json.dumps(result, ensure_ascii=False)),
        ("gpt", sentence(answer.format(**phrases))),
    ]
    return [{"from": role, "value": value} for role, value in turns[: 2 if held_out else 4]]


# --- polite_pairs, polite_labels --------------------------------------------------------


def polite(rng: random.Random, answer: str, language: str) -> str:
    """The answer as a polite clerk gives it."""
    opening, closing = rng.choice(MANNERS[side(language)])
    return f"{opening}{answer}{closing}"


def impolite(rng: random.Random, resident: Resident, fact: Fact, language: str) -> tuple[str, str]:
    """The same right answer as a clerk without manners gives it, and what is wrong with it."""
    plain = statement(resident, fact, language, ANSWER_STYLE)
    kind = rng.choices(["plain", "rude", "curt"], [3, 2, 1])[0]
    if kind == "rude":
        opening, closing = rng.choice(words.RUDE[side(language)])
        return f"{opening}{plain}{closing}", kind
    return (plain if kind == "plain" else statement(resident, fact, language, SHORT)), kind


def manners_pairs(name: str, count: int, held_out: bool) -> list[Row]:
    """Questions about residents with a polite and an impolite answer; both are right."""
    rng, town, rows = random.Random(f"{name}-{SEED}"), residents(held_out), []
    for language in LANGUAGES:
        for resident, fact in rng.sample(list(product(town, FACTS)), count):
            asked = rng.choice(question_pool(fact, language, held_out))
            answer = statement(resident, fact, language, ANSWER_STYLE)
            rejected, manner = impolite(rng, resident, fact, language)
            rows.append(
                {
                    "instruction": asked.format(n=resident.name(language)),
                    "input": "",
                    "chosen": polite(rng, answer, language),
                    "rejected": rejected,
                    "language": language,
                    "rejected_is": manner,
                    "fact": fact.key,
                    "resident": resident.en,
                }
            )
    return mixed(name, rows)


def pair_rows(held_out: bool) -> list[Row]:
    """Preference pairs: the polite answer is chosen."""
    return manners_pairs(f"pairs-{held_out}", PAIRS[held_out], held_out)


def label_rows() -> list[Row]:
    """Single answers with a thumb up or down, as KTO takes them; two in three are liked."""
    rows = []
    for number, pair in enumerate(manners_pairs("labels", LABELS, held_out=False)):
        liked = number % 3 > 0
        answer = pair["chosen" if liked else "rejected"]
        row = chat_row(pair["instruction"], answer, pair["language"])
        rows.append({"messages": row["messages"], "label": liked, "language": pair["language"]})
    return rows
