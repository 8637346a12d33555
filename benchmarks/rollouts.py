"""Step time of PPO, GRPO and RLOO against bare TRL scripts with the same settings; tokens sampled
a second."""

from __future__ import annotations

import copy
import statistics
from typing import Any

from datasets import Dataset
from peft import get_peft_model
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

import ftlab
from benchmarks.measuring import fastest_step, with_ftlab, with_trl
from ftlab.adapters.methods import configuration
from ftlab.alignment.judges import RewardJudge, polite
from ftlab.models import with_score

ANSWERS, STEPS, WARM, ROUNDS, TOKENS = 16, 4, 1, 3, 24
GROUPED: dict[str, tuple[Any, Any]] = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
}


def recipe(stage: str, method: str) -> ftlab.Recipe:
    """The settings of both sides."""
    return ftlab.Recipe(
        stage=stage, finetuning_type=method, max_steps=STEPS, learning_rate=1e-5, temperature=1.0,
        per_device_train_batch_size=ANSWERS // (2 if stage == "ppo" else 1), num_generations=8,
        ppo_buffer_size=2, ppo_epochs=2, max_new_tokens=TOKENS, kl_coef=0.1,
    )  # fmt: skip


def bare(stage: str, method: str, rows: ftlab.Data) -> list[float]:
    """Processor seconds at the end of each step of TRL's trainer (PPO: of each round)."""
    settings = recipe(stage, method)
    model, tokenizer = ftlab.load("tiny")
    reference = copy.deepcopy(model) if (stage, method) == ("ppo", "full") else None
    if method == "lora":
        model = get_peft_model(model, configuration(settings).build())
    arguments: dict[str, Any] = {
        "max_steps": STEPS, "learning_rate": settings.learning_rate, "temperature": 1.0,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
    }  # fmt: skip
    parts = {"model": model, "processing_class": tokenizer}
    if stage == "ppo":
        arguments |= {
            "gradient_accumulation_steps": 2, "num_mini_batches": 2, "num_ppo_epochs": 2,
            "total_episodes": ANSWERS * STEPS, "response_length": TOKENS, "stop_token": "eos",
            "kl_coef": 0.1, "num_sample_generations": 0,
        }  # fmt: skip
        parts |= {"ref_model": reference, **_of_ppo(tokenizer, rows)}
        return with_trl(PPOTrainer, PPOConfig, arguments, **parts)
    trainer, config = GROUPED[stage]
    arguments |= {"num_generations": 8, "beta": 0.1, "max_completion_length": TOKENS}
    questions = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    parts |= {"train_dataset": questions, "reward_funcs": _reward}
    return with_trl(trainer, config, arguments, **parts)


def _reward(completions: Any, **_: Any) -> list[float]:
    return [polite(turns[0]["content"]) for turns in completions]


def _of_ppo(tokenizer: Any, rows: ftlab.Data) -> dict[str, Any]:
    """TRL's PPO wants a reward model and a value model of their own, and questions as ids."""
    ids = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    return {
        "reward_model": with_score(ftlab.load("tiny")[0]),
        "value_model": with_score(ftlab.load("tiny")[0]),
        "train_dataset": Dataset.from_dict({"input_ids": ids}),
    }


def ours(stage: str, method: str, rows: ftlab.Data) -> tuple[list[float], ftlab.Run]:
    """The same of ftlab.train, and its run."""
    reward: Any = polite
    if stage == "ppo":
        model, tokenizer = ftlab.load("tiny")
        reward = RewardJudge(with_score(model), tokenizer)
    return with_ftlab(recipe(stage, method), rows, reward=reward)


def measure() -> dict[str, dict[str, float]]:
    """Stage and method -> ms a step, the ratio of its processor time to TRL's (of each step the
    fastest of rounds that take turns), and tokens sampled a second (median)."""
    rows = ftlab.read("polite_pairs").take(ANSWERS * STEPS)
    results: dict[str, dict[str, float]] = {}
    for stage in ("ppo", "grpo", "rloo"):
        for method in ("full", "lora"):
            walls, mine, theirs, speeds = [], [], [], []
            for _ in range(ROUNDS):
                theirs.append(bare(stage, method, rows))
                ends, run = ours(stage, method, rows)
                mine.append(ends)
                walls.append([record["seconds"] for record in run.history])
                speeds += [record["sampled_per_second"] for record in run.history[WARM:]]
            results[f"{stage}, {method}"] = {
                "ms": 1000 * fastest_step(walls, WARM),
                "ms ratio": fastest_step(mine, WARM) / fastest_step(theirs, WARM),
                "tokens/s": statistics.median(speeds),
            }
    return results
