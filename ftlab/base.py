"""Which weights an adapter belongs to: their hash, the record beside the adapter, the check.

Taught in notebooks/15_merging_and_export.ipynb.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from ftlab import rope
from ftlab.errors import ModelError
from ftlab.quantize import digest, original


def base_record(model: Any, name: str) -> dict[str, Any]:
    """What an adapter's folder says about its base: name, precision and ``weights_hash``.

    The hash is that of the weights the model was made from, also where those in memory are others:
    quantized ones, or the rest that PiSSA and OLoRA leave (``model.ftlab_base``).
    """
    known = _known(model)
    found = {"sha256": weights_hash(model, model.dtype)} if known is None else known
    dtype = str(model.dtype).removeprefix("torch.")
    return {"dtype": dtype, **found, **rope.record(model.config), "model": name}


def weights_hash(model: Any, dtype: torch.dtype) -> str:
    """sha256 of a model's weights rounded to ``dtype``; of a PEFT model, those of its base."""
    return digest(sorted(_base_tensors(inner_model(model)).items()), dtype)


def check_base(model: Any, base: str, adapter: Path, record: dict[str, Any]) -> list[str]:
    """ModelError unless these are the weights the adapter was trained on; a note if unknown."""
    dtype = getattr(torch, str(record.get("dtype")), None)
    known = _known(model, dtype)
    found = (known or {}).get("sha256")
    rounded_otherwise = known is not None and known.get("dtype") != record.get("dtype")
    if not record.get("sha256") or (known is not None and (not found or rounded_otherwise)):
        return [f"note: {adapter} does not record its base's weights; {base} was not checked."]
    if known is None and isinstance(dtype, torch.dtype):
        found = weights_hash(model, dtype)
    if found != record["sha256"]:
        raise ModelError(
            f"{base}: not the base of {adapter}, which was trained on other weights "
            f"({record.get('model')!r} at that time). Pass that model as base."
        )
    return []


def _known(model: Any, dtype: torch.dtype | None = None) -> dict[str, Any] | None:
    return getattr(inner_model(model), "ftlab_base", None) or original(model, dtype)


def inner_model(model: Any) -> Any:
    """The model that PEFT wrapped, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def untie(model: Any) -> None:
    """Give the output layer its own weights where an adapter changes one of two tied layers."""
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    inner = [getattr(m, "base_layer", getattr(m, "original_module", m)) for m in layers]
    if inner != list(layers) and inner[0].weight is inner[1].weight:
        inner[1].weight = torch.nn.Parameter(inner[1].weight.detach().clone())


def embedding_rows(model: Any) -> int:
    """How many tokens a model has embeddings for, also where an adapter wraps them."""
    layer = model.get_input_embeddings()
    return int(getattr(layer, "base_layer", layer).num_embeddings)


def _base_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The state of the model that PEFT wrapped, under the names it had before."""
    added = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
        for part in (*module.adapter_layer_names, *module.other_param_names)
    }
    found = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        starts = {".".join(parts[:n]) for n in range(1, len(parts))} | {name}
        if "modules_to_save" not in parts and not starts & added:
            kept = [part for part in parts if part not in ("base_layer", "original_module")]
            found[".".join(kept)] = tensor
    return found
