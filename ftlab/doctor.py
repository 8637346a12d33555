"""What is installed, where training will run and why, and what is in the way.

`check()` is `ftlab doctor`; `setup()` is the second cell of every notebook.
Taught in notebooks/00_start_here.ipynb.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import random
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# No network, no telemetry, no questions, no chatter: for notebooks, tests and tools alike.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "SWANLAB_MODE": "offline",
    "SWANLAB_INTERACTIVE": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
SHOWN_IN_SETUP = ("torch", "transformers", "trl", "peft")
OPERATORS = (">=", ">", "==", "~=", "!=", "<=", "<")


@dataclass
class Report:
    """`lines` are (name, finding) pairs; `problems` say what is wrong and what mends it."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        text = [_row(name, finding) for name, finding in self.lines]
        return "\n".join(text + [_row("problem", problem) for problem in self.problems])


def check() -> Report:
    """Look at versions, device, memory, disk and network settings; opens no connection.

    >>> check().ok
    True
    """
    report = Report([("ftlab", _version("ftlab") or "not installed"), ("Python", _python())])
    for need in requirements():
        found = _version(need.name)
        if found or need.marker is None:
            report.lines.append(
                (need.name, f"{found or 'missing':14} needs {_pin(need.specifier)}")
            )
    report.problems += conflicts()
    report.lines += [
        *_compute(),
        ("kernels", _kernels()),
        ("4 bits", _four_bits()),
        ("memory", _memory()),
        ("disk", _disk()),
        ("network", _network()),
    ]
    return report


def setup(seed: int = 42, *, online: bool = False) -> None:
    """Seed Python, NumPy and PyTorch, silence library chatter, and print what the cells run on.

    ``online=True`` lets the hub be reached; otherwise nothing is ever downloaded.
    """
    _set_network(online)
    warnings.filterwarnings("ignore", category=FutureWarning)
    import numpy as np
    import torch
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

    threads = _leave_a_core()
    versions = [f"{name} {_version(name)}" for name in SHOWN_IN_SETUP]
    print(_row("ftlab", " · ".join([_version("ftlab") or "", f"Python {_python()}", *versions])))
    found = [*_compute(), ("threads", threads), ("seed", str(seed)), ("network", _network())]
    for name, finding in found:
        print(_row(name, finding))
    for problem in conflicts():
        print(_row("problem", problem))


def _leave_a_core() -> str:
    """Let PyTorch use all cores but one: its threads wait for each other at every operation, so
    a browser that takes one of their cores away slows training down many times over."""
    import torch

    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - 1)))
    threads = torch.get_num_threads()
    reason = " (one is left for the browser)" if threads == cores - 1 else ""
    return f"{threads} of {cores} cores{reason}"


def requirements() -> Iterator[Requirement]:
    """ftlab's own requirements without the development tools; an extra's carry a marker."""
    for line in metadata.requires("ftlab") or []:
        need = Requirement(line)
        if "dev" not in _extras(need):
            yield need


def conflicts() -> list[str]:
    """One sentence for each pin that the installed packages break, with what mends it."""
    found = []
    for need in requirements():
        version = _version(need.name)
        if version and need.specifier.contains(version, prereleases=True):
            continue
        pin = _pin(need.specifier)
        if version:
            what = f"{need.name} {version} is installed, ftlab needs {pin}"
        elif need.marker is None:
            what = f"{need.name} is missing, ftlab needs {pin}"
        else:
            continue  # an extra that was not asked for
        found.append(f"{what}: pip install '{need.name}{pin}'")
    widgets = _version("ipywidgets") or ""
    if widgets.startswith("7.") and _version("jupyterlab") and "google.colab" not in sys.modules:
        found.append(
            f"ipywidgets {widgets} shows no panels in JupyterLab 4: pip install 'ipywidgets>=8,<9'"
        )
    return found


def _compute() -> list[tuple[str, str]]:
    try:
        from ftlab import hardware, models  # noqa: F401 (what a broken transformers raises)
    except ImportError as error:
        return [("device", f"unknown ({error})")]
    machine = hardware.here()
    dtype = hardware.pick_dtype(machine.device)
    detail = machine.name
    if machine.device == "cuda":
        major, minor = machine.capability
        detail += f", capability {major}.{minor}, {machine.memory / 2**30:.0f} GiB"
    return [
        ("device", f"{machine.device} ({detail})"),
        ("dtype", f"{dtype.value} ({dtype.reason})"),
    ]


def _kernels() -> str:
    """Which packages with kernels for GPUs are installed, and whether Unsloth runs here."""
    from ftlab import engine, hardware

    found = hardware.packages()
    named = [
        f"{package} {_version(package) or 'installed'}" if module in found else f"no {package}"
        for module, package in hardware.KERNELS.items()
    ]
    problem = engine.lacks(hardware.here(), found)
    runs = "use_unsloth works" if problem is None else problem.removesuffix(" Remove the key.")
    return f"{', '.join(named)}; {runs}"


def _four_bits() -> str:
    """Whether bitsandbytes quantizes on this machine's device, found out by doing it."""
    try:
        from ftlab import models, quantize

        device = models.pick_device().value
        for bits in (4, 8):
            quantize.works(bits, device)
    except Exception as error:
        return f"do not work here: {str(error).splitlines()[0] if str(error) else repr(error)}"
    return f"bitsandbytes {_version('bitsandbytes')} quantizes to 4 and 8 bits on {device}"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"


def _disk() -> str:
    return f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free in this folder"


def _network() -> str:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "offline: nothing is downloaded (HF_HUB_OFFLINE=1)"
    return "online: only a hub model, hub dataset or tracker that you name is reached"


def _set_network(online: bool) -> None:
    """Set the environment, and the switch that huggingface_hub may have read already."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    os.environ["HF_HUB_OFFLINE"] = "0" if online else "1"
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = not online


def _extras(need: Requirement) -> list[str]:
    return re.findall(r"extra == [\"']([\w-]+)[\"']", str(need.marker))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _pin(specifiers: SpecifierSet) -> str:
    """`>=5.15,<5.18`, lower bound first (a SpecifierSet has no order)."""
    ordered = sorted(specifiers, key=lambda one: OPERATORS.index(one.operator))
    return ",".join(str(one) for one in ordered) or "any version"


def _row(name: str, finding: str) -> str:
    return f"{name:<13} {finding}"
