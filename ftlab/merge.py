"""Adapter + base -> one model that needs neither PEFT nor ftlab, proved to answer as both did.

The weights are merged in fp32 by PEFT's ``merge_and_unload`` (peft/tuners/tuners_utils.py) and
written in the base's own precision. What is refused here are the faults that others reported:
merging into the wrong or a quantized base, an adapter that never took effect, embeddings that
share their weights.
"""

from __future__ import annotations

import gc
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ftlab import checkpoints, models, templates
from ftlab.adapters import check_base, embedding_rows, untie, weights_hash
from ftlab.errors import CheckpointError, ModelError
from ftlab.generate import stop_ids
from ftlab.ollama import modelfile

PROMPTS = ("Where does the baker live, and since when?", "谁住在港口旁边？", "12 + 30 =")
TOLERANCE = 1e-4  # of logits, in fp32

Logits = list[torch.Tensor]


@dataclass
class Merged:
    """What a merge did; all differences are the largest between two logits on ``PROMPTS``.

    ``difference``: base with adapter against the merged weights in fp32. ``reloaded``: the weights
    as they were to be written against the folder read again. ``rounding``: base with adapter
    against the folder; where the base is fp32, about ``difference``. ``moved``: base without
    against base with adapter. ``notes`` say what could not be checked.
    """

    folder: Path
    base: str
    dtype: str
    difference: float = 0.0
    moved: float = 0.0
    reloaded: float = 0.0
    rounding: float = 0.0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {self.base} with its adapter, one model in {self.dtype}",
            f"logits, largest difference in fp32: {self.difference:.1e} by merging, "
            f"{self.reloaded:.1e} by writing and reading, {self.rounding:.1e} in all "
            f"(the adapter itself moves them by {self.moved:.1e})",
        ]
        return "\n".join(lines + self.notes)


def merge(
    adapter_folder: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    *,
    base: str | None = None,
    template: str | None = None,
    default_system: str | None = None,
    shard_gb: float = 5,
    device: str = "cpu",
) -> Merged:
    """Merge an adapter into its base model and write the result, which must not exist yet.

    ``base`` is the model the adapter was trained on; without it the adapter folder says which.
    ``template`` is a chat format by name; without it the adapter's tokenizer is taken as it is.
    Raises CheckpointError for a folder that is damaged or in the way, ModelError for a base or
    adapter that does not fit, and writes nothing then.
    """
    adapter, out = Path(adapter_folder), Path(out_folder)
    config, record, notes = _read_adapter(adapter)
    base = base or record.get("model") or config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter}: does not say which base it belongs to. Pass base=...")
    _refuse_target(out, base)
    dtype = _base_dtype(base)
    device = models.pick_device().value if device == "auto" else device
    model, tokenizer = models.load(base, dtype="float32", device=device)
    notes += check_base(model, base, adapter, record)
    if (adapter / "tokenizer_config.json").is_file():
        tokenizer = models.read_tokenizer(str(adapter))
    if template:
        tokenizer = templates.apply(tokenizer, template, default_system)
    prompts = [tokenizer(text, return_tensors="pt")["input_ids"] for text in PROMPTS]
    report = Merged(out, base, str(dtype).removeprefix("torch."), notes=notes)
    model = _with_adapter(model, adapter)
    if len(tokenizer) > (rows := embedding_rows(model)):
        raise ModelError(
            f"{adapter}: its tokenizer has {len(tokenizer)} tokens, the model only {rows} "
            "embeddings. Take the tokenizer that the adapter was trained with."
        )
    model, expected = _merged(model, adapter, prompts, report)
    checkpoints.require_space(out, model.num_parameters() * dtype.itemsize + 10_000_000)
    with checkpoints.written_whole(out) as temporary:
        _write(_cast(model, dtype), tokenizer, temporary, shard_gb)
        written = _logits(_cast(model, torch.float32), prompts)
        del model
        gc.collect()
        _compare(temporary, prompts, written, expected, report)
    return report


