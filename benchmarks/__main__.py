"""python -m benchmarks [PART ...]: measure, write results/cpu.json and the tables in README.md.

Without names all parts; with names the others keep what is stored of this machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

# One thread, as in the notebooks on two cores; PyTorch reads it when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import tables  # noqa: E402

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
# part, a module here -> where its figures belong
PARTS = {
    **dict.fromkeys(("startup", "step", "panel", "data", "merge", "serve"), "results"),
    "methods": "methods", "stages": "stages", "rollouts": "stages", "reference": "reference",
    "estimate": "estimate",
}  # fmt: skip


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


def main(names: list[str]) -> None:
    """Measure these parts, or all."""
    if unknown := set(names) - set(PARTS):
        sys.exit(f"{', '.join(sorted(unknown))}: no such part. There are: {', '.join(PARTS)}.")
    found: dict[str, Any] = {"machine": machine()}
    if names:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        if found["machine"] != machine():
            sys.exit(f"{RESULTS} is of another machine or other packages: measure all parts.")
    for name in names or PARTS:
        figures = import_module(f"benchmarks.{name}").measure()
        found[PARTS[name]] = found.get(PARTS[name], {}) | figures
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        tables.write(ROOT / "README.md", found)
    print(tables.block(found))


if __name__ == "__main__":
    main(sys.argv[1:])
