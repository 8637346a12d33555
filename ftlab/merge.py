"""Adapter + base -> one model that needs neither PEFT nor ftlab, proved to answer as both did.

The weights are merged by PEFT's ``merge`` (peft/tuners/tuners_utils.py), layer by layer in fp32,
and kept in the base's own precision. What is refused here are the faults that others reported:
merging into the wrong or a quantized base, an adapter that never took effect, embeddings that
share their weights. Taught in notebooks/15_merging_and_export.ipynb.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlab import checkpoints, models, templates
from ftlab.adapters.folders import adapter_config, load_adapter
from ftlab.base import check_base, embedding_rows, untie, weights_hash
from ftlab.errors import CheckpointError, ModelError
from ftlab.export import (
    TOLERANCE,
    Exported,
    Logits,
    Widened,
    check,
    deliver,
    distance,
    logits,
    tuner_layers,
)


@dataclass
class Merged(Exported):
    """What a merge did; ``source`` is the base, the other fields are those of ``Exported``.

    ``difference``: base with adapter against the weights merged in fp32. ``moved``: base without
    against base with adapter. ``as_trained``: base with adapter against the quantized base with
    adapter, where the adapter was trained on one; None where it was not.
    """

    difference: float = 0.0
    moved: float = 0.0
    as_trained: float | None = None

    def _differences(self) -> list[str]:
        first = f"logits, largest difference in fp32: {self.difference:.1e} by merging"
        if self.same_answers is None:
            first += f", {self.reloaded:.1e} by writing and reading"
        lines = [
            f"{first}, {self.rounding:.1e} in all (the adapter itself moves them by "
            f"{self.moved:.1e})"
        ]
        if self.as_trained is not None:
            lines.append(
                f"the run's quantized base with this adapter differs by {self.as_trained:.1e}: "
                "the merged model has the weights from before they were quantized"
            )
        return lines


def merge(
    adapter_folder: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    *,
    base: str | None = None,
    format: str = "safetensors",
    template: str | None = None,
    default_system: str | None = None,
    shard_gb: float = 5,
    device: str = "cpu",
) -> Merged:
    """Merge an adapter into its base model and write the result, which must not exist yet.

    ``base`` is the model the adapter was trained on; without it the adapter folder says which.
    ``template`` is a chat format by name; without it the adapter's tokenizer is taken as it is.
    ``format`` is one of ``ftlab.export``'s. Raises CheckpointError for a folder that is damaged or
    in the way, ModelError for a base or adapter that does not fit, and writes nothing then.
    """
    adapter, out = Path(adapter_folder), Path(out_folder)
    config, record, notes = _read_adapter(adapter)
    if config.get("task_type") == "SEQ_CLS":
        raise ModelError(f"{adapter}: a reward model's adapter has a head. Load it along.")
    base = base or record.get("model") or config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter}: does not say which base it belongs to. Pass base=...")
    dtype = check(base, out, format)
    device = models.pick_device().value if device == "auto" else device
    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = models.read_tokenizer(str(adapter)) if own else models.load_tokenizer(base)
    if template:
        tokenizer = templates.apply(tokenizer, template, default_system)
    trained = _as_trained(base, record, tokenizer, adapter, notes)
    model = _base(base, record, dtype, device)
    notes += check_base(model, base, adapter, record)
    report = Merged(out, base, format, dtype, notes=notes)
    held = [_with_adapter(model, adapter, tokenizer)]
    del model
    expected, written = _merge(held, tokenizer, adapter, report)
    report.as_trained = distance(expected, trained) if trained else None
    deliver(held, tokenizer, expected, written, report, shard_gb)
    return report


def _read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """An adapter's configuration, what it says about its base, and what nothing proves."""
    config, path, notes = adapter_config(folder), folder / checkpoints.BASE, []
    if (folder / checkpoints.MANIFEST).is_file():
        checkpoints.verify(folder)
    else:
        notes = [f"note: {folder} has no {checkpoints.MANIFEST}, so damage may go unseen."]
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}).") from error
    return config, record, notes


