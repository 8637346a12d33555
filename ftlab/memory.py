"""Where the bytes go: measured on a model in memory, or counted for a model of any size.

Weights, the constants that quantized weights need, adapters, gradients, the optimizer's state,
and what a forward pass keeps for the backward pass. Taught in notebooks/09_qlora.ipynb.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftlab import adapters, models, quantize
from ftlab.adapters.methods import linear_layers
from ftlab.errors import RecipeError
from ftlab.recipe import Recipe

# From the models' config.json, as far as they matter to size; totals are checked in the tests.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
    },
    "Qwen3-1.7B": {
        "model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 6144, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Llama-2-7B": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
    },
    "Qwen3-8B": {
        "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 12288, "vocab_size": 151936, "tie_word_embeddings": False,
        "max_position_embeddings": 40960,
    },
    "Llama-2-13B": {
        "model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 40,
        "intermediate_size": 13824, "vocab_size": 32000, "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
    },
    "Llama-30B": {
        "model_type": "llama", "hidden_size": 6656, "num_hidden_layers": 60,
        "num_attention_heads": 52, "num_key_value_heads": 52,
        "intermediate_size": 17920, "vocab_size": 32000, "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
    },
    "Llama-3-70B": {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8,
        "intermediate_size": 28672, "vocab_size": 128256, "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    },
}  # fmt: skip
# Numbers of state for each trained value, in its own precision; and bytes, where that is fixed.
# bitsandbytes keeps tensors of fewer than 4,096 values in 32 bits, which is not counted.
_STATES = {"adamw_torch": 2, "adamw_torch_fused": 2, "rmsprop": 1, "sgd": 0}
_STATE_BYTES = {
    "paged_adamw_32bit": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1,
    "paged_lion_8bit": 1,
}  # fmt: skip
_OTHERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")

Storages = dict[tuple[str, int], int]


@dataclass(frozen=True)
class Memory:
    """Bytes by component, and how many parameters there are; ``trainable`` of them train."""

    parts: dict[str, int]
    trainable: int
    parameters: int

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())

    def __getitem__(self, part: str) -> int:
        return self.parts[part]

    def rows(self) -> list[tuple[str, str, str]]:
        """Component, size and share, as text; components that are absent are left out."""
        shown = {name: size for name, size in self.parts.items() if size} | {"total": self.total}
        whole = self.total or 1
        return [(name, human(size), f"{size / whole:.0%}") for name, size in shown.items()]

    def __str__(self) -> str:
        lines = [f"{name:<12} {size:>9} {share:>5}" for name, size, share in self.rows()]
        return "\n".join([*lines, self._caption()])

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:{}">{}</td>'.format
        rows = "".join(
            f"<tr>{cell('left', escape(name))}{cell('right', size)}{cell('right', share)}</tr>"
            for name, size, share in self.rows()
        )
        return f"<table>{rows}</table><p>{escape(self._caption())}</p>"

    def _caption(self) -> str:
        return f"{self.trainable:,} of {self.parameters:,} parameters train"


def human(size: float) -> str:
    """Bytes in decimal units: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    raise AssertionError


def report(model: Any, optimizer: Any = None, batch: Mapping[str, Any] | None = None) -> Memory:
    """The bytes that a model, its gradients and its optimizer hold now, each storage once.

    With ``batch`` (``input_ids`` and ``labels``, on the model's device) one forward pass in
    training mode measures the activations: what autograd saves for the backward pass. What a
    library's own function keeps beside autograd is not seen (bitsandbytes' 8 bits).

    >>> import ftlab
    >>> report(ftlab.load("tiny")[0])["weights"] > 4_000_000
    True
    """
    known: Storages = {}
    own = getattr(model, "peft_config", {})
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    added = {name for name in tensors if set(name.split(".")) & set(own)}
    constants = [t for module in model.modules() for t in quantize.constants(module).values()]
    parameters = list(model.parameters())
    state = getattr(optimizer, "state", {})
    parts = {
        "weights": _add(known, (t for name, t in tensors.items() if name not in added)),
        "constants": _add(known, constants),
        "adapters": _add(known, (tensors[name] for name in added)),
        "gradients": _add(known, (p.grad for p in parameters if p.grad is not None)),
        "optimizer": _add(known, _tensors(list(state.values()))),
    }
    if batch is not None:
        parts["activations"] = _activations(model, batch, known)
    return Memory(parts, sum(p.numel() for p in parameters if p.requires_grad), _size(model))


def _add(known: Storages, tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages that were not known before; from now on they are."""
    found: Storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        found[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    new = {key: size for key, size in found.items() if key not in known}
    known |= new
    return sum(new.values())


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists and dictionaries, as optimizers keep their state."""
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, Mapping | list | tuple):
        for item in found.values() if isinstance(found, Mapping) else found:
            yield from _tensors(item)


def _activations(model: Any, batch: Mapping[str, Any], known: Storages) -> int:
    """Bytes that one forward pass saves, without those that ``known`` holds."""
    kept: list[torch.Tensor] = []  # alive until they are counted, or a storage would be used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    training = model.training
    model.train()
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            output = model(**batch, use_cache=False)
        size = _add(dict(known), kept)
        del output
    finally:
        model.train(training)
    return size


