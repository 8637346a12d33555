"""One table: method -> PEFT configuration, and the checks that need the model's shapes.

Taught in notebooks/10_peft_family.ipynb.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import peft
import torch

from ftlab.adapters.bottleneck import TARGETS, BottleneckConfig
from ftlab.errors import RecipeError
from ftlab.recipe import Recipe
from ftlab.recipe.rules import PROMPTS

SCALED = ["k_proj", "v_proj", "down_proj"]  # IA3 scales keys, values and the MLP's inside


class Configuration(NamedTuple):
    """The name of a configuration class (PEFT's, or our own) and its arguments."""

    name: str
    values: dict[str, Any]

    def build(self) -> peft.PeftConfig:
        """The configuration; an argument that PEFT refuses is a RecipeError."""
        try:
            made = getattr(peft, self.name, BottleneckConfig)(**self.values)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{self.name}: {error}") from error
        return made

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.values.items())})"


def configuration(recipe: Recipe) -> Configuration:
    """The recipe's method as the configuration of PEFT that makes it."""
    name, build = _TABLE[recipe.finetuning_type]
    scores = recipe.stage == "rm"
    values = {"task_type": "SEQ_CLS" if scores else "CAUSAL_LM", **build(recipe)}
    whole = [*split(recipe.additional_target), *(["score"] if scores else [])]
    if whole and recipe.finetuning_type not in PROMPTS:
        values["modules_to_save"] = whole
    return Configuration(name, values)


def split(names: str | None) -> list[str]:
    """``"q_proj, v_proj"`` -> ``["q_proj", "v_proj"]``."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _targets(names: str) -> str | list[str]:
    return "all-linear" if names == "all" else split(names)


def _start(recipe: Recipe) -> bool | str:
    """How A and B begin, in PEFT's words."""
    if recipe.pissa_init:
        return "pissa" if recipe.pissa_iter == -1 else f"pissa_niter_{recipe.pissa_iter}"
    plain = recipe.init_lora_weights in ("default", "loftq")
    return True if plain else recipe.init_lora_weights


def _lora(recipe: Recipe) -> dict[str, Any]:
    return {
        "r": recipe.lora_rank, "lora_alpha": recipe.alpha, "lora_dropout": recipe.lora_dropout,
        "target_modules": _targets(recipe.lora_target), "use_rslora": recipe.use_rslora,
        "use_dora": recipe.use_dora, "init_lora_weights": _start(recipe),
    }  # fmt: skip


def _adalora(recipe: Recipe) -> dict[str, Any]:
    return {
        "init_r": first_rank(recipe), "target_r": recipe.lora_rank, "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.lora_dropout, "target_modules": _targets(recipe.lora_target),
        # Set when training begins, which knows its steps; each of several batches adds its share.
        "total_step": max(recipe.max_steps, 1),
        "orth_reg_weight": 0.5 / recipe.gradient_accumulation_steps,
    }  # fmt: skip


def _vera(recipe: Recipe) -> dict[str, Any]:
    return {
        "r": recipe.lora_rank, "vera_dropout": recipe.lora_dropout,
        "target_modules": _targets(recipe.lora_target), "save_projection": True,
    }  # fmt: skip


def _oft(recipe: Recipe) -> dict[str, Any]:
    return {
        "r": recipe.oft_rank, "oft_block_size": recipe.oft_block_size,
        "module_dropout": recipe.module_dropout, "target_modules": _targets(recipe.oft_target),
    }  # fmt: skip


def _virtual(recipe: Recipe) -> dict[str, Any]:
    return {"num_virtual_tokens": recipe.num_virtual_tokens}


