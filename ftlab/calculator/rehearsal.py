"""One training step of a model of any depth, rehearsed: bytes and FLOPs.

Two depths are rehearsed (`ftlab.calculator.step`); what a deeper model needs more is that many
times a layer. Taught in notebooks/17_speed_and_memory.ipynb.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from transformers import AutoModelForCausalLM

from ftlab.adapters import unfrozen_names
from ftlab.calculator.step import Plan, Trace, decoder_layers, trace_step
from ftlab.errors import ModelError
from ftlab.models import quiet_loading
from ftlab.recipe import Recipe

ENCODERS = ("Bert", "Electra", "Roberta")  # transformers builds these as causal models too


def rehearse(config: Any, recipe: Recipe, plan: Plan) -> Trace:
    """The trace of one optimizer step, not the first, of a model with this configuration.

    No weights are needed or made. Raises ModelError for a model that cannot be rehearsed and
    RecipeError where the recipe does not fit it.
    """
    name = getattr(config, "model_type", type(config).__name__)
    try:
        with quiet_loading(), torch.device("meta"):
            own = copy.deepcopy(config)  # the model writes into it
            plain = AutoModelForCausalLM.from_config(own, dtype=plan.dtype)
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"{name}: transformers has no decoder of this kind.") from error
    if type(plain).__name__.startswith(ENCODERS):
        raise ModelError(f"{name}: an encoder. Name a decoder, such as Qwen3-0.6B.")
    try:
        return _extrapolated(plain, recipe, plan)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ModelError(
            f"{name}: what its layers compute depends on the tokens (a mixture of experts?), so a "
            "step cannot be rehearsed without them."
        ) from error


def _trained(recipe: Recipe, depth: int) -> range:
    """The numbers of the layers whose own weights may train."""
    count = recipe.freeze_trainable_layers
    if recipe.finetuning_type != "freeze":
        return range(depth)
    return range(depth - count, depth) if count > 0 else range(-count)


def _kinds(model: Any, layers: Any, trained: range) -> list[list[int]]:
    """The numbers of the layers, those alike together, in the order in which they first come."""
    groups: dict[Any, list[int]] = {}
    types = getattr(model.config, "layer_types", None) or [None] * len(layers)
    for i, layer in enumerate(layers):
        shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        groups.setdefault((shapes, types[i], i in trained), []).append(i)
    return list(groups.values())


def _extrapolated(plain: Any, recipe: Recipe, plan: Plan) -> Trace:
    """The first and last layer of each kind; then with one layer more of each kind in turn."""
    holder, name = decoder_layers(plain)
    layers, config = getattr(holder, name), plain.config
    if recipe.finetuning_type == "freeze":
        unfrozen_names(plain, recipe)  # RecipeError where those layers are not there
    trained = _trained(recipe, len(layers))
    kinds = _kinds(plain, layers, trained)

    def trace(chosen: list[int]) -> Trace:
        setattr(holder, name, torch.nn.ModuleList(layers[i] for i in chosen))
        plain.config = _shorter(config, chosen)
        made = _renumbered(copy.deepcopy(plain))
        inside = sum(i in trained for i in chosen)
        count = int(math.copysign(inside, recipe.freeze_trainable_layers or 1))
        freeze = recipe.finetuning_type == "freeze"
        part = recipe.replace(freeze_trainable_layers=count) if freeze else recipe
        return trace_step(made, chosen, part, plan)

    base = sorted({i for kind in kinds for i in (kind[0], kind[-1])})
    total = first = trace(base)
    for kind in kinds:
        left = [i for i in kind if i not in base]
        if left:
            total = total.plus(len(left), first, trace(sorted([*base, left[0]])))
    return total


def _renumbered(model: Any) -> Any:
    """The shortened model, whose parts know its configuration and their places in it."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config = model.config
    holder, name = decoder_layers(model)
    for i, layer in enumerate(getattr(holder, name)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = i
    return model


def _shorter(config: Any, chosen: list[int]) -> Any:
    config = copy.deepcopy(config)
    types = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(chosen)
    if types:
        config.layer_types = [types[i] for i in chosen]
    return config
