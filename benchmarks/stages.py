"""Step time of each stage that learns from given answers, against a bare TRL script with the same
settings."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from peft import get_peft_model
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import ftlab
from benchmarks.measuring import fastest_step, with_ftlab, with_trl
from ftlab.adapters import adapt
from ftlab.adapters.methods import configuration

ROWS, STEPS, WARM, ROUNDS = 8, 10, 3, 4
# name -> the recipe's keys, TRL's trainer and configuration, and what they take
STAGES: dict[str, tuple[dict[str, Any], Any, Any, dict[str, Any]]] = {
    "rm": ({"stage": "rm"}, RewardTrainer, RewardConfig, {}),
    "dpo": ({"stage": "dpo"}, DPOTrainer, DPOConfig, {}),
    "orpo": ({"stage": "dpo", "pref_loss": "orpo"}, ORPOTrainer, ORPOConfig, {}),
    "simpo": ({"stage": "dpo", "pref_loss": "simpo"}, CPOTrainer, CPOConfig,
              {"loss_type": "simpo", "cpo_alpha": 0.0}),
    "kto": ({"stage": "kto"}, KTOTrainer, KTOConfig, {}),
}  # fmt: skip


def recipe(name: str, method: str) -> ftlab.Recipe:
    """The settings of both sides."""
    return ftlab.Recipe(
        **STAGES[name][0], finetuning_type=method, max_steps=STEPS, learning_rate=5e-5,
        per_device_train_batch_size=ROWS,
    )  # fmt: skip


def plain(rows: ftlab.Data) -> Dataset:
    """The rows as TRL reads them."""
    names = ("prompt", "chosen", "rejected", "completion", "label")
    keys = [key for key in names if key in rows[0]]
    return Dataset.from_list([{key: row[key] for key in keys} for row in rows])


def bare(name: str, method: str, rows: ftlab.Data) -> list[float]:
    """Processor seconds at the end of each step of TRL's trainer."""
    settings, (_, trainer, config, more) = recipe(name, method), STAGES[name]
    model, tokenizer = ftlab.load("tiny")
    reference: dict[str, Any] = {}
    if name == "rm":
        model = adapt(model, settings.replace(finetuning_type="full"))
    if method == "lora":
        model = get_peft_model(model, configuration(settings).build())
    elif name in ("dpo", "kto"):
        reference = {"ref_model": ftlab.load("tiny")[0]}
    arguments = {
        "max_steps": STEPS, "per_device_train_batch_size": ROWS, "max_length": 2048,
        "learning_rate": settings.learning_rate, **more,
    }  # fmt: skip
    return with_trl(
        trainer, config, arguments, model=model, train_dataset=plain(rows),
        processing_class=tokenizer, **reference,
    )  # fmt: skip


def measure() -> dict[str, dict[str, float]]:
    """Stage and method -> ms a step, and the ratio of its processor time to TRL's: of each step
    the fastest of rounds that take turns."""
    pairs, labels = ftlab.read("polite_pairs"), ftlab.read("polite_labels")
    results: dict[str, dict[str, float]] = {}
    for name in STAGES:
        rows = (labels if name == "kto" else pairs).take(ROWS * STEPS)
        for method in ("full", "lora"):
            walls, ours, theirs = [], [], []
            for _ in range(ROUNDS):
                theirs.append(bare(name, method, rows))
                ends, run = with_ftlab(recipe(name, method), rows)
                ours.append(ends)
                walls.append([record["seconds"] for record in run.history])
            results[f"{name}, {method}"] = {
                "ms": 1000 * fastest_step(walls, WARM),
                "ms ratio": fastest_step(ours, WARM) / fastest_step(theirs, WARM),
            }
    return results
