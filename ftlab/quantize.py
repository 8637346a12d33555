"""Base weights in 8 bits or fewer: bitsandbytes or hqq quantize while loading, checkpoints load.

QLoRA: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314. Quantized are the linear layers
inside the model; embeddings and the output layer, which may share one weight, keep their precision.
Taught in notebooks/09_qlora.ipynb.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ftlab.errors import ModelError
from ftlab.recipe.rules import BITS, EETQ

# How transformers names what a stored model is quantized with -> packages that compute with it.
PACKAGES = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "aqlm": ("aqlm",),
}


@dataclass(frozen=True)
class Quantization:
    """What ``ftlab.load`` is asked for; ``bits`` None: the weights stay as they are stored.

    ``type`` and ``double`` are of bitsandbytes' 4 bits: nf4 or fp4, and whether the absmax of the
    blocks are quantized as well.
    """

    bits: int | None = None
    method: str = "bnb"
    type: str = "nf4"
    double: bool = True

    def check(self, config: Any, device: str, adapters: int = 0) -> None:
        """ModelError, before any weight is read, for what cannot be loaded on ``device``.

        ``config`` is the model's configuration, ``adapters`` how many adapters it is to wear.
        """
        stored = _stored(config)
        if self.method not in BITS:
            raise ModelError(f"quantization_method={self.method!r}: ftlab knows {', '.join(BITS)}.")
        if stored is not None:
            _check_stored(stored, self.bits, device)
        if self.bits is not None:
            _check_bits(self.bits, self.method, device)
        if adapters > 1 and (stored is not None or self.bits is not None):
            raise ModelError(
                f"{adapters} adapters: all but the last would be merged into quantized weights, "
                "which rounds them away. Merge them into the 16-bit model first (ftlab export)."
            )

    def options(self, config: Any, dtype: torch.dtype, device: str) -> dict[str, Any]:
        """What transformers' ``from_pretrained`` needs for it; weights are quantized in place."""
        if self.bits is None or self.method != "bnb":
            return {} if _stored(config) is None else {"device_map": {"": device}}
        return {"quantization_config": self._bnb(dtype), "device_map": {"": device}}

    def _bnb(self, dtype: torch.dtype) -> Any:
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.type,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=dtype,
        )

    def settle(self, model: Any, device: str, origin: str) -> Any:
        """The loaded model on ``device``, quantized, with a note of the weights it was made from.

        The note is ``model.ftlab_origin``: {"quantization": ..., "folder": of the original}, whose
        configuration is the file ``origin``.
        """
        stored = _stored(model.config)
        if self.bits is None and stored is None:
            return model.to(device)
        if self.bits is None:
            model.ftlab_origin = {"quantization": stored}
        else:
            made = {"method": self.method, "bits": self.bits}
            four = {"type": self.type, "double": self.double}
            made |= four if (self.method, self.bits) == ("bnb", 4) else {}
            model.ftlab_origin = {"quantization": made, "folder": str(Path(origin).parent)}
            if self.method == "hqq":
                return _to_hqq(model, self.bits, device)
        return _trainable_after_evaluating(model)


def _stored(config: Any) -> dict[str, Any] | None:
    """What a model's weights are quantized with by its configuration, None for plain ones."""
    found = getattr(config, "quantization_config", None)
    return found if found is None or isinstance(found, dict) else dict(found.to_dict())


def _check_bits(bits: int, method: str, device: str) -> None:
    if bits not in BITS[method]:
        known = ", ".join(map(str, BITS[method]))
        raise ModelError(f"quantization_bit={bits}: {method} knows {known} bits. Choose one.")
    if method == "eetq":
        raise ModelError(EETQ)
    if method == "hqq" and importlib.util.find_spec("hqq") is None:
        raise ModelError("quantization_method=hqq needs the package: pip install 'ftlab[quant]'")
    if method == "bnb":
        _check_bnb(bits, device)


def _check_stored(stored: dict[str, Any], bits: int | None, device: str) -> None:
    kind = stored.get("quant_method") or "bitsandbytes"
    if bits is not None:
        raise ModelError(
            f"quantization_bit={bits}: this model is stored quantized already ({kind}). Leave "
            "quantization_bit out, or name the 16- or 32-bit model it was made from."
        )
    missing = [name for name in PACKAGES.get(kind, ()) if not importlib.util.find_spec(name)]
    if missing:
        raise ModelError(
            f"this model is stored as {kind}, and its kernels are not here: "
            f"pip install {' '.join(missing)}"
        )
    if kind == "bitsandbytes":
        _check_bnb(8 if stored.get("load_in_8bit") else 4, device)
    elif kind in PACKAGES and device != "cuda":
        raise ModelError(
            f"this model is stored as {kind}, whose kernels want an NVIDIA GPU; here is {device}. "
            "Name the 16- or 32-bit model it was made from, with quantization_bit: 4."
        )


