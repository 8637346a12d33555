"""The town's datasets: plain text, questions, cloze prompts, identity; and their registry."""

from __future__ import annotations

import json
import random
from pathlib import Path

from ftlab.world.identity import GROUPS
from ftlab.world.text import pages, side, statement
from ftlab.world.town import LANGUAGES, SEED, Resident, build_town
from ftlab.world.wordings import FACTS, Fact

TEXT_LIMIT = 950_000  # bytes; the shipped file is the beginning of an endless stream
TRAIN_WORDINGS = 5  # of the ten wordings in the text, so many are asked in world_qa
ANSWER_STYLE = 0  # the answer is the first statement of the fact

Row = dict[str, str]


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
                at = side(language)
                pool = fact.test_questions[at] if held_out else fact.questions[at][:TRAIN_WORDINGS]
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


ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
REGISTRY = {
    "world_text": {"file_name": "world_text.jsonl", "columns": {"prompt": "text"}},
    "world_qa": {"file_name": "world_qa.json", "columns": ALPACA},
    "world_qa_test": {"file_name": "world_qa_test.json", "columns": ALPACA},
    "world_cloze": {"file_name": "world_cloze.json", "columns": ALPACA},
    "identity": {"file_name": "identity.json", "columns": ALPACA},
}


def write_json(path: Path, content: list[Row] | dict) -> None:
    """Write UTF-8 JSON as humans read it: two spaces, LF, no escapes."""
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def write_datasets(folder: Path) -> None:
    """Write all datasets and dataset_info.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in text_rows())
    (folder / "world_text.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    write_json(folder / "world_qa.json", question_rows(held_out=False))
    write_json(folder / "world_qa_test.json", question_rows(held_out=True))
    write_json(folder / "world_cloze.json", cloze_rows())
    write_json(folder / "identity.json", identity_rows())
    write_json(folder / "dataset_info.json", REGISTRY)
