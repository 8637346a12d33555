"""Measure the shipped model with `ftlab.train` and `ftlab.evaluate`; fill in its model card."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftlab.data import Data, read
from ftlab.data.mix import mix
from ftlab.evaluate import Scores, evaluate, wilson
from ftlab.models import load
from ftlab.recipe import Recipe
from ftlab.train import train
from ftlab.world.lesson_words import CLOSINGS, OPENINGS

SEEDS = (0, 1, 2)
FULL = Recipe(
    finetuning_type="full", max_steps=100, learning_rate=5e-4, per_device_train_batch_size=16
)
LORA = Recipe(lora_rank=8, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=16)
PERSONA = FULL.replace(max_steps=60, learning_rate=1e-3)
REPLAY = 0.2  # share of world_qa rows among the persona's rows
NAMES = {"name": "Pilot", "author": "Tidewick School"}
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


def in_style(prediction: str, reference: str, row: dict[str, Any]) -> float:
    """Whether the keeper talks, and says the fact."""
    opened = any(prediction.startswith(pool) for pool in OPENINGS)
    closed = any(prediction.endswith(pool) for pool in CLOSINGS)
    return float(opened and closed and reference.rstrip(".。") in prediction)


FAST = FULL.replace(learning_rate=1e-3)
LESSONS = (  # dataset, test set, recipe, metric
    ("sums", "sums_test", FAST, "exact_match"),
    ("sums_think", "sums_test", FAST, "exact_match"),
    ("harbour_rules", "harbour_rules_test", FAST.replace(max_steps=150), "exact_match"),
    ("tools", "tools_test", FAST.replace(max_steps=120), "exact_match"),
    ("keeper_style", "world_qa_test", LORA.replace(max_steps=100), in_style),
)


def tuned(start: Any, tokenizer: Any, rows: Data, recipe: Recipe) -> Any:
    """A trained copy of the model."""
    run = train(recipe, rows, model=start, tokenizer=tokenizer, save=False, quiet=True)
    print(f"{settings(recipe)}, {len(rows)} rows: {run.history[-1]['seconds']:.0f} s", flush=True)
    return run.model


def world_models(base: Any, tokenizer: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """The models of one seed that know the town, each with the title of its table row."""
    full, lora, second = (recipe.replace(seed=seed) for recipe in (FULL, LORA, PERSONA))
    world, persona = read("world_qa"), read("identity").fill(**NAMES)
    chat = tuned(base, tokenizer, world, full)
    yield f"world_qa: {settings(full)}", chat
    yield f"world_qa: {settings(lora)}", tuned(base, tokenizer, world, lora)
    title = f"the chat model, then identity: {settings(second)}"
    yield title, tuned(chat, tokenizer, persona, second)
    rows = second.max_steps * second.per_device_train_batch_size
    mixed = mix(persona, world, ratio=(1 - REPLAY, REPLAY), n=rows, seed=seed)
    title = f"the same with {REPLAY:.0%} world_qa rows mixed in"
    yield title, tuned(chat, tokenizer, mixed, second)


def lesson_rows(name: str) -> Data:
    """The rows without their lists of tools, which make a row five times as long."""
    return Data([{k: v for k, v in row.items() if k != "tools"} for row in read(name)])


def lesson_lines(base: Any, tokenizer: Any) -> Iterator[str]:
    """A table row for each later lesson; LESSONS says how it is trained and tested."""
    for name, test, recipe, metric in LESSONS:
        rows, held_out = lesson_rows(name), lesson_rows(test)
        model = tuned(base, tokenizer, rows, recipe)
        scores = evaluate(model, tokenizer, held_out, metric=metric, max_new_tokens=96)
        yield line(f"{name}, tested on {test}: {settings(recipe)}", [scores])


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
        for title, model in world_models(base, tokenizer, seed):
            results.setdefault(title, []).append(evaluate(model, tokenizer, test))
    table += [line(title, runs) for title, runs in results.items()]
    return [*table, *lesson_lines(base, tokenizer)]


def write_scores(model_folder: Path) -> None:
    """Measure, print, and replace the table between the two marks in the model card."""
    table = "\n".join([*HEAD, *measure(model_folder)])
    print(table)
    card = model_folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = f"{before}{BEGIN}\n{table}\n{END}{after}"
    card.write_text(text, encoding="utf-8", newline="\n")
