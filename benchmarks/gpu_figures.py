"""Arithmetic of the GPU benchmark: model FLOPs, MFU, the goals and whether they are met, tables."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_models import Shape

Record = dict[str, Any]
RESULTS = Path(__file__).parent / "results"

CONVENTION = (
    "model FLOPs a token = 4N + 6P + 3A: N weights a token is multiplied with (head included), "
    "P those of the adapters, A = 2 * layers * heads * head_dim * length, attention's forward pass "
    "halved because it is causal; what checkpointing computes again does not count"
)
# Dense 16-bit TFLOP/s of the data sheets; a name matches where its words are in the device's.
PEAKS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0,
    "L40S": 362.0, "4090": 165.0, "A10G": 70.0, "T4": 65.0,
}  # fmt: skip

GOAL_MODEL = "Llama-3.1-8B"
FASTER, SMALLER, BUSY, CLOSE = 1.3, 0.60, 0.45, 0.97
PLAIN, DIRECT, OURS = "trl", "unsloth", "ftlab-unsloth"


def flops_per_token(shape: Shape, rank: int, length: float) -> float:
    """Training FLOPs of LoRA for one token of a sample of ``length`` tokens: forward and backward
    through frozen weights (4N), through the adapters (6P) and attention (3A)."""
    attention = 2 * shape.layers * shape.q * length
    return 4 * shape.multiplied + 6 * shape.adapters(rank) + 3 * attention


def nemo_flops_per_token(shape: Shape, rank: int, length: float, total: int) -> float:
    """The same by NeMo's convention: (2 + trained / frozen) / 3 of full training's 6N + 3A."""
    attention = 2 * shape.layers * shape.q * length
    share = (2 + shape.adapters(rank) / total) / 3
    return share * (6 * shape.multiplied + 3 * attention)


def published_peak(device: str) -> float | None:
    """The data sheet's dense 16-bit TFLOP/s of a device by its name."""
    found = (peak for name, peak in PEAKS.items() if all(w in device for w in name.split()))
    return next(found, None)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the 20th and 80th percentile."""
    ordered = sorted(values)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.2, 0.8))
    return {"median": statistics.median(ordered), "p20": low, "p80": high}


# --- the goals -----------------------------------------------------------------------------------

# what makes two cells comparable, but for the system
GROUP = ("model", "method", "batch", "track", "checkpointing")


def group(cell: Record) -> tuple[Any, ...]:
    """The cell without its system."""
    return tuple(cell[key] for key in GROUP)


def pairs(cells: Sequence[Record], ours: str, other: str) -> Iterator[tuple[Record, Record]]:
    """Measured cells of two systems that differ in nothing else."""
    measured = {(*group(cell), cell["system"]): cell for cell in cells if cell["status"] == "ok"}
    for key, cell in measured.items():
        if key[-1] == ours and (*key[:-1], other) in measured:
            yield cell, measured[(*key[:-1], other)]


def speed(cell: Record) -> float:
    """Tokens that are no padding, a second."""
    return float(cell["tokens_per_second"]["tokens"])


def verdicts(found: Record) -> list[Record]:
    """Each goal with its figure and "met", "missed" or "not measured"."""
    cells = found["cells"]
    goal = (GOAL_MODEL, "qlora", 8, "A", "on")
    both = next((pair for pair in pairs(cells, OURS, PLAIN) if group(pair[0]) == goal), None)
    ours, plain = both or (None, None)
    faster = speed(ours) / speed(plain) if ours and plain else None
    smaller = ours["peak_allocated"] / plain["peak_allocated"] if ours and plain else None
    busy = max((cell["mfu"] for cell in cells if _lora_8b(cell)), default=None)
    close = [speed(a) / speed(b) for a, b in pairs(cells, OURS, DIRECT)]
    name = f"{GOAL_MODEL} QLoRA, batch 8, full rows"
    return [
        _verdict(f"{name}: {OURS} / {PLAIN}, tokens/s", faster, ">=", FASTER),
        _verdict(f"{name}: {OURS} / {PLAIN}, peak memory", smaller, "<=", SMALLER),
        _verdict(f"{GOAL_MODEL} LoRA in bf16: best MFU of ftlab", busy, ">=", BUSY),
        _verdict(f"{OURS} / {DIRECT}, tokens/s, median over cells",
                 statistics.median(close) if close else None, ">=", CLOSE),
    ]  # fmt: skip


def _lora_8b(cell: Record) -> bool:
    """Full rows only: what is padded or packed differs."""
    kind = (cell["model"], cell["method"], cell["track"]) == (GOAL_MODEL, "lora", "A")
    ours = cell["system"].startswith("ftlab")
    return kind and ours and cell["status"] == "ok" and cell["mfu"] is not None


def _verdict(what: str, value: float | None, sign: str, goal: float) -> Record:
    met = None if value is None else value >= goal if sign == ">=" else value <= goal
    words = {None: "not measured", True: "met", False: "missed"}
    return {"what": what, "value": value, "goal": f"{sign} {goal}", "verdict": words[met]}


def unequal_losses(cells: Sequence[Record], limit: float = 1e-2) -> list[str]:
    """Where systems that saw the same full rows differ in the loss of the first step: one of them
    computes something else."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for cell in cells:
        if cell["status"] == "ok" and cell["track"] == "A":
            groups.setdefault(group(cell), []).append(cell)
    found = []
    for key, members in groups.items():
        losses = {cell["system"]: cell["first_loss"] for cell in members}
        if max(losses.values()) - min(losses.values()) >= limit:
            found.append(f"{', '.join(map(str, key))}: {losses}")
    return found


