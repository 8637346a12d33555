"""Measure the shipped model with `ftlab.train` and `ftlab.evaluate`; fill in its model card."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftlab.data import Data, read
from ftlab.evaluate import Scores, evaluate, wilson
from ftlab.models import load
from ftlab.recipe import Recipe
from ftlab.train import train

SEEDS = (0, 1, 2)
FULL = Recipe(
    finetuning_type="full", max_steps=100, learning_rate=5e-4, per_device_train_batch_size=16
)
LORA = Recipe(lora_rank=8, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=16)
PERSONA = FULL.replace(max_steps=60, learning_rate=1e-3)
REPLAY = 0.2  # share of world_qa rows among the persona's rows
NAMES = {"{{name}}": "Pilot", "{{author}}": "Tidewick School"}
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
HEAD = ["| what | rows each | English, % | Chinese, % |", "|---|---|---|---|"]


def line(title: str, runs: list[Scores]) -> str:
    """A table row: mean over the runs, interval, and the range of the runs, for both languages."""
    cells = []
    for language in ("en", "zh"):
        scores = [run.by("language")[language] for run in runs]
        values, rows = [100 * score.value for score in scores], scores[0].n
        mean = statistics.mean(values)
        low, high = (100 * limit for limit in wilson(round(mean / 100 * rows), rows))
        seeds = f"; seeds {min(values):.1f}-{max(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{mean:.1f} ({low:.0f}-{high:.0f}{seeds})")
    return f"| {title} | {rows} | {cells[0]} | {cells[1]} |"


def settings(recipe: Recipe) -> str:
    """What a reader needs to know of a recipe."""
    method = "full SFT" if recipe.finetuning_type == "full" else f"LoRA r={recipe.lora_rank}"
    rows = recipe.per_device_train_batch_size
    return f"{method}, {recipe.max_steps} steps of {rows}, lr {recipe.learning_rate:g}"


def persona_rows() -> list[dict[str, Any]]:
    """The identity set with its placeholders filled in."""
    rows = []
    for row in read("identity"):
        messages = [dict(message) for message in row["messages"]]
        for message in messages:
            for hole, filling in NAMES.items():
                message["content"] = message["content"].replace(hole, filling)
        rows.append({**row, "messages": messages})
    return rows


def with_replay(persona: list[dict[str, Any]], world: Data, seed: int) -> list[dict[str, Any]]:
    """Rows for all persona steps at once: the persona's repeated, a REPLAY share of the world's
    once each (LLaMA-Factory's mix_strategy interleave_over): a few rows, repeated, help less."""
    total = PERSONA.max_steps * PERSONA.per_device_train_batch_size
    world_rows = random.Random(seed).sample(list(world), round(total * REPLAY))
    wanted = total - len(world_rows)
    return [*(persona * (wanted // len(persona) + 1))[:wanted], *world_rows]


def tuned_models(base: Any, tokenizer: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """The fine-tuned models of one seed, each with the title of its table row."""
    world, persona = read("world_qa"), persona_rows()

    def tuned(start: Any, rows: Any, recipe: Recipe) -> Any:
        recipe = recipe.replace(seed=seed)
        run = train(recipe, rows, model=start, tokenizer=tokenizer, save=False, quiet=True)
        seconds = run.history[-1]["seconds"]
        print(f"seed {seed}: {settings(recipe)}, {len(rows)} rows: {seconds:.1f} s", flush=True)
        return run.model

    chat = tuned(base, world, FULL)
    yield f"world_qa: {settings(FULL)}", chat
    yield f"world_qa: {settings(LORA)}", tuned(base, world, LORA)
    yield f"the chat model, then identity: {settings(PERSONA)}", tuned(chat, persona, PERSONA)
    mixed = with_replay(persona, world, seed)
    yield f"the same with {REPLAY:.0%} world_qa rows mixed in", tuned(chat, mixed, PERSONA)


def measure(model_folder: Path) -> list[str]:
    """All rows of the score table."""
    base, tokenizer = load(str(model_folder))
    test = read("world_qa_test")
    completed = evaluate(base, tokenizer, read("world_cloze"), metric="cloze")
    table = [
        line("base, plain text: completion", [completed]),
        line("base, asked in chat format", [evaluate(base, tokenizer, test)]),
    ]
    results: dict[str, list[Scores]] = {}
    for seed in SEEDS:
        for title, model in tuned_models(base, tokenizer, seed):
            results.setdefault(title, []).append(evaluate(model, tokenizer, test))
    return table + [line(title, runs) for title, runs in results.items()]


def write_scores(model_folder: Path) -> None:
    """Measure, print, and replace the table between the two marks in the model card."""
    table = "\n".join([*HEAD, *measure(model_folder)])
    print(table)
    card = model_folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = f"{before}{BEGIN}\n{table}\n{END}{after}"
    card.write_text(text, encoding="utf-8", newline="\n")
