"""The results as Markdown tables, and the README that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What the project promises for each figure; a figure above its goal is shown as missed.
GOALS = {
    "full: ftlab.train / bare loop": 1.2,
    "lora: ftlab.train / bare loop": 1.2,
    "panel: slider released -> first point, s": 0.5,
    "panel: slider released -> 60 LoRA steps drawn, s": 2.5,
    "import ftlab, s (without Python's own start)": 0.3,
    "ftlab --help, s": 0.5,
    "ftlab train, 60 LoRA steps from a cold start, s": 8.0,
    "diagnose 100,000 rows, slowest format, s": 20.0,
    "read and diagnose 100,000 rows, largest peak memory, MB": 1000.0,
    "merge: peak memory / model": 1.3,
    "server / model.generate: time a token": 1.3,
}
METHOD_GOAL = 1.2  # of step time, ftlab against a bare loop
STAGE_GOAL = 1.1  # a step of a preference stage / the same in a bare TRL script
PREDICTED_GOAL = 0.15  # largest difference of predicted and measured peak memory
Rows = dict[str, dict[str, float]]


def verdict(value: float, goal: float | None) -> str:
    """Whether the goal is met; nothing where there is none."""
    return "" if goal is None else "met" if value <= goal else "missed"


def figures(results: dict[str, float]) -> str:
    """One figure a line."""
    lines = ["| measured | median | goal | |", "|---|---:|---:|---|"]
    for name, value in results.items():
        goal = GOALS.get(name)
        shown = "" if goal is None else f"<= {goal}"
        lines.append(f"| {name} | {value:.2f} | {shown} | {verdict(value, goal)} |")
    return "\n".join(lines)


def methods(rows: Rows) -> str:
    """Each method: step time and memory."""
    lines = [
        f"| model, method | ms a step | ftlab / bare loop (goal: <= {METHOD_GOAL}) | "
        "| peak MB | ftlab / bare loop |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['ms']:.0f} | {row['ms ratio']:.2f} "
            f"| {verdict(row['ms ratio'], METHOD_GOAL)} | {row['MB']:,.0f} "
            f"| {row['MB ratio']:.2f} |"
        )
    return "\n".join(lines)


def stages(rows: Rows) -> str:
    """Each preference stage: step time, and the speed of sampling where answers are sampled."""
    lines = [
        f"| stage, method | ms a step | processor time, ftlab / bare TRL (goal: <= {STAGE_GOAL}) | "
        "| tokens sampled a second |",
        "|---|---:|---:|---|---:|",
    ]
    for name, row in rows.items():
        speed = f"{row['tokens/s']:,.0f}" if "tokens/s" in row else ""
        lines.append(
            f"| {name} | {row['ms']:.0f} | {row['ms ratio']:.2f} "
            f"| {verdict(row['ms ratio'], STAGE_GOAL)} | {speed} |"
        )
    return "\n".join(lines)


def reference(rows: Rows) -> str:
    """DPO with the reference beside it, and asked once before training."""
    lines = [
        "| DPO on | peak MB above the start, reference asked each step | asked before "
        "| ms a step | asked before |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['MB']:,.0f} | {row['MB cached']:,.0f} "
            f"| {row['ms']:,.0f} | {row['ms cached']:,.0f} |"
        )
    return "\n".join(lines)


def estimate(rows: Rows) -> str:
    """Predicted and measured peak of a run, above what the libraries take."""
    lines = [
        f"| predicted by ftlab.estimate | peak MB | measured | predicted / measured (goal: within "
        f"{PREDICTED_GOAL:.0%}) | | measured, with what the C library keeps |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for name, row in rows.items():
        ratio = row["MB predicted"] / row["MB"]
        lines.append(
            f"| {name} | {row['MB predicted']:,.0f} | {row['MB']:,.0f} | {ratio:.2f} "
            f"| {verdict(abs(ratio - 1), PREDICTED_GOAL)} | {row['MB kept']:,.0f} |"
        )
    return "\n".join(lines)


# key of cpu.json -> its table
TABLES: dict[str, Callable[[Any], str]] = {
    "results": figures, "methods": methods, "stages": stages, "reference": reference,
    "estimate": estimate,
}  # fmt: skip


def block(found: dict[str, Any]) -> str:
    """All tables, and what they were measured on."""
    parts = [draw(found[key]) for key, draw in TABLES.items() if key in found]
    caption = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    inner = "\n\n".join([*parts, f"Measured on: {caption}."])
    return f"<!-- bench:start -->\n{inner}\n<!-- bench:end -->"


def write(readme: Path, found: dict[str, Any]) -> None:
    """Put the tables between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile("<!-- bench:start -->.*<!-- bench:end -->", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: block(found), text), encoding="utf-8")
