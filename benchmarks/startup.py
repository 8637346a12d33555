"""Start-up times, each in fresh processes: import, --help, and a cold training of 60 steps."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
model_name_or_path: tiny
stage: sft
finetuning_type: lora
dataset: world_qa
max_steps: 60
per_device_train_batch_size: 16
learning_rate: 3.0e-3
"""


def seconds(command: list[str], repeats: int, cwd: str | None = None) -> float:
    """Median wall-clock seconds of a command."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=cwd)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure() -> dict[str, float]:
    """Seconds of each start."""
    python = [sys.executable]
    bare = seconds([*python, "-c", "pass"], 7)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.yaml").write_text(RECIPE)
        cold = seconds([*python, "-m", "ftlab.cli", "train", "train.yaml"], 3, cwd=folder)
    return {
        "import ftlab, s (without Python's own start)": seconds([*python, "-c", "import ftlab"], 7)
        - bare,
        "ftlab --help, s": seconds([*python, "-m", "ftlab.cli", "--help"], 7),
        "ftlab train, 60 LoRA steps from a cold start, s": cold,
    }
