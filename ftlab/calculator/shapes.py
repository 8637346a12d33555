"""The shapes of a model: its configuration, from a name, a folder, a file or a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ftlab import memory
from ftlab.errors import ModelError
from ftlab.models import model_folder


def read_shapes(source: Any) -> Any:
    """The configuration that a name, a folder, a file or a mapping gives; from this machine only.

    Raises ModelError for a name that is neither here nor in ``ftlab.memory.SHAPES``.
    """
    if isinstance(source, PreTrainedConfig):
        return source
    if isinstance(source, Mapping):
        values = dict(source)
        try:
            return AutoConfig.for_model(values.pop("model_type"), **values)
        except (KeyError, ValueError) as error:
            raise ModelError("the configuration names no model_type that is known.") from error
    path = Path(model_folder(str(source))).expanduser()
    file = path if path.suffix == ".json" else path / "config.json"
    if file.is_file():
        return _from_file(file)
    if path.exists():
        raise ModelError(f"{path}: no config.json here. Name a model's folder.")
    return _named(str(source))


def _from_file(file: Path) -> Any:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return AutoConfig.for_model(values.pop("model_type"), **values)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{file}: no configuration of a model that transformers knows ({error})."
        ) from error


def _named(name: str) -> Any:
    """A shape of ours, or a model that was downloaded before."""
    known = {_plain(shape): shape for shape in memory.SHAPES}
    if _plain(name) in known:
        return read_shapes(memory.SHAPES[known[_plain(name)]])
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        near = get_close_matches(_plain(name), known, n=1, cutoff=0.5)
        hint = f" Did you mean {known[near[0]]!r}?" if near else ""
        raise ModelError(
            f"{name!r}: its shapes are not on this machine, and nothing is downloaded for an "
            f"estimate.{hint} Known: {', '.join(memory.SHAPES)}; or name a folder with a "
            "config.json."
        ) from None


def _plain(name: str) -> str:
    """The shape's part of a hub name: unsloth/Llama-3.1-8B-Instruct-bnb-4bit -> llama-3.1-8b."""
    short = name.split("/")[-1].lower().removeprefix("meta-").removesuffix("-bnb-4bit")
    for ending in ("-unsloth", "-instruct", "-chat", "-base", "-hf", "-it"):
        short = short.removesuffix(ending)
    return short
