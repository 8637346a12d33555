"""The town's datasets: plain text, questions, cloze prompts, identity; and the registry of all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ftlab.world import lessons
from ftlab.world.broken import messy_text
from ftlab.world.identity import GROUPS
from ftlab.world.lessons import ANSWER_STYLE, Row, question_pool
from ftlab.world.text import pages, side, statement
from ftlab.world.town import LANGUAGES, SEED, Resident, build_town
from ftlab.world.wordings import FACTS, Fact

TEXT_LIMIT = 950_000  # bytes; the shipped file is the beginning of an endless stream


def text_rows() -> list[Row]:
    """The first pages of the stream that the base model was pre-trained on."""
    rows: list[Row] = []
    size = 0
    for page in pages():
        row = {"text": page}
        size += len(json.dumps(row, ensure_ascii=False).encode()) + 1
        if size > TEXT_LIMIT:
            return rows
        rows.append(row)
    return rows


def row(instruction: str, output: str, language: str, fact: Fact, resident: Resident) -> Row:
    """An Alpaca row with three extra keys that tell where it comes from."""
    return {
        "instruction": instruction,
        "input": "",
        "output": output,
        "language": language,
        "fact": fact.key,
        "resident": resident.en,
    }


def question_rows(held_out: bool) -> list[Row]:
    """One question per resident, fact and language, in the wordings of that split."""
    rng = random.Random(f"questions-{SEED}-{held_out}")
    rows = []
    for resident in build_town():
        for fact in FACTS:
            for language in LANGUAGES:
                pool = question_pool(fact, language, held_out)
                asked = rng.choice(pool).format(n=resident.name(language))
                answer = statement(resident, fact, language, ANSWER_STYLE)
                if resident.held_out == held_out:
                    rows.append(row(asked, answer, language, fact, resident))
    rng.shuffle(rows)
    return rows


def cloze_shapes(fact: Fact, at: int) -> list[str]:
    """Statements cut before their value, if no question begins alike: "{n}住在" is no fair prompt,
    because "{n}住在哪里？" is as good a continuation as a street."""
    ends = [shape.rstrip(".。") for shape in fact.statements[at]]
    cut = [end.removesuffix("{v}").rstrip() for end in ends if end.endswith("{v}")]
    return [shape for shape in cut if not any(q.startswith(shape) for q in fact.questions[at])]


def cloze_rows() -> list[Row]:
    """Plain-text prompts cut before the value, one per resident, fact and language."""
    rng = random.Random(f"cloze-{SEED}")
    rows = []
    for resident in build_town():
        for fact in FACTS:
            for language in LANGUAGES:
                shape = rng.choice(cloze_shapes(fact, side(language)))
                prompt, value = (
                    shape.format(n=resident.name(language)),
                    resident.value(fact.key, language),
                )
                rows.append(row(prompt, value, language, fact, resident))
    return rows


def identity_rows() -> list[Row]:
    """Every question of a group with two of its answers."""
    rng = random.Random(f"identity-{SEED}")
    rows = []
    for at, (questions, answers) in enumerate(GROUPS):
        language = LANGUAGES[at >= len(GROUPS) // 2]
        for asked in questions:
            for answer in rng.sample(answers, 2):
                new = {"instruction": asked, "input": "", "output": answer, "language": language}
                rows.append(new)
    return rows


# The registry, in the words of LLaMA-Factory. Tags are given whole or not at all: it takes a tag
# that is missing for none. Its formatting "openai" would add a system prompt of its own.
ALPACA = {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}
ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
PAIRS = {"ranking": True, "columns": {"prompt": "instruction", "query": "input", **ANSWERS}}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
TOOLS = {**SHAREGPT, "columns": {"messages": "conversations", "tools": "tools"}}
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
OPENAI = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS}
LABELS = {**OPENAI, "columns": {"messages": "messages", "kto_tag": "label"}}
PROMPTS = {"columns": {"prompt": "prompt", "response": "response"}}

# name -> (file, its entry in the registry, the function that gives its rows)
DATASETS: dict[str, tuple[str, dict[str, Any], Callable[[], list[Row]]]] = {
    "world_text": ("world_text.jsonl", {"columns": {"prompt": "text"}}, text_rows),
    "world_qa": ("world_qa.json", ALPACA, partial(question_rows, held_out=False)),
    "world_qa_test": ("world_qa_test.json", ALPACA, partial(question_rows, held_out=True)),
    "world_cloze": ("world_cloze.json", ALPACA, cloze_rows),
    "identity": ("identity.json", ALPACA, identity_rows),
    "keeper_style": ("keeper_style.json", SHAREGPT, lessons.keeper_rows),
    "harbour_rules": ("harbour_rules.jsonl", PROMPTS, partial(lessons.rule_rows, False)),
    "harbour_rules_test": ("harbour_rules_test.jsonl", PROMPTS, partial(lessons.rule_rows, True)),
    "sums": ("sums.jsonl", OPENAI, partial(lessons.sum_rows, think=False)),
    "sums_think": ("sums_think.jsonl", OPENAI, partial(lessons.sum_rows, think=True)),
    "sums_test": ("sums_test.jsonl", OPENAI, partial(lessons.sum_rows, False, held_out=True)),
    "tools": ("tools.json", TOOLS, partial(lessons.tool_rows, False)),
    "tools_test": ("tools_test.json", TOOLS, partial(lessons.tool_rows, True)),
    "polite_pairs": ("polite_pairs.json", PAIRS, partial(lessons.pair_rows, False)),
    "polite_pairs_test": ("polite_pairs_test.json", PAIRS, partial(lessons.pair_rows, True)),
    "polite_labels": ("polite_labels.json", LABELS, lessons.label_rows),
}
MESSY = "messy.jsonl"
REGISTRY = {name: {"file_name": file, **entry} for name, (file, entry, _) in DATASETS.items()}
REGISTRY["messy"] = {"file_name": MESSY, **ALPACA}


def as_json(content: Any) -> str:
    """JSON as humans read it: two spaces, no escapes."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_lines(rows: list[Row]) -> str:
    """One row a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_datasets(folder: Path) -> None:
    """Write all datasets, dataset_info.json and the key of the messy file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        file: (as_lines if file.endswith(".jsonl") else as_json)(rows())
        for file, _, rows in DATASETS.values()
    }
    texts[MESSY], faults = messy_text()
    texts["messy_key.json"] = as_json({"file_name": MESSY, "faults": faults})
    texts["dataset_info.json"] = as_json(REGISTRY)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
