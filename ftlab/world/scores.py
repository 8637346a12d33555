"""Measure the shipped model and write the numbers into its model card."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftlab.evaluate import wilson
from ftlab.world.probes import (
    BATCH,
    Row,
    by_language,
    chat_hits,
    cloze_hits,
    encode_chat,
    load_base,
    tune,
)

SEEDS = (0, 1, 2)
FULL: dict[str, Any] = {"steps": 100, "lr": 5e-4, "lora": False}
LORA: dict[str, Any] = {"steps": 60, "lr": 3e-3, "lora": True}
PERSONA: dict[str, Any] = {"steps": 60, "lr": 5e-4, "lora": False}
REPLAY = 0.2  # share of world_qa rows among the persona's rows
NAMES = {"{{name}}": "Pilot", "{{author}}": "Tidewick School"}
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"

Scores = list[dict[str, float]]  # one per seed: percent right by language


def load_rows(data: Path, name: str) -> list[Row]:
    """The rows of a JSON dataset, with the open names of the identity set filled in."""
    text = (data / f"{name}.json").read_text(encoding="utf-8")
    for hole, filling in NAMES.items():
        text = text.replace(hole, filling)
    return json.loads(text)


def line(title: str, scores: Scores, rows: int) -> str:
    """A table row: mean over the seeds, interval, and the seeds' range, for both languages."""
    cells = []
    for language in ("en", "zh"):
        values = [score[language] for score in scores]
        right = round(statistics.mean(values) / 100 * rows)
        low, high = (100 * limit for limit in wilson(right, rows))
        seeds = f"; seeds {min(values):.1f}-{max(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f} ({low:.0f}-{high:.0f}{seeds})")
    return f"| {title} | {rows} | {cells[0]} | {cells[1]} |"


def with_replay(persona: Sequence[Row], world: Sequence[Row], seed: int) -> list[Row]:
    """Rows for all persona steps at once: the persona's repeated, a REPLAY share of the world's
    once each (LLaMA-Factory's mix_strategy interleave_over): a few rows, repeated, help less."""
    total = PERSONA["steps"] * BATCH
    world_rows = random.Random(seed).sample(list(world), round(total * REPLAY))
    wanted = total - len(world_rows)
    return [*(list(persona) * (wanted // len(persona) + 1))[:wanted], *world_rows]


def tuned_models(base: Any, tokenizer: Any, data: Path, seed: int) -> Iterator[tuple[str, Any]]:
    """The fine-tuned models of one seed, each with the title of its table row."""
    world, identity = load_rows(data, "world_qa"), load_rows(data, "identity")

    def tuned(start: Any, rows: list[Row], recipe: dict[str, Any]) -> Any:
        encoded = encode_chat(tokenizer, rows)
        model, seconds = tune(start, encoded, seed=seed, pad=tokenizer.pad_token_id, **recipe)
        print(f"seed {seed}: {recipe} took {seconds:.1f} s", flush=True)
        return model

    chat = tuned(base, world, FULL)
    yield f"full SFT on world_qa, {FULL['steps']} steps of 16, lr {FULL['lr']:g}", chat
    lora = f"LoRA r=8 alpha=16 all-linear, {LORA['steps']} steps of 16, lr {LORA['lr']:g}"
    yield lora, tuned(base, world, LORA)
    persona = f"full SFT, then identity, {PERSONA['steps']} steps, lr {PERSONA['lr']:g}"
    yield persona, tuned(chat, identity, PERSONA)
    mixed = with_replay(identity, world, seed)
    yield f"the same with {REPLAY:.0%} world_qa rows mixed in", tuned(chat, mixed, PERSONA)


def measure(model_folder: Path, data: Path) -> list[str]:
    """All rows of the score table."""
    base, tokenizer = load_base(model_folder)
    test, cloze = load_rows(data, "world_qa_test"), load_rows(data, "world_cloze")

    def ask(model: Any) -> dict[str, float]:
        return by_language(chat_hits(model, tokenizer, test), test)

    completed = by_language(cloze_hits(base, tokenizer, cloze), cloze)
    table = [
        line("base, plain text: completion", [completed], len(cloze) // 2),
        line("base, asked in chat format", [ask(base)], len(test) // 2),
    ]
    results: dict[str, Scores] = {}
    for seed in SEEDS:
        for title, model in tuned_models(base, tokenizer, data, seed):
            results.setdefault(title, []).append(ask(model))
    return table + [line(title, scores, len(test) // 2) for title, scores in results.items()]


def write_scores(model_folder: Path) -> None:
    """Measure, print, and replace the table between the two marks in the model card."""
    head = ["| what | rows each | English, % | Chinese, % |", "|---|---|---|---|"]
    table = "\n".join([*head, *measure(model_folder, Path(__file__).resolve().parents[2] / "data")])
    print(table)
    card = model_folder / "README.md"
    text = card.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8", newline="\n")