def _check_bnb(bits: int, device: str) -> None:
    """Quantize 64 numbers on ``device``: the one test that fails where bitsandbytes would."""
    try:
        works(bits, device)
    except Exception as error:
        raise ModelError(
            f"quantization_bit={bits}: bitsandbytes does not work on this {device} "
            f"({str(error).splitlines()[0] if str(error) else repr(error)}). See ftlab doctor; "
            "quantization_method: hqq needs no kernels of its own."
        ) from error


def works(bits: int, device: str) -> None:
    """Quantize and compute with a small layer of bitsandbytes on ``device``; raise what it does."""
    from bitsandbytes import nn as layers

    layer: Any = layers.Linear4bit(64, 32, bias=False)
    if bits == 8:
        layer = layers.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
    layer.to(device)(torch.ones(1, 64, device=device))


def _to_hqq(model: Any, bits: int, device: str) -> Any:
    """Replace the linear layers inside ``model`` by hqq's (groups of 64 weights), in place.

    Half-Quadratic Quantization: Badri and Shaji 2023, https://dropbox.github.io/hqq_blog/. 5 and 6
    bits are stored in 8. transformers 5.17 refuses its own HqqConfig, so the layers come directly.
    """
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or layer is model.get_output_embeddings():
            continue
        group = 64 if layer.weight.numel() % 64 == 0 else None  # None: one group a row
        options = BaseQuantizeConfig(nbits=bits, group_size=group, axis=1)
        new = HQQLinear(layer.to(device), options, compute_dtype=model.dtype, device=device)
        model.set_submodule(name, new)
    return model


def _trainable_after_evaluating(model: Any) -> Any:
    """On CPUs with AVX512-BF16 a Linear4bit in eval mode packs its weights anew, and such weights
    pass no gradient on (bitsandbytes/nn/modules.py, Linear4bit.forward): training would go on and
    learn nothing. A folder may have been written with another precision to compute in, too."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = model.dtype
    return model


def constants(module: Any) -> dict[str, torch.Tensor]:
    """The tensors that a quantized layer needs to restore its weights, by name; else nothing.

    4 bits: ``absmax`` of each block of 64, the 16 values ``code``, and with double quantization
    the same of the absmax (blocks of 256) with their mean ``offset``. 8 bits: ``SCB``, the absmax
    of each row. hqq: ``scale`` and ``zero`` of each group.
    """
    found: dict[str, Any] = {}
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is not None:
        found = {"absmax": state.absmax, "code": state.code}
        if state.nested:
            nested = state.state2
            found |= {"nested_absmax": nested.absmax, "nested_code": nested.code}
            found["offset"] = state.offset
    elif (state := getattr(module, "state", None)) is not None and hasattr(state, "SCB"):
        found = {"SCB": module.weight.SCB if state.SCB is None else state.SCB}
    elif hasattr(module, "W_q"):
        found = {name: module.meta[name] for name in ("scale", "zero")}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def describe(model: Any) -> dict[str, Any] | None:
    """What the weights of a loaded model are quantized with; None where they are not.

    >>> import ftlab
    >>> describe(ftlab.load("tiny", quantization_bit=4)[0])["bits"]
    4
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, "ftlab_origin", {}).get("quantization")


def original(model: Any, dtype: torch.dtype | None = None) -> dict[str, Any] | None:
    """What is known of the weights that a quantized model was made from; None for a plain model.

    {"dtype", "sha256", "quantization"}: the ``digest`` in ``dtype`` (None: the model's own), read
    from the files one tensor at a time. Without "sha256" where those hold quantized weights
    themselves, or name them otherwise.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    origin = getattr(inner, "ftlab_origin", None)
    if origin is None:
        return None
    dtype = dtype or inner.dtype
    known = {"dtype": str(dtype).removeprefix("torch."), **origin}
    folder = known.pop("folder", None)
    found = stored_hash(Path(folder), inner.config, dtype) if folder else None
    return known | ({"sha256": found} if found else {})


def stored_hash(folder: Path, config: Any, dtype: torch.dtype) -> str | None:
    """``digest`` of the weights that a model of ``config`` would load from ``folder``."""
    from transformers import AutoModelForCausalLM

    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(plain)
    places: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    ties = skeleton.all_tied_weights_keys
    sources = {n: n if n in places else ties.get(n, n) for n in sorted(skeleton.state_dict())}
    if not set(sources.values()) <= set(places):
        return None

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, source in sources.items():
            with safe_open(places[source], "pt") as file:
                yield name, file.get_tensor(source)

    return digest(tensors(), dtype)


def digest(tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> str:
    """sha256 of names and values, floating point values rounded to ``dtype``."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(name.encode())
        if tensor.is_floating_point():
            tensor = tensor.to(dtype) + 0  # -0 becomes 0: adding an empty delta does the same
        found.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
