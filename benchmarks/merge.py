"""ftlab.merge of a LoRA adapter into a random model of Qwen3-0.6B's shape, stored in bf16.

Memory is the most that a fresh process held above what it held before the merge, file pages
included, as a share of the model's file; all checks of the merge are part of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config

import ftlab

RANK = 8
SHAPE = {
    "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40_960, "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
MERGE = """
import json, re, sys, time
from pathlib import Path
import ftlab.merge, peft

def memory(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
began = time.perf_counter()
ftlab.merge(*sys.argv[1:3], base=sys.argv[3])
print(json.dumps([time.perf_counter() - began, memory("VmHWM") - before]))
"""


def write_model(folder: Path) -> None:
    """Random weights, each tensor filled with the same million numbers, and the tiny tokenizer."""
    config = Qwen3Config(**SHAPE)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    numbers = (0.02 * torch.randn(2**20)).to(torch.bfloat16)
    tensors = {}
    for name, weight in skeleton.named_parameters():
        repeated = numbers.repeat(weight.numel() // len(numbers) + 1)[: weight.numel()]
        tensors[name] = (
            repeated.view(weight.shape)
            if weight.ndim > 1
            else torch.ones_like(weight, dtype=torch.bfloat16, device="cpu")
        )
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ftlab.load("tiny")[1].save_pretrained(folder)


def write_adapter(folder: Path, model: Path) -> None:
    """A LoRA adapter on every linear layer inside the model."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(Qwen3Config.from_pretrained(model))
    tensors = {}
    for name, layer in skeleton.model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            start = f"base_model.model.model.{name}"
            tensors[f"{start}.lora_A.weight"] = 0.02 * torch.randn(RANK, layer.in_features)
            tensors[f"{start}.lora_B.weight"] = 0.02 * torch.randn(layer.out_features, RANK)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules="all-linear")
    config.base_model_name_or_path = str(model)
    config.save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def measure() -> dict[str, float]:
    """Peak memory as a share of the model, and GB/s beside a copy of the file."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        model, adapter = Path(place, "model"), Path(place, "adapter")
        write_model(model)
        write_adapter(adapter, model)
        weights = model / "model.safetensors"
        size = weights.stat().st_size
        began = time.perf_counter()
        shutil.copyfile(weights, Path(place, "copy"))
        copy = size / (time.perf_counter() - began) / 1e9
        Path(place, "copy").unlink()
        call = [sys.executable, "-c", MERGE, str(adapter), str(Path(place, "out")), str(model)]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return {
        "merge: peak memory / model": peak / size,
        "merge: GB/s, every check in it": size / seconds / 1e9,
        "copy: GB/s": copy,
        "copy / merge: speed": copy / (size / seconds / 1e9),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
