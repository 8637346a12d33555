"""python -m benchmarks: run all, write results/cpu.json and the table in README.md."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

# One thread, as in the notebooks on two cores; PyTorch reads it when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import data, merge, methods, panel, serve, startup, step  # noqa: E402

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
ROOT = Path(__file__).parent.parent


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"model name\s*: (.+)", cpuinfo.read_text())
        model = found.group(1) if found else model
    packages = (
        "torch", "transformers", "trl", "peft", "bitsandbytes", "ipywidgets", "jupyterlab",
    )  # fmt: skip
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "PyTorch threads": os.environ["OMP_NUM_THREADS"],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def table(results: dict[str, float]) -> str:
    """The results as a Markdown table."""
    lines = ["| measured | median | goal | |", "|---|---:|---:|---|"]
    for name, value in results.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else "met" if value <= goal else "missed"
        lines.append(
            f"| {name} | {value:.2f} | {'' if goal is None else f'<= {goal}'} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    results: dict[str, float] = {}
    for part in (startup, step, panel, data, merge, serve):
        results |= part.measure()
    each, where = methods.measure(), machine()
    path = ROOT / "benchmarks" / "results" / "cpu.json"
    found = {"machine": where, "results": results, "methods": each}
    path.write_text(json.dumps(found, indent=1) + "\n")
    caption = ", ".join(f"{key} {value}" for key, value in where.items())
    tables = f"{table(results)}\n\n{methods.table(each)}\n\nMeasured on: {caption}."
    block = f"<!-- bench:start -->\n{tables}\n<!-- bench:end -->"
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile("<!-- bench:start -->.*<!-- bench:end -->", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: block, text), encoding="utf-8")
    print(block)


if __name__ == "__main__":
    main()
