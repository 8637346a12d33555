"""RoPE scaling: how a model reads texts longer than those it was trained on.

The keys and factors are LLaMA-Factory's, the arithmetic is transformers' (modeling_rope_utils.py).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ftlab.checkpoints import BASE

INFERENCE_FACTOR = 2.0  # LLaMA-Factory's, where no length is given


def rope_parameters(config: Any, kind: str, length: int | None = None) -> dict[str, Any] | None:
    """The ``rope_parameters`` that make ``config``'s model read ``length`` tokens.

    ``kind``: linear, dynamic, yarn or llama3. The factor is ``ceil(length / native length)``, 2.0
    without a length. None where the model reads that many tokens as it is.
    """
    native = config.max_position_embeddings
    if length is not None and length <= native:
        return None
    factor = INFERENCE_FACTOR if length is None else float(math.ceil(length / native))
    theta = (config.rope_parameters or {}).get("rope_theta", getattr(config, "rope_theta", 1e4))
    made = {"rope_type": kind, "rope_theta": theta, "factor": factor}
    if kind != "linear":
        made["original_max_position_embeddings"] = native
    if kind == "llama3":
        made |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return made


def scale(config: Any, kind: str, length: int | None = None) -> str | None:
    """Change a configuration, before its model is made; a sentence where nothing had to change."""
    made, before = rope_parameters(config, kind, length), _kind(config)
    if before != "default":
        return f"rope_scaling={kind}: no effect, the model's own configuration says {before}."
    if made is None:
        longest = config.max_position_embeddings
        return f"rope_scaling={kind}: no effect, the model reads {longest} tokens as it is."
    config.max_position_embeddings = int(config.max_position_embeddings * made["factor"])
    config.rope_parameters = made
    return None


def record(config: Any) -> dict[str, Any]:
    """What an adapter's base.json keeps of a scaled base."""
    if _kind(config) == "default":
        return {}
    return {
        "rope_parameters": dict(config.rope_parameters),
        "max_position_embeddings": config.max_position_embeddings,
    }


def remembered(config: Any, adapter: Path) -> None:
    """Scale a base's configuration as it was when the adapter in this folder was trained."""
    path = adapter / BASE
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "rope_parameters" in found and _kind(config) == "default":
        config.rope_parameters = dict(found["rope_parameters"])
        config.max_position_embeddings = found["max_position_embeddings"]


def _kind(config: Any) -> str:
    return str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))
