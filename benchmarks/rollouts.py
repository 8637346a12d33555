"""Step time of PPO, GRPO and RLOO against bare TRL scripts with the same settings; tokens sampled
a second."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from typing import Any

from datasets import Dataset, disable_progress_bars
from peft import get_peft_model
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

import ftlab
from ftlab.adapters.methods import configuration
from ftlab.alignment.judges import RewardJudge, polite
from ftlab.models import quiet_loading, with_score

ANSWERS, STEPS, WARM, ROUNDS, TOKENS = 16, 6, 2, 3, 24
GROUPED: dict[str, tuple[Any, Any]] = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
}


class Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """The median of the steps after the first few."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return statistics.median([b - a for a, b in pairs][WARM - 1 :])


def recipe(stage: str, method: str) -> ftlab.Recipe:
    """The settings of both sides."""
    return ftlab.Recipe(
        stage=stage, finetuning_type=method, max_steps=STEPS, learning_rate=1e-5, temperature=1.0,
        per_device_train_batch_size=ANSWERS // (2 if stage == "ppo" else 1), num_generations=8,
        ppo_buffer_size=2, ppo_epochs=2, max_new_tokens=TOKENS, kl_coef=0.1,
    )  # fmt: skip


def arguments(folder: str, settings: ftlab.Recipe) -> dict[str, Any]:
    """What every bare trainer gets."""
    return {
        "output_dir": folder, "max_steps": STEPS, "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": ANSWERS, "use_cpu": True, "bf16": False, "report_to": [],
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "temperature": 1.0,
        "gradient_checkpointing": False,
    }  # fmt: skip


def grouped(stage: str, method: str, rows: ftlab.Data) -> float:
    """Seconds of a step of TRL's GRPO or RLOO, called as its documentation does."""
    settings, (trainer, config) = recipe(stage, method), GROUPED[stage]
    model, tokenizer = ftlab.load("tiny")
    if method == "lora":
        model = get_peft_model(model, configuration(settings).build())

    def reward(completions: Any, **_: Any) -> list[float]:
        return [polite(turns[0]["content"]) for turns in completions]

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_loading():
        made = trainer(
            model=model, reward_funcs=reward, processing_class=tokenizer, callbacks=[clock],
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
            args=config(**arguments(folder, settings), num_generations=8, beta=0.1,
                        max_completion_length=TOKENS),
        )  # fmt: skip
        made.remove_callback(PrinterCallback)
        made.train()
    return clock.seconds()


def bare_ppo(method: str, rows: ftlab.Data) -> float:
    """Seconds of a round of TRL's PPO: it wants a reward model and a value model of their own."""
    settings = recipe("ppo", method)
    model, tokenizer = ftlab.load("tiny")
    reference = copy.deepcopy(model) if method == "full" else None
    if method == "lora":
        model = get_peft_model(model, configuration(settings).build())
    ids = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_loading():
        given = arguments(folder, settings) | {"per_device_train_batch_size": ANSWERS // 2}
        made = PPOTrainer(
            model=model, ref_model=reference, processing_class=tokenizer, callbacks=[clock],
            reward_model=with_score(ftlab.load("tiny")[0]),
            value_model=with_score(ftlab.load("tiny")[0]),
            train_dataset=Dataset.from_dict({"input_ids": ids}),
            args=PPOConfig(
                **given, gradient_accumulation_steps=2, num_mini_batches=2, num_ppo_epochs=2,
                total_episodes=ANSWERS * STEPS, response_length=TOKENS, stop_token="eos",
                kl_coef=0.1, num_sample_generations=0,
            ),
        )  # fmt: skip
        made.remove_callback(PrinterCallback)
        made.train()
    return clock.seconds()


def with_ftlab(stage: str, method: str, rows: ftlab.Data) -> tuple[float, float]:
    """Seconds of a step of ftlab.train, and tokens sampled a second."""
    model, tokenizer = ftlab.load("tiny")
    reward: Any = polite
    if stage == "ppo":
        reward = RewardJudge(with_score(ftlab.load("tiny")[0]), tokenizer)
    run = ftlab.train(recipe(stage, method), rows, model=model, tokenizer=tokenizer, reward=reward,
                      save=False, quiet=True)  # fmt: skip
    clock = [record["seconds"] for record in run.history]
    steps = [b - a for a, b in zip(clock, clock[1:], strict=False)][WARM - 1 :]
    speed = statistics.median(record["sampled_per_second"] for record in run.history[WARM:])
    return statistics.median(steps), speed


def measure() -> dict[str, float]:
    """Medians over interleaved rounds: milliseconds a step, ratios to TRL, tokens a second."""
    disable_progress_bars()
    rows = ftlab.read("polite_pairs").take(160)
    results: dict[str, float] = {}
    for stage in ("ppo", "grpo", "rloo"):
        for method in ("full", "lora"):
            rounds = []
            for _ in range(ROUNDS):
                bare = bare_ppo(method, rows) if stage == "ppo" else grouped(stage, method, rows)
                rounds.append((bare, *with_ftlab(stage, method, rows)))
            name = f"{stage}, {method}"
            results[f"{name}: ftlab.train, ms a step"] = 1000 * statistics.median(
                ours for _, ours, _ in rounds
            )
            results[f"{name}: ftlab.train / bare TRL"] = statistics.median(
                ours / bare for bare, ours, _ in rounds
            )
            results[f"{name}: tokens sampled a second"] = statistics.median(
                speed for _, _, speed in rounds
            )
    return results
