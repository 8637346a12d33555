"""python -m benchmarks.gpu: speed and memory of fine-tuning on one GPU, side by side.

Plain TRL, TRL with Liger's kernels, Unsloth called directly, and ftlab with and without Unsloth
train the same random weights on the same tokens: LoRA and NF4 QLoRA, batch 1 and 8, full rows
(track A) and rows of real lengths (track B). No network. Each cell is a fresh process, the
order of the systems rotates, and the results are written after every cell: a run that is cut
short keeps what it has, and the same command goes on where it stopped.

    python -m benchmarks.gpu --minutes 25
    python -m benchmarks.gpu --device cpu --models smoke --length 32 --steps 3 --warm 2 --out a.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import gpu_figures
from benchmarks.gpu_models import SHAPES

ROOT = Path(__file__).parent.parent
MODELS = tuple(name for name in SHAPES if name != "smoke")
METHODS, BATCHES, TRACKS, CHECKPOINTING = ("lora", "qlora"), (1, 8), ("A", "B"), ("on", "off")
SYSTEMS = ("trl", "ftlab-unsloth", "unsloth", "ftlab", "trl-liger")
ALL_SYSTEMS = (*SYSTEMS, "trl-packed")
PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "triton",
    "unsloth", "unsloth_zoo", "liger_kernel", "xformers", "flash_attn",
)  # fmt: skip
# What is measured first where time is short: the goals, then what shows small models and padding.
FIRST = (
    ("Llama-3.1-8B", "qlora", 8, "A", "on"),
    ("Llama-3.1-8B", "lora", 8, "A", "off"),
    ("Llama-3.1-8B", "lora", 1, "A", "off"),
    ("Llama-3.1-8B", "qlora", 8, "B", "on"),
    ("Qwen3-0.6B", "lora", 8, "A", "off"),
    ("Qwen3-0.6B", "lora", 1, "A", "off"),
)
LEAST = 30.0  # seconds: no cell is begun with less time left
Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is measured: everything that makes two cells differ."""

    model: str
    method: str
    batch: int
    track: str
    checkpointing: str
    system: str

    def __str__(self) -> str:
        return ", ".join(map(str, asdict(self).values()))

    @property
    def group(self) -> tuple[Any, ...]:
        """The cell without its system."""
        return tuple(asdict(self).values())[:-1]


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[0]
    )

    def several(name: str, known: tuple[Any, ...], default: tuple[Any, ...], help: str) -> None:
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=list(default), help=help,
                            type=type(known[0]))  # fmt: skip

    several("models", tuple(SHAPES), MODELS, "shapes of these models; smoke is tiny, for a CPU")
    several("methods", METHODS, METHODS, "what trains")
    several("batches", tuple(range(1, 65)), BATCHES, "rows a step")
    several("systems", ALL_SYSTEMS, SYSTEMS, "what trains it; trl-packed is TRL with packing")
    several("tracks", TRACKS, TRACKS, "A: full rows; B: rows of real lengths")
    several("checkpointing", CHECKPOINTING, CHECKPOINTING, "recompute activations or keep them")
    add = parser.add_argument
    add("--length", type=int, default=2048, help="tokens of a full row")
    add("--steps", type=int, default=30, help="timed steps of a cell")
    add("--warm", type=int, default=10, help="most warm-up steps; fewer where 5 are within 3 %%")
    add("--minutes", type=float, default=0, help="end after these; 0: when all is measured")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to check the program")
    add("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ftlab-gpu-models",
        help="folder of the models (40 GB for all)")  # fmt: skip
    add("--out", type=Path, help="results; default benchmarks/results/gpu-<device>.json")
    add("--ce-gb", default="1", help="pins Unsloth's share of memory for logits, in GB")
    add("--plan", action="store_true", help="list the cells in their order and end")
    return parser.parse_args(words)


def cells(asked: argparse.Namespace) -> list[Cell]:
    """All cells, the important ones first; in each group another system begins."""
    groups = [
        (model, method, batch, track, checkpointing)
        for track in asked.tracks
        for batch in sorted(asked.batches, reverse=True)
        for model in asked.models
        for checkpointing in asked.checkpointing
        for method in asked.methods
    ]
    groups.sort(key=lambda group: FIRST.index(group) if group in FIRST else len(FIRST))
    found = []
    for number, group in enumerate(groups):
        turn = number % len(asked.systems)
        found += [Cell(*group, one) for one in asked.systems[turn:] + asked.systems[:turn]]
    return [cell for cell in found if cell.system != "trl-packed" or cell.track == "B"]


# --- what was measured, with what ----------------------------------------------------------------


