"""Step time of each preference stage against a bare TRL script with the same settings; memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from datasets import disable_progress_bars
from peft import get_peft_model
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import ftlab
from ftlab.adapters import adapt
from ftlab.adapters.methods import configuration
from ftlab.models import quiet_loading

ROWS, STEPS, WARM, ROUNDS = 8, 16, 4, 3
# name -> the recipe's keys, TRL's trainer and configuration, and what they take
STAGES: dict[str, tuple[dict[str, Any], Any, Any, dict[str, Any]]] = {
    "dpo": ({"stage": "dpo"}, DPOTrainer, DPOConfig, {}),
    "kto": ({"stage": "kto"}, KTOTrainer, KTOConfig, {}),
    "orpo": ({"stage": "dpo", "pref_loss": "orpo"}, ORPOTrainer, ORPOConfig, {}),
    "simpo": ({"stage": "dpo", "pref_loss": "simpo"}, CPOTrainer, CPOConfig,
              {"loss_type": "simpo", "cpo_alpha": 0.0}),
    "rm": ({"stage": "rm"}, RewardTrainer, RewardConfig, {}),
}  # fmt: skip


class Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Seconds of each step after the first few."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)][WARM:]


def recipe(name: str, method: str, **changes: Any) -> ftlab.Recipe:
    """The settings of both sides."""
    return ftlab.Recipe(
        **STAGES[name][0], finetuning_type=method, max_steps=STEPS, learning_rate=5e-5,
        per_device_train_batch_size=ROWS, **changes,
    )  # fmt: skip


def plain(rows: ftlab.Data) -> Any:
    """The rows as TRL reads them."""
    from datasets import Dataset

    keys = [
        key for key in ("prompt", "chosen", "rejected", "completion", "label") if key in rows[0]
    ]
    return Dataset.from_list([{key: row[key] for key in keys} for row in rows])


def bare(name: str, method: str, rows: ftlab.Data) -> list[float]:
    """Seconds of each step of TRL's trainer, called as its documentation does."""
    settings, (_, trainer, config, more) = recipe(name, method), STAGES[name]
    model, tokenizer = ftlab.load("tiny")
    reference: dict[str, Any] = {}
    if name == "rm":
        model = adapt(model, settings.replace(finetuning_type="full"))
    if method == "lora":
        model = get_peft_model(model, configuration(settings).build())
    elif name in ("dpo", "kto"):
        reference = {"ref_model": ftlab.load("tiny")[0]}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_loading():
        arguments = config(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=ROWS, use_cpu=True,
            learning_rate=settings.learning_rate, logging_steps=1, save_strategy="no", bf16=False,
            gradient_checkpointing=False, report_to=[], disable_tqdm=True, max_length=2048, **more,
        )  # fmt: skip
        made = trainer(
            model=model, args=arguments, train_dataset=plain(rows), processing_class=tokenizer,
            callbacks=[clock], **reference,
        )  # fmt: skip
        made.remove_callback(PrinterCallback)
        made.train()
    return clock.steps()


def with_ftlab(name: str, method: str, rows: ftlab.Data, **changes: Any) -> Any:
    """Seconds of each step of ftlab.train, and its run."""
    model, tokenizer = ftlab.load("tiny")
    run = ftlab.train(recipe(name, method, **changes), rows, model=model, tokenizer=tokenizer,
                      save=False, quiet=True)  # fmt: skip
    clock = [record["seconds"] for record in run.history]
    return [b - a for a, b in zip(clock, clock[1:], strict=False)][WARM:]


def measure() -> dict[str, float]:
    """Medians over interleaved rounds, in milliseconds a step, and their ratios."""
    disable_progress_bars()
    pairs, labels = ftlab.read("polite_pairs"), ftlab.read("polite_labels")
    results: dict[str, float] = {}
    for name in STAGES:
        rows = (labels if name == "kto" else pairs).take(160)
        for method in ("full", "lora"):
            rounds = [
                (statistics.median(bare(name, method, rows)),
                 statistics.median(with_ftlab(name, method, rows)))
                for _ in range(ROUNDS)
            ]  # fmt: skip
            ours = 1000 * statistics.median(mine for _, mine in rounds)
            results[f"{name}, {method}: ftlab.train, ms a step"] = ours
            ratio = statistics.median(mine / theirs for theirs, mine in rounds)
            results[f"{name}, {method}: ftlab.train / bare TRL"] = ratio
    for method in ("full", "lora"):
        rows = pairs.take(160)
        asked = [with_ftlab("dpo", method, rows, precompute_ref_log_probs=True) for _ in range(2)]
        key = f"dpo, {method}: reference asked before, ms a step"
        results[key] = 1000 * statistics.median(t for steps in asked for t in steps)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    for key, value in measure().items():
        print(f"{key}: {value:.2f}")
