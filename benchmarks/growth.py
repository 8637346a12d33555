"""How time and memory grow with length, rows, rank and depth: measured, and by the calculator.

Each point is two fresh processes (`python -m benchmarks.growth FOLDER KEYS`, KEYS a recipe's as
JSON), one for the memory and one for the seconds (see `benchmarks.estimate.twice`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

import ftlab
from benchmarks.estimate import STEPS, compared, twice
from ftlab.models import quiet_loading

MIDDLE = {"cutoff_len": 128, "per_device_train_batch_size": 8, "lora_rank": 16}
LAYERS = 4
# knob -> its values; the others stay at MIDDLE and LAYERS
GROWTH: dict[str, tuple[int, ...]] = {
    "cutoff_len": (64, 128, 256, 512, 1024),
    "per_device_train_batch_size": (2, 4, 8, 16, 32),
    "lora_rank": (4, 16, 64, 128),  # the narrowest matrix has 128 outputs
    "layers": (2, 4, 8, 16),
}


def cell(folder: str, keys: str) -> dict[str, float]:
    """MB and seconds a step, predicted and measured, of LoRA with these keys."""
    values: dict[str, Any] = {**MIDDLE, **json.loads(keys)}
    recipe = ftlab.Recipe(
        stage="pt", model_name_or_path=folder, max_steps=STEPS, learning_rate=1e-5, **values
    )
    return compared(recipe)


def model(folder: Path, layers: int) -> str:
    """Random weights of width 256, with the shipped model's vocabulary, in fp32."""
    tokenizer = ftlab.load("tiny")[1]
    config = Qwen3Config(
        hidden_size=256, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, intermediate_size=768, vocab_size=len(tokenizer), tie_word_embeddings=True,
        max_position_embeddings=2048,
    )  # fmt: skip
    with quiet_loading():
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure() -> dict[str, dict[str, float]]:
    """ "knob=value" -> MB and seconds a step, predicted and measured."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        depths = sorted({LAYERS, *GROWTH["layers"]})
        models = {n: model(Path(folder) / str(n), n) for n in depths}
        for knob, values in GROWTH.items():
            for value in values:
                path = models[value if knob == "layers" else LAYERS]
                keys = json.dumps({} if knob == "layers" else {knob: value})
                results[f"{knob}={value}"] = twice("benchmarks.growth", path, keys)
    return results


if __name__ == "__main__":
    print(json.dumps(cell(*sys.argv[1:])))