def code() -> str:
    """A hash of the programs that are measured; the commit changes also with a text."""
    found = hashlib.sha256()
    for path in sorted([*ROOT.glob("ftlab/**/*.py"), *ROOT.glob("benchmarks/gpu*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def commit() -> str | None:
    """The commit, where git knows it."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def versions() -> dict[str, str | None]:
    """The packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def done(found: Record, made: Record) -> set[Cell]:
    """The cells that this code and these packages have measured, or failed at."""
    names = Cell.__dataclass_fields__
    return {
        Cell(**{name: record[name] for name in names})
        for record in found["cells"]
        if all(record[key] == made[key] for key in ("code", "versions", "length", "steps", "ce_gb"))
    }


# --- running -------------------------------------------------------------------------------------


def environment(asked: argparse.Namespace) -> dict[str, str]:
    """What every cell runs under: offline, one GPU or none, Unsloth pinned and quiet."""
    pinned = {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_CE_LOSS_TARGET_GB": asked.ce_gb,
        "UNSLOTH_COMPILE_LOCATION": str(asked.cache / "unsloth_compiled_cache"),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    if asked.device == "cpu":
        pinned["CUDA_VISIBLE_DEVICES"] = ""
    return {**os.environ, **pinned}


def child(asked: argparse.Namespace, module: str, *words: str, seconds: float | None = None) -> str:
    """What a module prints in a process of its own; CalledProcessError where it fails."""
    command = [sys.executable, "-m", module, *words]
    # In the models' folder: Unsloth writes into the folder it is started in.
    asked.cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, cwd=asked.cache, check=True,
        env=environment(asked),
    )  # fmt: skip
    return done.stdout


def one(asked: argparse.Namespace, cell: Cell, device: Record, seconds: float | None) -> Record:
    """The record of one cell; TimeoutExpired where the time for all is over."""
    folder = asked.cache / f"{cell.model}-{asked.device}"
    settings = asdict(cell) | {
        "folder": str(folder), "device": asked.device, "length": asked.length,
        "steps": asked.steps, "warm": asked.warm, "peak_tflops": device.get("peak_tflops"),
        "matmul_tflops": device.get("matmul_tflops"),
    }  # fmt: skip
    began = time.monotonic()
    try:
        if not folder.is_dir():
            child(asked, "benchmarks.gpu_models", cell.model, str(folder), asked.device,
                  seconds=seconds)  # fmt: skip
        left = None if seconds is None else seconds - (time.monotonic() - began)
        text = child(asked, "benchmarks.gpu_cell", json.dumps(settings), seconds=left)
        found = json.loads([text for text in text.splitlines() if text.startswith("{")][-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        found = {"status": "failed", "reason": f"exit code {error.returncode}: {last}"[:400]}
    return asdict(cell) | found | {"seconds": time.monotonic() - began}


def described(asked: argparse.Namespace) -> Record:
    """The device; ends the program with one sentence where it is not there."""
    if asked.device == "cpu":
        return {"name": "cpu", "peak_tflops": None, "matmul_tflops": None}
    try:
        return dict(json.loads(child(asked, "benchmarks.gpu_cell", "device").splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        sys.exit((error.stderr.strip().splitlines() or ["the GPU cannot be described"])[-1])


def run(asked: argparse.Namespace) -> Record:
    """Measure what is not measured yet, as long as the time lasts."""
    ends = time.monotonic() + 60 * asked.minutes if asked.minutes else None
    device = described(asked)
    out = asked.out or gpu_figures.RESULTS / f"gpu-{_slug(str(device['name']))}.json"
    made = {"commit": commit(), "code": code(), "versions": versions(), "length": asked.length,
            "steps": asked.steps, "ce_gb": asked.ce_gb}  # fmt: skip
    found: Record = {"cells": []}
    if out.is_file():
        found = json.loads(out.read_text(encoding="utf-8"))
    found |= {"device": device, "length": asked.length, "convention": gpu_figures.CONVENTION}
    print(f"{device['name']} -> {out}\nMFU: {gpu_figures.CONVENTION}.", flush=True)
    for cell, seconds in _in_time(asked, found, made, ends):
        try:
            record = one(asked, cell, device, seconds) | made
        except subprocess.TimeoutExpired:
            print(f"{cell}: cut, the time is over", flush=True)
            break
        keep(found, record)
        _write(out, found)
        print(line(record), flush=True)
    _write(out, found)
    return found


def _in_time(
    asked: argparse.Namespace, found: Record, made: Record, ends: float | None
) -> Iterator[tuple[Cell, float | None]]:
    """The cells to measure, each with the seconds that are left; without those that would take
    longer, judged by the longest so far of the same model."""
    already = done(found, made)
    for cell in cells(asked):
        if cell in already:
            continue
        if ends is None:
            yield cell, None
            continue
        left = ends - time.monotonic()
        alike = [r["seconds"] for r in found["cells"] if r["model"] == cell.model]
        if left >= max([LEAST, *alike]):
            yield cell, left


def keep(found: Record, record: Record) -> None:
    """Put a record in the place of an older one of the same cell."""
    names = Cell.__dataclass_fields__
    others = [old for old in found["cells"] if any(old[n] != record[n] for n in names)]
    found["cells"] = [*others, record]


def _write(path: Path, found: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def line(record: Record) -> str:
    """A record in one line."""
    name = str(Cell(**{key: record[key] for key in Cell.__dataclass_fields__}))
    if record["status"] != "ok":
        return f"{name}: {record['status']}: {record['reason']}"
    memory = record["peak_allocated"]
    parts = [f"{record['tokens_per_second']['tokens']:,.0f} tokens/s"]
    parts += [f"peak {memory / 2**30:.1f} GiB"] if memory else []
    parts += [f"MFU {record['mfu']:.1%}"] if record["mfu"] is not None else []
    parts += [f"loss {record['first_loss']:.4f}", f"took {record['seconds']:.0f} s"]
    return f"{name}: {', '.join(parts)}"


def main(words: list[str] | None = None) -> None:
    """Measure, write, and say which goals are met."""
    asked = options(words)
    if asked.plan:
        print("\n".join(map(str, cells(asked))))
        return
    found = run(asked)
    for problem in gpu_figures.unequal_losses(found["cells"]):
        print(f"first losses differ: {problem}")
    print(gpu_figures.goals(found))
    if asked.device == "cuda" and asked.out is None:
        gpu_figures.write(ROOT / "README.md")


if __name__ == "__main__":
    main()
