"""A model as files that others read: safetensors, a quantized folder, or one GGUF file.

Whatever was written is read again as its readers do and compared with the model it was made from.
Taught in notebooks/15_merging_and_export.ipynb.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from ftlab import checkpoints, models, templates
from ftlab.errors import CheckpointError, ModelError
from ftlab.generate import generate, stop_ids
from ftlab.ollama import modelfile

PROMPTS = ("Where does the baker live, and since when?", "谁住在港口旁边？", "12 + 30 =")
TOLERANCE = 1e-4  # of logits, in fp32
# Format -> bytes for each weight on the disk at most, on the way too; None: as the model has it.
FORMATS = {
    "safetensors": None, "bnb_int8": 5.5, "bnb_nf4": 5.5,
    "gguf_f16": 2.0, "gguf_q8_0": 1.1, "gguf_q4_0": 1.1,
}  # fmt: skip

Logits = list[torch.Tensor]


@dataclass
class Exported:
    """What an export did; differences are the largest between two logits on ``PROMPTS``, in fp32.

    ``reloaded``: the weights as they were to be written against the folder read again (0 where the
    format rounds them). ``rounding``: the model as it was against the folder. ``same_answers``:
    how many of the prompts the folder continues as the model does, word for word; None where the
    format keeps the weights. ``notes`` say what could not be checked or kept.
    """

    folder: Path
    source: str
    format: str
    dtype: str
    bytes: int = 0
    reloaded: float = 0.0
    rounding: float = 0.0
    same_answers: int | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.source} as {self.format}, {self.bytes / 1e6:,.1f} MB"]
        return "\n".join([*lines, *self._differences(), *self.notes])

    def _differences(self) -> list[str]:
        text = (
            f"logits, largest difference in fp32: {self.rounding:.1e} to the model in {self.dtype}"
        )
        if self.same_answers is None:
            return [text]
        return [f"{text}; {self.same_answers} of {len(PROMPTS)} answers are the same"]


def export(
    model: str,
    out_folder: str | os.PathLike[str],
    *,
    format: str = "safetensors",
    template: str | None = None,
    default_system: str | None = None,
    shard_gb: float = 5,
    device: str = "cpu",
) -> Exported:
    """Write a model, named as for ``ftlab.load``, in another format; the folder must not exist yet.

    ``format`` is one of ``FORMATS``, ``template`` a chat format by name, ``shard_gb`` the largest
    file of safetensors. Raises CheckpointError for a folder in the way, ModelError for a model that
    cannot be written so, and writes nothing then. For an adapter see ``ftlab.merge``.
    """
    out = Path(out_folder)
    dtype = check(model, out, format)
    device = models.pick_device().value if device == "auto" else device
    loaded, tokenizer = models.load(model, dtype=dtype, device=device)
    if template:
        tokenizer = templates.apply(tokenizer, template, default_system)
    report = Exported(out, model, format, dtype)
    held = [loaded]
    del loaded
    expected = logits(held[0], tokenizer)
    deliver(held, tokenizer, expected, expected, report, shard_gb)
    return report


def check(model: str, out: Path, format: str) -> str:
    """The precision that ``model`` is stored in, once nothing speaks against writing to ``out``."""
    if format not in FORMATS:
        raise ModelError(f"format={format!r}: ftlab writes {', '.join(FORMATS)}.")
    origin = Path(models.model_folder(model)).expanduser()
    if origin.is_dir() and out.resolve().is_relative_to(origin.resolve()):
        raise CheckpointError(f"{out}: this is the base model's own folder. Choose another one.")
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out}: exists already. Choose another folder or remove it first.")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CheckpointError(f"{out}: cannot write in {parent}. Choose another folder.")
    config = models.read_config(model)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{model}: its weights are quantized, and merging or converting would round once more. "
            "Pass the 16- or 32-bit model it was made from."
        )
    if format.startswith("gguf"):
        from ftlab import gguf

        gguf.check(config)
    return str(config.dtype or torch.float32).removeprefix("torch.")


def deliver(
    held: list[Any],
    tokenizer: Any,
    expected: Logits,
    written: Logits,
    report: Exported,
    shard_gb: float,
) -> None:
    """Write the one model in ``held`` as ``report.format``, read it again, and fill the report.

    ``held`` is emptied before the files are read again: memory holds one model at a time.
    ``expected`` are the logits to come near to, ``written`` those of the model itself.
    """
    model = held.pop()
    each = FORMATS[report.format] or getattr(torch, report.dtype).itemsize
    checkpoints.require_space(report.folder, int(model.num_parameters() * each) + 10_000_000)
    config, answers = model.config, None
    if report.format != "safetensors":
        answers = generate(model, tokenizer, PROMPTS, max_new_tokens=16)
    with checkpoints.written_whole(report.folder) as folder:
        _write(model, tokenizer, folder, report, shard_gb)
        device = model.device
        del model
        gc.collect()
        again = _read(folder, report.format, report.dtype, config).to(device).eval()
        found = logits(again, tokenizer)
        report.rounding = distance(expected, found)
        if answers is not None:
            same = generate(again, tokenizer, PROMPTS, max_new_tokens=16)
            report.same_answers = sum(a == b for a, b in zip(answers, same, strict=True))
        else:
            report.reloaded = distance(written, found)
        if not report.reloaded <= TOLERANCE:
            raise CheckpointError(
                f"{report.folder}: read again, the logits differ by {report.reloaded:.1e} from the "
                "model that was written. Nothing was kept; check the disk and the versions "
                "(ftlab doctor)."
            )
        report.bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write(model: Any, tokenizer: Any, folder: Path, report: Exported, shard_gb: float) -> None:
    if model.generation_config is not None:
        model.generation_config.eos_token_id = stop_ids(model, tokenizer)
    if report.format.startswith("gguf"):
        from ftlab import gguf

        report.notes += gguf.write(model, tokenizer, folder / gguf.FILE, report.format)
        gguf.compare(folder / gguf.FILE, model)
        checkpoints.write_text(folder / "Modelfile", modelfile(tokenizer, f"./{gguf.FILE}"))
        return
    target = folder / "whole" if report.format.startswith("bnb") else folder
    with models.quiet_loading():
        model.save_pretrained(target, max_shard_size=f"{int(shard_gb * 1e6)}KB")
        for place in {folder, target}:
            tokenizer.save_pretrained(place)
    if report.format == "safetensors":
        checkpoints.write_text(folder / "Modelfile", modelfile(tokenizer))


def _read(folder: Path, format: str, dtype: str, config: Any) -> Any:
    """The model in ``folder``, read as anyone would; bitsandbytes' folders are made here first."""
    load: Any = partial(AutoModelForCausalLM.from_pretrained, folder)
    with models.quiet_loading(), _no_bar():
        if format.startswith("gguf"):
            from ftlab import gguf

            return load(gguf_file=gguf.FILE, config=config, dtype=torch.float32)
        if format.startswith("bnb"):
            _quantize(folder, format, dtype)
        return load(dtype="auto")


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """No "Converting and de-quantizing" bar, which has no switch of its own."""
    from transformers import modeling_gguf_pytorch_utils as reader

    shown: Any = reader.tqdm
    try:
        reader.tqdm = partial(shown, disable=True)
        yield
    finally:
        reader.tqdm = shown


