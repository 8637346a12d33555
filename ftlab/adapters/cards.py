"""What adapters say about themselves: folders of ftlab, PEFT, LLaMA-Factory and ms-swift, listed.

Taught in notebooks/08_lora.ipynb.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ftlab import checkpoints
from ftlab.adapters.folders import adapter_config
from ftlab.errors import CheckpointError, ModelError

_COLUMNS = ("name", "method", "rank", "alpha", "targets", "parameters", "bytes", "base", "made by")


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter's folder says about itself.

    ``name`` is its place below the folder that was listed, or its name in an AdapterSet; ``bytes``
    the size of its weights on disk; ``targets`` the modules that it changes, or the number of its
    virtual tokens. ``base_recorded``: whether the folder holds the hash of its base's weights, so
    that another base is refused. ``fault`` is the one sentence why it cannot be loaded, or "".
    """

    name: str
    folder: Path
    method: str = ""
    rank: int | None = None
    alpha: float | None = None
    targets: str = ""
    parameters: int = 0
    bytes: int = 0
    base: str = ""
    base_recorded: bool = False
    made_by: str = ""
    fault: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row of this adapter in a table, under name, method, rank, alpha, ..."""
        if self.fault:
            return (self.name, self.fault, *[""] * (len(_COLUMNS) - 2))
        base = Path(self.base).name + ("" if self.base_recorded else " (weights not recorded)")
        size = ("" if value is None else f"{value:g}" for value in (self.rank, self.alpha))
        numbers = (f"{self.parameters:,}", f"{self.bytes:,}")
        return (self.name, self.method, *size, self.targets, *numbers, base, self.made_by)


class AdapterCards(list[AdapterCard]):
    """Adapters as a table: HTML in a notebook, aligned text elsewhere."""

    def __str__(self) -> str:
        rows = [_COLUMNS, *(card.cells() for card in self)]
        wide = [max(len(row[i]) for row in rows if row[2] or i == 0) for i in range(len(_COLUMNS))]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = 'style="text-align:left"'
        head = "".join(f"<th {left}>{column}</th>" for column in _COLUMNS)
        cells = ([f"<td {left}>{escape(cell)}</td>" for cell in card.cells()] for card in self)
        rows = ("".join(row) for row in cells)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def describe_adapters(folder: str | Path) -> AdapterCards:
    """All adapters at and below ``folder``: of ftlab, PEFT, LLaMA-Factory or ms-swift.

    Only the JSON files and the header of the weights are read; a folder that cannot be loaded is
    listed with its ``fault``. Raises ModelError where there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        near = get_close_matches(root.name, [p.name for p in root.parent.glob("*/")], n=1)
        raise ModelError(f"{root}: no such folder.{did_you_mean(near)}")
    found = [path.parent for path in root.rglob("adapter_config.json")]
    found.sort(
        key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(path))]
    )
    return AdapterCards(
        describe(path, str(path.relative_to(root)) if path != root else path.name) for path in found
    )


def describe(folder: str | Path, name: str = "") -> AdapterCard:
    """The card of the adapter in one folder; what keeps it from loading is its ``fault``."""
    folder = Path(folder)
    card = AdapterCard(name or folder.name, folder)
    try:
        config = adapter_config(folder)
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
        record = read_base_record(folder)
    except SafetensorError as error:
        return replace(card, fault=f"{folder}: adapter_model.safetensors is damaged ({error}).")
    except (ModelError, CheckpointError) as error:
        return replace(card, fault=str(error))
    is_lora = config.get("peft_type") == "LORA"
    return replace(
        card,
        method=_method(config),
        rank=config.get("r") if is_lora or config.get("peft_type") == "ADALORA" else None,
        alpha=config.get("lora_alpha") if is_lora else None,
        targets=targets(config),
        parameters=sum(map(math.prod, shapes)),
        bytes=(folder / "adapter_model.safetensors").stat().st_size,
        base=str(record.get("model") or config.get("base_model_name_or_path") or ""),
        base_recorded=bool(record.get("sha256")),
        made_by=_maker(folder, config),
    )


def read_base_record(folder: Path) -> dict[str, Any]:
    """What an adapter's folder says about its base; {} where it says nothing."""
    path = folder / checkpoints.BASE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}).") from error


def _method(config: dict[str, Any]) -> str:
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        return kind
    parts = [
        "DoRA" if config.get("use_dora") else "LoRA",
        "rank-stabilized" if config.get("use_rslora") else "",
        start if isinstance(start := config.get("init_lora_weights"), str) else "",
    ]
    return ", ".join(filter(None, parts))


def targets(config: dict[str, Any]) -> str:
    """The modules that an adapter changes, as text."""
    if config.get("num_virtual_tokens"):
        return f"{config['num_virtual_tokens']} virtual tokens"
    modules, saved = _names(config.get("target_modules")), _names(config.get("modules_to_save"))
    return modules + (f"; whole: {saved}" if saved else "")


def _names(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | set) else str(value or "")


def _maker(folder: Path, config: dict[str, Any]) -> str:
    """Which tool wrote the folder, told by the files that only this tool leaves there."""
    places = (folder, folder.parent) if folder.name.startswith("checkpoint-") else (folder,)
    marks = (
        ("ftlab", checkpoints.BASE),
        ("ms-swift", "additional_config.json"),
        ("ms-swift", "args.json"),
        ("LLaMA-Factory", "trainer_log.jsonl"),
        ("LLaMA-Factory", "llamaboard_config.yaml"),
    )
    for maker, mark in marks:
        if any((place / mark).is_file() for place in places):
            return maker
    return f"PEFT {config.get('peft_version', '')}".strip()


def did_you_mean(near: list[str]) -> str:
    """A hint at the nearest name, or ""."""
    return f" Did you mean {near[0]!r}?" if near else ""
