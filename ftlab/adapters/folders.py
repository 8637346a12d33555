"""Adapter folders of PEFT, LLaMA-Factory, ms-swift and ftlab: read, checked, put onto a model."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from ftlab.adapters import bottleneck  # noqa: F401 (PEFT learns our own method)
from ftlab.errors import ModelError
from ftlab.models import gives_scores, with_score


def load_adapter(model: Any, folder: str | os.PathLike[str], name: str = "default") -> Any:
    """Wrap ``model`` with the PEFT adapter in ``folder`` (safetensors only).

    A PeftModel gets one more adapter, called ``name``, which is not active yet.
    """
    folder = Path(folder)
    if adapter_config(folder).get("task_type") == "SEQ_CLS" and not gives_scores(model.config):
        model = with_score(model)  # a reward model's adapter brings the weights of the head
    try:
        _prepare(model, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT warns of is checked below, and by tests
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), name)
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except SafetensorError as error:
        raise ModelError(f"{folder}: adapter_model.safetensors is damaged ({error}).") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: the adapter does not fit this base model ({str(error).splitlines()[0]}). "
            "Load the base that it was trained on."
        ) from error
    except (TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{folder / 'adapter_config.json'}: has a value that PEFT cannot use ({error}). Save "
            "the adapter again."
        ) from error
    _check_names(model, folder, name)
    return model


def adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of the adapter in ``folder``; ModelError where there is none to load."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no adapter here (adapter_config.json is missing).")
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ModelError(
            f"{folder}: {SAFETENSORS_WEIGHTS_NAME} is missing. ftlab reads no pickle files (.bin): "
            "save the adapter again with safe_serialization=True."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(config, dict) or str(config.get("peft_type")) not in _kinds():
        raise ModelError(f"{path}: must be a JSON object whose peft_type ftlab or PEFT knows.")
    return config


def _kinds() -> list[str]:
    return [str(getattr(kind, "value", kind)) for kind in PEFT_TYPE_TO_CONFIG_MAPPING]


def _prepare(model: Any, folder: Path) -> None:
    """Check that an adapter's values are finite, and make room for the embeddings it brings."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    ends = tuple(f"{name}.weight" for name, m in model.named_modules() if m in layers)
    rows = old = getattr(layers[0], "base_layer", layers[0]).num_embeddings
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise ModelError(f"{folder}: {name} has NaN or infinite values. Train it again.")
            if name.endswith(ends):
                rows = max(rows, len(tensor))
    if rows > old and hasattr(model, "peft_config"):
        raise ModelError(f"{folder}: has {rows} tokens, the model {old}. Load this adapter alone.")
    if rows > old:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _check_names(model: Any, folder: Path, adapter: str) -> None:
    """ModelError where PEFT found no place for a tensor, or no tensor for a place: it says nothing
    itself, and the adapter has no effect there."""
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        there = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, None, adapter, save_embedding_layers=False))
    strange = there - wanted - set(model.state_dict())
    # PEFT writes embeddings of a new size twice, under this name too.
    strange = {name for name in strange if ".modules_to_save." not in name}
    for names, fault in ((wanted - there, "missing"), (strange, "of no use to this base model")):
        if names:
            raise ModelError(
                f"{folder}: {len(names)} tensors are {fault}, such as {min(names)}. Use the base "
                "and the adapter that belong together."
            )