# --- tables --------------------------------------------------------------------------------------


def table(found: Record) -> str:
    """The measured cells as Markdown, one group of systems after the other."""
    lines = [
        "| model, method, batch, track, checkpointing | system | tokens/s (no padding) "
        f"| / {PLAIN} | peak GiB | / {PLAIN} | MFU |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    plain = {group(c): c for c in found["cells"] if c["system"] == PLAIN and c["status"] == "ok"}
    for cell in sorted(found["cells"], key=lambda cell: str(group(cell))):
        name = ", ".join(map(str, group(cell)))
        if cell["status"] != "ok":
            lines.append(f"| {name} | {cell['system']} | {cell['status']} | | | | |")
            continue
        base, gib = plain.get(group(cell)), cell["peak_allocated"]
        faster = f"{speed(cell) / speed(base):.2f}" if base else ""
        smaller = f"{gib / base['peak_allocated']:.2f}" if base and gib else ""
        memory = f"{gib / 2**30:.1f}" if gib else ""
        mfu = f"{cell['mfu']:.0%}" if cell["mfu"] is not None else ""
        lines.append(
            f"| {name} | {cell['system']} | {speed(cell):,.0f} | {faster} | {memory} | {smaller} "
            f"| {mfu} |"
        )
    return "\n".join(lines)


def goals(found: Record) -> str:
    """The goals as Markdown."""
    lines = ["| goal | measured | | |", "|---|---:|---:|---|"]
    for one in verdicts(found):
        value = "" if one["value"] is None else f"{one['value']:.2f}"
        lines.append(f"| {one['what']} | {value} | {one['goal']} | {one['verdict']} |")
    return "\n".join(lines)


def block(folder: Path = RESULTS) -> str:
    """What README.md shows: the tables of every GPU measured, or that there is none."""
    files = sorted(folder.glob("gpu-*.json"))
    parts = [
        "No GPU has been measured yet: `benchmarks/results/gpu-<device>.json` is missing. "
        "`python -m benchmarks.gpu` writes it."
    ]
    if files:
        parts = []
    for path in files:
        found = json.loads(path.read_text(encoding="utf-8"))
        device = found["device"]
        parts += [
            goals(found), table(found),
            f"Measured on: {device['name']}, rows of {found['length']} tokens; MFU of the data "
            f"sheet's {device['peak_tflops'] or 'unknown'} TFLOP/s; {CONVENTION}.",
        ]  # fmt: skip
    inner = "\n\n".join(parts)
    return f"<!-- gpu:start -->\n{inner}\n<!-- gpu:end -->"


def write(readme: Path) -> None:
    """Put the block between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile("<!-- gpu:start -->.*<!-- gpu:end -->", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: block(), text), encoding="utf-8")