def _base(name: str, record: dict[str, Any], dtype: str, device: str) -> Any:
    """The base as it was when the adapter was trained, its positions scaled as then."""
    rope = record.get("rope_parameters") or {"rope_type": None}
    options = {"rope_scaling": rope["rope_type"], "length": record.get("max_position_embeddings")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the base scales them itself
        return models.load(name, dtype=dtype, device=device, **options)[0]


def _as_trained(
    base: str, record: dict[str, Any], tokenizer: Any, adapter: Path, notes: list[str]
) -> Logits | None:
    """The logits of the quantized base with its adapter, where the run computed with one."""
    made = record.get("quantization") or {}
    if "bits" not in made:
        return None
    options = {
        "quantization_bit": made["bits"],
        "quantization_method": made["method"],
        "quantization_type": made.get("type", "nf4"),
        "double_quantization": made.get("double", True),
    }
    try:
        model, _ = models.load(base, **options, dtype=record["dtype"], adapter=adapter)
    except ModelError as error:
        notes.append(f"note: not compared with the quantized base that the run had ({error})")
        return None
    return logits(model, tokenizer, None)


def _with_adapter(model: Any, adapter: Path, tokenizer: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's word on ties and missing keys: checked here
        model = load_adapter(model, adapter).eval()
    kind = model.peft_config["default"].peft_type.value
    if not hasattr(model.base_model, "merge_and_unload"):
        raise ModelError(f"{adapter}: a {kind} adapter has no weights to merge. Load it along.")
    try:
        model.base_model._check_merge_allowed()
    except ValueError as error:
        raise ModelError(f"{adapter}: {kind}: {error}. Load it along.") from error
    if len(tokenizer) > (rows := embedding_rows(model)):
        raise ModelError(
            f"{adapter}: its tokenizer has {len(tokenizer)} tokens, the model only {rows} "
            "embeddings. Take the tokenizer that the adapter was trained with."
        )
    return model


def _merge(held: list[Any], tokenizer: Any, adapter: Path, report: Merged) -> tuple[Logits, Logits]:
    """Turn the model in ``held`` into the merged one; the logits before and after."""
    model = held.pop()
    expected = logits(model, tokenizer)
    with model.disable_adapter():
        plain = logits(model, tokenizer)
    report.moved = distance(expected, plain)
    untie(model.get_base_model())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's word that all is merged already
            merged = _merge_layers(model, tokenizer, report.dtype)
            rounded = logits(model, tokenizer)
            model = model.merge_and_unload()
    except (ValueError, NotImplementedError) as error:  # not finite; PEFT names the adapter
        raise ModelError(f"{adapter}: cannot be merged ({error}). Train it again.") from error
    written = logits(model, tokenizer)
    differences = torch.tensor([distance(expected, merged), distance(rounded, written)])
    report.difference = float(differences.max())
    if not report.difference <= TOLERANCE:
        raise ModelError(
            f"{adapter}: merged, the logits differ by {report.difference:.1e} from base with "
            f"adapter; at most {TOLERANCE:.0e} is right. Load the adapter along instead."
        )
    if distance(plain, written) == 0 and _same_weights(model, report):
        raise ModelError(f"{adapter}: changes no weight of {report.source}. Was it ever trained?")
    held.append(model)
    return expected, written


def _merge_layers(model: Any, tokenizer: Any, dtype: str) -> Logits:
    """Merge each layer in fp32 while the prompts pass it, then round it; the logits before that."""
    found = logits(model, tokenizer, _Merging)
    for layer in tuner_layers(model):
        if not layer.merged:  # no prompt passed it
            rest = _Merging(layer, list(layer.parameters()))
            rest.before()
            rest.after()
    for weight in model.parameters():  # those that were trained whole
        weight.data = weight.data.to(getattr(torch, dtype))
    return found


class _Merging(Widened):
    """Merge a layer of PEFT's in fp32, let it run so, and keep the result in its own precision."""

    def before(self, *_: Any) -> None:
        """Widen the weights and merge."""
        super().before()
        if not self.layer.merged:
            self.layer.merge(safe_merge=True)

    def after(self, *_: Any) -> None:
        """Round what was merged into the place that the weights had."""
        for parameter, data in zip(self.parameters, self.stored, strict=True):
            data.copy_(parameter.data)
        super().after()


def _same_weights(model: Any, report: Merged) -> bool:
    base, _ = models.load(report.source, dtype=report.dtype)
    dtype = getattr(torch, report.dtype)
    return weights_hash(model, dtype) == weights_hash(base, dtype)
