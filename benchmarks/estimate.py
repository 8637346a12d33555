"""The calculator held against runs: predicted and measured peak memory and time of six recipes.

Each cell is a fresh process (`python -m benchmarks.estimate MODEL RECIPE FOLDER`) that trains once
with the shipped model, so that the libraries' own bytes are there, and then measures a run: the
most that the process held in training steps, above what it held before the model was loaded.
Models: the shipped one, and one of 393 MB with random weights.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import ftlab
from benchmarks.measuring import fresh, memory, wall_step
from ftlab.models import model_folder, quiet_loading

LENGTH, STEPS, WARM = 128, 4, 2
# name -> the recipe keys that choose it
RECIPES: dict[str, dict[str, Any]] = {
    "full": {"finetuning_type": "full"},
    "full, batch x2": {"finetuning_type": "full", "per_device_train_batch_size": 8},
    "freeze": {"finetuning_type": "freeze"},
    "lora": {},
    "lora, checkpointing": {"gradient_checkpointing": True},
    "qlora nf4": {"quantization_bit": 4},
}
BATCH = {"tiny": 64, "393 MB": 4}  # rows of a step, so that a step's bytes stand out


def recipe(model: str, name: str, folder: str) -> ftlab.Recipe:
    """Windows of ``LENGTH`` tokens, all full."""
    keys = {"per_device_train_batch_size": 4, **RECIPES[name]}
    keys["per_device_train_batch_size"] *= BATCH[model] // 4
    return ftlab.Recipe(
        stage="pt", model_name_or_path=folder, cutoff_len=LENGTH, max_steps=STEPS,
        learning_rate=1e-5, **keys,
    )  # fmt: skip


class Peak:
    """An observer that forgets the peak of loading when training begins (Linux only)."""

    def on_start(self, run: ftlab.Run) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")

    def on_log(self, run: ftlab.Run, record: dict[str, float]) -> None:
        pass

    def on_end(self, run: ftlab.Run) -> None:
        pass


def give_back() -> None:
    """Return what is free in the C library's heap to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def cell(model: str, name: str, folder: str) -> dict[str, float]:
    """MB and seconds a step, predicted and measured, of a recipe by its name."""
    return compared(recipe(model, name, folder))


def compared(chosen: ftlab.Recipe) -> dict[str, float]:
    """MB and seconds a step, predicted and measured."""
    predicted = ftlab.estimate(chosen)
    rows = ftlab.read("world_text").take(4000)
    first = chosen.replace(
        model_name_or_path="tiny", per_device_train_batch_size=1, max_steps=2, lora_rank=8
    )
    ftlab.train(first, rows, save=False, quiet=True)
    give_back()
    before = memory("VmRSS")
    run = ftlab.train(chosen, rows, save=False, quiet=True, observers=[Peak()])
    return {
        "MB": memory() - before, "MB predicted": predicted.peak / 1e6,
        "s": wall_step(run, WARM), "s predicted": predicted.seconds,
        "GFLOP": predicted.flops / 1e9,
    }  # fmt: skip


def larger_model(folder: Path) -> str:
    """Random weights: 8 layers of width 1,024, with the shipped model's vocabulary.

    In bf16, so that loading copies them: fp32 weights would be pages of their file, all of which
    count as the process's own as long as one of them is used.
    """
    tokenizer = ftlab.load("tiny")[1]
    config = Qwen3Config(
        hidden_size=1024, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=8,
        head_dim=64, intermediate_size=3072, vocab_size=len(tokenizer), tie_word_embeddings=True,
        max_position_embeddings=512, dtype=torch.bfloat16,
    )  # fmt: skip
    with quiet_loading():
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure() -> dict[str, dict[str, float]]:
    """Model and recipe -> MB and seconds a step, predicted and measured.

    Each recipe runs twice: once with every tensor of 64 kB and more given back to the system when
    it is freed, so that the process holds its tensors and no more, and once as it would anyway.
    """
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny": model_folder("tiny"), "393 MB": larger_model(Path(folder) / "larger")}
        for model, path in models.items():
            for name in RECIPES:
                call = ("benchmarks.estimate", model, name, path)
                found = fresh(*call, MALLOC_MMAP_THRESHOLD_="65536")
                kept = fresh(*call)
                results[f"{model}, {name}"] = found | {"MB kept": kept["MB"], "s": kept["s"]}
    return results


if __name__ == "__main__":
    print(json.dumps(cell(*sys.argv[1:])))
