"""Step time and peak memory of every method, through ftlab.train and in a bare PyTorch loop.

Each cell of the table is a fresh process (`python -m benchmarks.methods SIDE METHOD FOLDER`), so
that one method's memory is not another's. Models: the shipped one, and one with the shape of
Qwen3-0.6B and random weights.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3Config, Qwen3ForCausalLM

import ftlab
from benchmarks.measuring import fresh, memory
from ftlab import batches
from ftlab.adapters import adapt
from ftlab.models import model_folder, quiet_loading

# name -> the recipe keys that choose it
METHODS: dict[str, dict[str, Any]] = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze"},
    "lora": {},
    "dora": {"use_dora": True},
    "qlora": {"quantization_bit": 4},
    "oft": {"finetuning_type": "oft"},
    "ia3": {"finetuning_type": "ia3"},
    "prompt_tuning": {"finetuning_type": "prompt_tuning"},
    "prefix_tuning": {"finetuning_type": "prefix_tuning"},
    "bottleneck": {"finetuning_type": "bottleneck"},
}
LARGE = ("full", "lora", "qlora")  # on the shape of Qwen3-0.6B
ROUNDS = 3  # of the small model, whose steps are short: the machine's speed moves between them


def recipe(method: str, folder: str, small: bool) -> ftlab.Recipe:
    """Windows of 64 tokens; 16 of them a step for the shipped model, one for the large shape."""
    return ftlab.Recipe(
        stage="pt", model_name_or_path=folder, cutoff_len=64, max_steps=20 if small else 6,
        per_device_train_batch_size=16 if small else 1, learning_rate=1e-4, **METHODS[method],
    )  # fmt: skip


def bare(settings: ftlab.Recipe) -> list[float]:
    """Seconds of each step of a loop with nothing in it but the training."""
    tokenizer = ftlab.load("tiny")[1]
    quantized = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.model_name_or_path,
        dtype=torch.float32,
        quantization_config=quantized if settings.quantization_bit else None,
    )
    if settings.finetuning_type != "full":
        model = adapt(model, settings, copied=False)
    model.train()
    rows = ftlab.read("world_text").take(2000)
    windows = torch.tensor(batches.dataset(tokenizer, rows, settings)[0]["input_ids"][:-1])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    size, times = settings.per_device_train_batch_size, []
    mask = torch.ones(size, windows.shape[1], dtype=torch.long)
    for _ in range(settings.max_steps):
        began = time.perf_counter()
        batch = windows[torch.randint(len(windows), (size,))]
        loss = model(input_ids=batch, attention_mask=mask, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return times


def through_ftlab(settings: ftlab.Recipe) -> list[float]:
    """Seconds of each step of ftlab.train, read from the history of the run."""
    rows = ftlab.read("world_text").take(2000)
    run = ftlab.train(settings, rows, save=False, quiet=True)
    clock = [0.0, *(record["seconds"] for record in run.history)]
    return [after - before for before, after in zip(clock, clock[1:], strict=False)]


def cell(side: str, method: str, folder: str) -> dict[str, float]:
    """Median step in ms and peak memory in MB of this process, its libraries included."""
    small = folder == model_folder("tiny")
    times = {"bare": bare, "ftlab": through_ftlab}[side](recipe(method, folder, small))
    return {"ms": 1000 * statistics.median(times[2:]), "MB": memory()}


def large_model(folder: Path) -> str:
    """A model with the shape of Qwen3-0.6B and random weights (its config.json), in bf16."""
    config = Qwen3Config(
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True,
        max_position_embeddings=40960, dtype=torch.bfloat16,
    )  # fmt: skip
    with quiet_loading():
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    ftlab.load("tiny")[1].save_pretrained(folder)
    return str(folder)


def measure() -> dict[str, dict[str, float]]:
    """Model and method -> ms a step (median) and peak MB, with ratios to the bare loop."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = (
            ("tiny", model_folder("tiny"), tuple(METHODS), ROUNDS),
            ("0.6B shape", large_model(Path(folder) / "large"), LARGE, 1),
        )
        for name, path, methods, rounds in sizes:
            for method in methods:
                results[f"{name}, {method}"] = compared(method, path, rounds)
    return results


def compared(method: str, folder: str, rounds: int) -> dict[str, float]:
    """Medians of ftlab's cells and of their ratios to bare ones, which take turns with them."""
    cells, ratios = [], []
    for _ in range(rounds):
        plain, ours = (
            fresh("benchmarks.methods", side, method, folder) for side in ("bare", "ftlab")
        )
        cells.append(ours)
        ratios.append({f"{key} ratio": ours[key] / plain[key] for key in ours})
    both = [one | other for one, other in zip(cells, ratios, strict=True)]
    return {key: statistics.median(each[key] for each in both) for key in both[0]}


if __name__ == "__main__":
    print(json.dumps(cell(*sys.argv[1:])))