def _quantize(folder: Path, format: str, dtype: str) -> None:
    """Replace the model in ``folder/whole`` by its quantized form in ``folder``."""
    bits = 8 if format == "bnb_int8" else 4
    model, _ = models.load(str(folder / "whole"), quantization_bit=bits, dtype=dtype, device="cpu")
    model.save_pretrained(folder)  # before it computes: that may repack the weights
    shutil.rmtree(folder / "whole")


# Logits -----------------------------------------------------------------------------------------


class Widened:
    """Hooks that give a layer its weights in fp32 while it runs."""

    def __init__(self, layer: Any, parameters: list[Any]) -> None:
        self.layer = layer
        self.parameters = [p for p in parameters if p.is_floating_point()]
        self.stored: list[torch.Tensor] = []

    def before(self, *_: Any) -> None:
        """Widen the weights."""
        self.stored = [parameter.data for parameter in self.parameters]
        for parameter, data in zip(self.parameters, self.stored, strict=True):
            parameter.data = data.float()

    def after(self, *_: Any) -> None:
        """Put them back as they were stored."""
        for parameter, data in zip(self.parameters, self.stored, strict=True):
            parameter.data = data


def logits(model: Any, tokenizer: Any, hooks: type[Widened] | None = Widened) -> Logits:
    """The logits of ``PROMPTS``, each [tokens, vocabulary], computed in fp32.

    Without ``hooks`` they are computed in the precision of the weights.
    """
    rows = [tokenizer(text)["input_ids"] for text in PROMPTS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad(), _in_fp32(model, hooks) if hooks else contextlib.nullcontext():
        found = model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()
    return [part[: len(row)] for part, row in zip(found, rows, strict=True)]


def distance(a: Logits, b: Logits) -> float:
    """The largest difference; NaN where one of them is not finite."""
    return float(torch.stack([(x - y).abs().max() for x, y in zip(a, b, strict=True)]).max())


def tuner_layers(model: Any) -> list[Any]:
    """The layers that PEFT wrapped."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextlib.contextmanager
def _in_fp32(model: Any, hooks: type[Widened]) -> Iterator[None]:
    """Inside the block every layer computes in fp32, whatever its weights are stored in.

    Weights become fp32 while their layer runs, large matrices in pieces, so that memory holds the
    model as it is stored and little more.
    """
    wrapped = tuner_layers(model)
    layers = [(layer, list(layer.parameters())) for layer in wrapped]
    inside = {id(part) for layer in wrapped for part in layer.modules()}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if id(module) not in inside and any(p.dtype != torch.float32 for p in own):
            layers.append((module, own))
    with contextlib.ExitStack() as undo:
        for module, own in layers:
            if type(module) in _IN_PIECES and module.weight.is_floating_point():
                module.forward = partial(_IN_PIECES[type(module)], module)
                undo.callback(delattr, module, "forward")
            else:
                wide = (hooks if id(module) in inside else Widened)(module, own)
                undo.callback(module.register_forward_pre_hook(wide.before).remove)
                undo.callback(module.register_forward_hook(wide.after).remove)
        yield


def _linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    pieces = layer.weight.split(max(1, 2**23 // layer.in_features))
    out = torch.cat([F.linear(x, piece.float()) for piece in pieces], -1)
    return out if layer.bias is None else out + layer.bias.float()


def _embedding(layer: Any, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, layer.weight).float()


_IN_PIECES: dict[type, Any] = {torch.nn.Linear: _linear, torch.nn.Embedding: _embedding}