def _read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """An adapter's configuration, what it says about its base, and what nothing proves."""
    config, path, notes = models.adapter_config(folder), folder / checkpoints.BASE, []
    if (folder / checkpoints.MANIFEST).is_file():
        checkpoints.verify(folder)
    else:
        notes = [f"note: {folder} has no {checkpoints.MANIFEST}, so damage may go unseen."]
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}).") from error
    return config, record, notes


def _refuse_target(out: Path, base: str) -> None:
    origin = Path(models.model_folder(base)).expanduser()
    if origin.is_dir() and out.resolve().is_relative_to(origin.resolve()):
        raise CheckpointError(f"{out}: this is the base model's own folder. Choose another one.")
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out}: exists already. Choose another folder or remove it first.")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CheckpointError(f"{out}: cannot write in {parent}. Choose another folder.")


def _base_dtype(base: str) -> torch.dtype:
    """The precision a base is stored in; ModelError for a quantized one."""
    config = models.read_config(base)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{base}: its weights are quantized, and merging would round the adapter away. "
            "Pass the 16- or 32-bit model it was made from as base."
        )
    return config.dtype or torch.float32


def _with_adapter(model: Any, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's word on ties and missing keys: checked here
        model = models.load_adapter(model, adapter).eval()
    if not hasattr(model.base_model, "merge_and_unload"):
        kind = model.peft_config["default"].peft_type.value
        raise ModelError(f"{adapter}: a {kind} adapter has no weights to merge. Load it along.")
    return model


def _merged(model: Any, adapter: Path, prompts: Logits, report: Merged) -> tuple[Any, Logits]:
    """The merged model in fp32, and the logits of base with adapter; both checked."""
    expected, plain = _logits(model, prompts), weights_hash(model, torch.float32)
    with model.disable_adapter():
        report.moved = _distance(expected, _logits(model, prompts))
    untie(model.get_base_model())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # not finite; PEFT names the adapter
        raise ModelError(f"{adapter}: cannot be merged ({error}). Train it again.") from error
    report.difference = _distance(expected, _logits(model, prompts))
    if not report.difference <= TOLERANCE:
        raise ModelError(
            f"{adapter}: merged, the logits differ by {report.difference:.1e} from base with "
            f"adapter; at most {TOLERANCE:.0e} is right. Load the adapter along instead."
        )
    if weights_hash(model, torch.float32) == plain:
        raise ModelError(f"{adapter}: changes no weight of {report.base}. Was it ever trained?")
    return model, expected


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Change the weights only: ``model.to`` would round the table of rotary positions too."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def _write(model: Any, tokenizer: Any, folder: Path, shard_gb: float) -> None:
    if model.generation_config is not None:
        model.generation_config.eos_token_id = stop_ids(model, tokenizer)
    with models.quiet_loading():
        model.save_pretrained(folder, max_shard_size=f"{int(shard_gb * 1e6)}KB")
        tokenizer.save_pretrained(folder)
    checkpoints.write_text(folder / "Modelfile", modelfile(tokenizer))


def _compare(folder: Path, prompts: Logits, written: Logits, expected: Logits, to: Merged) -> None:
    """Load the folder as anyone would and compare: CheckpointError where it answers otherwise."""
    with models.quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = _logits(model.to(written[0].device).eval(), prompts)
    to.reloaded, to.rounding = _distance(written, found), _distance(expected, found)
    if not to.reloaded <= TOLERANCE:
        raise CheckpointError(
            f"{to.folder}: read again, the logits differ by {to.reloaded:.1e} from the model that "
            "was written. Nothing was kept; check the disk and the versions (ftlab doctor)."
        )


def _logits(model: Any, prompts: Logits) -> Logits:
    with torch.no_grad():
        return [model(ids.to(model.device)).logits for ids in prompts]


def _distance(a: Logits, b: Logits) -> float:
    """The largest difference; NaN where one of them is not finite."""
    return float(torch.stack([(x - y).abs().max() for x, y in zip(a, b, strict=True)]).max())
