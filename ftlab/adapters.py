"""Which parameters train: all of them (full), some layers (freeze), or a LoRA adapter.

Taught in notebooks/07_sft.ipynb and, for LoRA in depth, notebooks/08_lora.ipynb.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from ftlab.errors import ModelError, RecipeError
from ftlab.recipe import Recipe


def adapt(model: Any, recipe: Recipe) -> Any:
    """Return a model whose trainable parameters are those of ``recipe.finetuning_type``.

    The given model stays as it is: a LoRA model shares its frozen weights, the others get a copy.
    Raises RecipeError when the recipe names modules that the model does not have.
    """
    if recipe.finetuning_type == "lora":
        return _with_lora(_shared_copy(model), recipe)
    model = copy.deepcopy(model)
    chosen = None if recipe.finetuning_type == "full" else unfrozen_names(model, recipe)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen is None or name in chosen)
    return model


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's LoRA keys as PEFT's LoraConfig."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear" if recipe.lora_target == "all" else split(recipe.lora_target),
        modules_to_save=split(recipe.additional_target) or None,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
    )


def unfrozen_names(model: Any, recipe: Recipe) -> set[str]:
    """Names of the parameters that freeze tuning trains: the last n layers, or the first -n."""
    total, count = model.config.num_hidden_layers, recipe.freeze_trainable_layers
    if count == 0 or abs(count) > total:
        raise RecipeError(
            f"freeze_trainable_layers={count}: the model has {total} layers. Choose 1 to {total}, "
            f"or -1 to -{total} for the first ones."
        )
    layers = range(total - count, total) if count > 0 else range(-count)
    inside = [f".layers.{layer}." for layer in layers]
    wanted = split(recipe.freeze_trainable_modules)
    extra = split(recipe.freeze_extra_modules)
    names = [name for name, _ in model.named_parameters()]
    in_layers = [name for name in names if any(part in name for part in inside)]
    for key, modules, pool in (
        ("freeze_trainable_modules", [m for m in wanted if m != "all"], in_layers),
        ("freeze_extra_modules", extra, names),
    ):
        for module in modules:
            if not any(module in name for name in pool):
                raise RecipeError(f"{key}: no module {module!r} there. There are: {_parts(pool)}.")
    chosen = {n for n in in_layers if "all" in wanted or any(m in n for m in wanted)}
    return chosen | {n for n in names if any(m in n for m in extra)}


def trainable_parameters(model: Any) -> tuple[int, int]:
    """``(trainable, total)`` numbers of parameters; tied weights count once."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return trainable, sum(p.numel() for p in parameters)


def base_record(model: Any, name: str) -> dict[str, str]:
    """What an adapter's folder says about its base: name, precision and ``weights_hash``.

    A quantized base has no hash: the weights that an adapter is merged into are not those.
    """
    record = {"model": name, "dtype": str(model.dtype).removeprefix("torch.")}
    if getattr(model.config, "quantization_config", None) is None:
        record["sha256"] = weights_hash(model, model.dtype)
    return record


def weights_hash(model: Any, dtype: torch.dtype) -> str:
    """sha256 of a model's weights rounded to ``dtype``; of a PEFT model, those of its base."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", "lora_")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(inner, prefix).items()):
        digest.update(name.encode())
        if tensor.is_floating_point():
            tensor = tensor.to(dtype) + 0  # -0 becomes 0: adding an empty delta does the same
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_base(model: Any, base: str, adapter: Path, record: dict[str, Any]) -> list[str]:
    """ModelError unless these are the weights the adapter was trained on; a note if unknown."""
    if not record.get("sha256"):
        return [f"note: {adapter} does not record its base's weights; {base} was not checked."]
    dtype = getattr(torch, str(record.get("dtype")), None)
    if not isinstance(dtype, torch.dtype) or weights_hash(model, dtype) != record["sha256"]:
        raise ModelError(
            f"{base}: not the base of {adapter}, which was trained on other weights "
            f"({record.get('model')!r} at that time). Pass that model as base."
        )
    return []


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


def _base_tensors(model: Any, prefix: str) -> dict[str, torch.Tensor]:
    """The state of the model that PEFT wrapped, under the names it had before."""
    found = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if not any(part.startswith((prefix, "modules_to_save")) for part in parts):
            kept = [part for part in parts if part not in ("base_layer", "original_module")]
            found[".".join(kept)] = tensor
    return found


def split(names: str | None) -> list[str]:
    """``"q_proj, v_proj"`` -> ``["q_proj", "v_proj"]``."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _with_lora(model: Any, recipe: Recipe) -> Any:
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, torch.nn.Linear)]
    # PEFT passes over a name that fits nothing as long as another one fits.
    for key, names, pool in (
        ("lora_target", [n for n in split(recipe.lora_target) if n != "all"], linear),
        ("additional_target", split(recipe.additional_target), list(modules)),
    ):
        for name in names:
            if not any(f".{module}".endswith(f".{name}") for module in pool):
                raise RecipeError(f"{key}: no module {name!r} there. There are: {_parts(pool)}.")
    return get_peft_model(model, lora_config(recipe))


def _shared_copy(model: Any) -> Any:
    """A second model object on the same weights, so that injecting LoRA leaves the first alone."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():  # parameters of their own, or freezing them would reach over
        memo[id(weight)] = torch.nn.Parameter(weight.data, weight.requires_grad)
    return copy.deepcopy(model, memo)


def _parts(names: list[str]) -> str:
    last = {part for name in names for part in name.removesuffix(".weight").split(".")[-2:]}
    return ", ".join(sorted(part for part in last if not part.isdigit()))
