"""Peak memory of DPO with a reference model beside it, and with its log-probabilities cached.

Each cell is a fresh process (`python -m benchmarks.reference METHOD yes|no FOLDER`); its memory is
the most that it held above what it held before the model was loaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import ftlab
from benchmarks.measuring import fresh, memory, wall_step
from ftlab.alignment import preference
from ftlab.models import model_folder, quiet_loading

ROWS, STEPS, WARM = 2, 4, 1


def cell(method: str, cached: str, folder: str) -> dict[str, float]:
    """Peak MB of this process above its start, and ms a step."""
    recipe = ftlab.Recipe(
        stage="dpo", model_name_or_path=folder, finetuning_type=method, max_steps=STEPS,
        per_device_train_batch_size=ROWS, precompute_ref_log_probs=cached == "yes",
    )  # fmt: skip
    rows = ftlab.read("polite_pairs").take(ROWS * STEPS)
    assert preference  # imported now: its bytes are no part of the run's
    before = memory("VmRSS")
    run = ftlab.train(recipe, rows, save=False, quiet=True)
    return {"MB": memory() - before, "ms": 1000 * wall_step(run, WARM)}


def larger_model(folder: Path) -> str:
    """Random weights: 4 layers of width 512, with the shipped model's vocabulary."""
    tokenizer = ftlab.load("tiny")[1]
    config = Qwen3Config(
        hidden_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        head_dim=64, intermediate_size=2048, vocab_size=len(tokenizer), tie_word_embeddings=True,
        max_position_embeddings=512, dtype=torch.float32,
    )  # fmt: skip
    with quiet_loading():
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure() -> dict[str, dict[str, float]]:
    """Model and method -> peak MB and ms a step, with the reference and with its answers cached."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny": model_folder("tiny"), "4 x 512": larger_model(Path(folder) / "larger")}
        for name, method in (("tiny", "full"), ("4 x 512", "full"), ("4 x 512", "lora")):
            beside, cached = (
                fresh("benchmarks.reference", method, asked, models[name])
                for asked in ("no", "yes")
            )
            results[f"{name}, {method}"] = {
                "MB": beside["MB"], "MB cached": cached["MB"],
                "ms": beside["ms"], "ms cached": cached["ms"],
            }  # fmt: skip
    return results


if __name__ == "__main__":
    print(json.dumps(cell(*sys.argv[1:])))