def _size(model: Any) -> int:
    """How many parameters a model has, quantized ones counted one by one."""
    packed = {
        id(layer.weight if hasattr(layer, "quant_state") else layer._parameters.get("W_q")): layer
        for layer in linear_layers(model).values()
        if quantize.constants(layer)
    }
    return sum(
        packed[id(p)].in_features * packed[id(p)].out_features if id(p) in packed else p.numel()
        for p in model.parameters()
    )


def count(model: Any, recipe: Recipe, *, dtype: str = "bfloat16") -> Memory:
    """Bytes and parameters of training ``model`` as ``recipe`` says, without any weights.

    ``model`` is a name in ``SHAPES``, a name that ``ftlab.load`` knows, or a configuration (also
    as a dictionary). Weights that are not quantized, and in full tuning their gradients and
    optimizer, are ``dtype``; adapters are fp32, as PEFT makes them. Activations are not counted.
    Raises RecipeError for an optimizer whose state depends on more than the number of parameters.

    >>> qlora = Recipe(finetuning_type="lora", quantization_bit=4)
    >>> human(count("Llama-3.1-8B", qlora)["weights"])
    '5.59 GB'
    """
    known = _STATES | _STATE_BYTES
    if recipe.optim not in known or any(getattr(recipe, key) for key in _OTHERS):
        raise RecipeError(f"memory.count knows these optimizers only: {', '.join(known)}.")
    # These only change the values that an adapter starts from, and want weights for it.
    recipe = recipe.replace(pissa_init=False, init_lora_weights="default")
    chosen = getattr(torch, dtype)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(_config(model), dtype=chosen)
        adapted = adapters.adapt(plain, recipe)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    base, gradients = _bytes(plain.parameters()), _bytes(trained)
    saved, packed, constants = _quantized(plain, recipe) if recipe.quantization_bit else (0, 0, 0)
    values = sum(p.numel() for p in trained)
    parts = {
        "weights": base + _bytes(plain.buffers()) - saved + packed,
        "constants": constants,
        "adapters": _bytes(adapted.parameters()) - base,
        "gradients": gradients,
        "optimizer": _STATES[recipe.optim] * gradients
        if recipe.optim in _STATES
        else _STATE_BYTES[recipe.optim] * values,
    }
    return Memory(parts, values, sum(p.numel() for p in adapted.parameters()))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _config(model: Any) -> Any:
    if isinstance(model, str):
        model = SHAPES.get(model) or models.read_config(model)
    if isinstance(model, Mapping):
        values = dict(model)
        return AutoConfig.for_model(values.pop("model_type"), **values)
    return copy.deepcopy(model)


def _quantized(model: Any, recipe: Recipe) -> tuple[int, int, int]:
    """Bytes of the layers to be quantized as they are, then of their weights and constants."""
    saved = packed = constants = 0
    for layer in packed_layers(model).values():
        saved += _bytes([layer.weight])
        new = packed_bytes(layer.weight, recipe)
        packed, constants = packed + new[0], constants + new[1]
    return saved, packed, constants


def packed_layers(model: Any) -> dict[str, Any]:
    """The layers that quantization packs, by name: linear ones inside the model."""
    output = model.get_output_embeddings()
    return {name: layer for name, layer in linear_layers(model).items() if layer is not output}


def packed_bytes(weight: torch.Tensor, recipe: Recipe) -> tuple[int, int]:
    """Bytes of a matrix and of its constants, quantized as the recipe says."""
    return _packed(weight.numel(), recipe), _constants(weight, recipe)


def state_bytes(parameter: torch.Tensor, optim: str, whole: bool = False) -> int:
    """Bytes of an optimizer's state for one parameter; ``whole``: an embedding's, in 32 bits.

    bitsandbytes keeps 8 bits for tensors of 4,096 values and more, with an absmax for each 256
    (bitsandbytes/optim/optimizer.py); Adafactor one number for each row and each column.
    """
    values, shape = parameter.numel(), parameter.shape
    if optim == "adafactor":
        size = values // shape[-1] + values // shape[-2] if parameter.ndim > 1 else values
        return 4 * size
    states = 1 if "lion" in optim else 2
    if "8bit" in optim and values >= 4096 and not whole:
        return states * (values + 4 * math.ceil(values / 256))
    return 4 * states * values


def _packed(values: int, recipe: Recipe) -> int:
    bits = recipe.quantization_bit or 16
    if recipe.quantization_method == "hqq" and bits == 3:  # ten to an int32, over groups of 64
        return 4 * 64 * math.ceil(values / 64 / 10)
    return values * (8 if bits in (5, 6) else bits) // 8


def _constants(weight: torch.Tensor, recipe: Recipe) -> int:
    """Bytes of what ``quantize.constants`` names for one layer."""
    blocks = math.ceil(weight.numel() / 64)
    if recipe.quantization_method == "hqq":
        return 2 * weight.element_size() * blocks
    if recipe.quantization_bit == 8:
        return 4 * len(weight)
    if not recipe.double_quantization:
        return 4 * blocks + 4 * 16
    return blocks + 4 * math.ceil(blocks / 256) + 4 * (16 + 256 + 1)