_TABLE: dict[str, tuple[str, Callable[[Recipe], dict[str, Any]]]] = {
    "lora": ("LoraConfig", _lora),
    "adalora": ("AdaLoraConfig", _adalora),
    "vera": ("VeraConfig", _vera),
    "oft": ("OFTConfig", _oft),
    "ia3": ("IA3Config", lambda _: {
        "target_modules": SCALED, "feedforward_modules": SCALED[-1:]}),
    # PEFT's own choice for Qwen3 is one norm of a layer. ".*norm": all, q_norm and k_norm too.
    "ln_tuning": ("LNTuningConfig", lambda _: {"target_modules": ".*norm"}),
    "prompt_tuning": ("PromptTuningConfig", lambda recipe: {
        **_virtual(recipe), "prompt_tuning_init": "SAMPLE_VOCAB"}),
    "prefix_tuning": ("PrefixTuningConfig", _virtual),
    "p_tuning": ("PromptEncoderConfig", _virtual),
    "bottleneck": ("BottleneckConfig", lambda recipe: {
        "bottleneck_size": recipe.bottleneck_size, "target_modules": TARGETS}),
}  # fmt: skip


def first_rank(recipe: Recipe) -> int:
    """AdaLoRA begins with half as many ranks again and prunes down to ``lora_rank``."""
    return math.ceil(1.5 * recipe.lora_rank)


def check(model: Any, recipe: Recipe) -> None:
    """RecipeError where a method's numbers or names do not fit the model."""
    method = recipe.finetuning_type
    everything = [name for name, _ in model.named_modules()]
    _need("additional_target", split(recipe.additional_target), everything)
    if method in ("lora", "adalora", "vera", "oft"):
        key = "oft_target" if method == "oft" else "lora_target"
        names = split(getattr(recipe, key))
        layers = linear_layers(model)
        output = getattr(model, "score", None) or model.get_output_embeddings()
        _need(key, [name for name in names if name != "all"], list(layers))
        for name, layer in layers.items():
            whole = "all" in names and layer is not output
            if whole or any(f".{name}".endswith(f".{n}") for n in names):
                _check_layer(name, layer, recipe)
    if method in ("ia3", "bottleneck"):
        _need("finetuning_type", TARGETS if method == "bottleneck" else SCALED, everything)
    hidden, context = model.config.hidden_size, model.config.max_position_embeddings
    if method == "bottleneck" and recipe.bottleneck_size >= hidden:
        raise RecipeError(
            f"bottleneck_size={recipe.bottleneck_size}: the model's hidden size is {hidden}. "
            "A bottleneck is narrower."
        )
    if method in PROMPTS and recipe.num_virtual_tokens >= context:
        raise RecipeError(
            f"num_virtual_tokens={recipe.num_virtual_tokens}: the model reads {context} tokens in "
            "all. Choose fewer."
        )


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers by name, quantized ones too."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "HQQLinear"
    }


def _need(key: str, names: list[str], pool: list[str]) -> None:
    # PEFT passes over a name that fits nothing as long as another one fits.
    for name in names:
        if not any(f".{module}".endswith(f".{name}") for module in pool):
            raise RecipeError(f"{key}: no module {name!r} there. There are: {parts(pool)}.")


def parts(names: list[str]) -> str:
    """The last words of module names, once each, for a message."""
    last = {part for name in names for part in name.removesuffix(".weight").split(".")[-2:]}
    return ", ".join(sorted(part for part in last if part and not part.isdigit()))


def _check_layer(name: str, layer: Any, recipe: Recipe) -> None:
    method, sizes = recipe.finetuning_type, (layer.in_features, layer.out_features)
    shape = f"{name} has {sizes[0]} inputs and {sizes[1]} outputs"
    rank = first_rank(recipe) if method == "adalora" else recipe.lora_rank
    if method in ("lora", "adalora") and rank > min(sizes):
        most = min(sizes) if method == "lora" else min(sizes) * 2 // 3
        raise RecipeError(f"lora_rank={recipe.lora_rank}: {shape}. Choose at most {most}.")
    if method == "oft":
        key = "oft_rank" if recipe.oft_rank else "oft_block_size"
        if sizes[0] % getattr(recipe, key):
            raise RecipeError(
                f"{key}={getattr(recipe, key)}: {shape}, which it does not divide. Choose a "
                f"divisor of {sizes[0]}, or leave the layer out of oft_target."
            )
