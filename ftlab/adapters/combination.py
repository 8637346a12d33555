"""LoRA adapters added up: sum, SVD, TIES, DARE, pruning, and how far each is from the sum.

PEFT's ``add_weighted_adapter`` (peft/tuners/lora/model.py) computes; what it would leave out or
scale wrongly in silence is refused or mended here. Taught in notebooks/08_lora.ipynb.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from ftlab.adapters.cards import did_you_mean
from ftlab.errors import ModelError

# These work on A and B apart, not on their product, and need equal ranks.
FACTOR_METHODS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
METHODS = ("cat", "svd", *FACTOR_METHODS, *(f"{name}_svd" for name in FACTOR_METHODS[1:]))

# What PEFT would leave out of the result.
_LEFT_OUT = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices")

Factors = tuple[torch.Tensor, torch.Tensor]  # A [rank, in], B [out, rank]


def combine(
    model: Any,
    name: str,
    weights: Mapping[str, float],
    *,
    method: str = "cat",
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
) -> float:
    """Add the combination ``name`` to a PeftModel; arguments, result, errors: AdapterSet.combine.

    On an error the model stays as it was.
    """
    _check_sources(model, weights)
    _check_method(model, weights, method, density, rank)
    first = model.peft_config[next(iter(weights))]
    # PEFT copies this configuration: its start would change the base again, and its
    # rank-stabilized scaling would stay on while alpha becomes the rank.
    kept = {key: getattr(first, key) for key in ("use_rslora", "init_lora_weights")}
    vars(first).update(use_rslora=False, init_lora_weights=True)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([]):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model.base_model.add_weighted_adapter(
                list(weights),
                list(weights.values()),
                name,
                combination_type=method,
                density=density,
                svd_rank=rank,
                svd_full_matrices=False,
            )
        return distance(model, name, weights)
    except (ValueError, RuntimeError, TypeError) as problem:
        if name in model.peft_config:
            model.delete_adapter(name)
        raise ModelError(f"combine: {', '.join(weights)}: {problem}") from problem
    finally:
        vars(first).update(kept)


def distance(model: Any, name: str, weights: Mapping[str, float]) -> float:
    """Norm of (change by ``name`` - weighted sum of changes) / norm of that sum, over all layers.

    Raises ValueError where the sum or the change is zero, or a layer of a source is not changed.
    """
    apart = total = left = 0.0
    for layer in _layers(model):
        made = _factors(layer, name)
        parts = [
            (weight * layer.scaling[source], *pair)
            for source, weight in weights.items()
            if (pair := _factors(layer, source))
        ]
        if not parts:
            continue
        if not made:
            raise ValueError("they change other layers each, which PEFT would leave out.")
        scale = layer.scaling[name]
        total, left = total + _square(parts), left + _square([(scale, *made)])
        apart += _square([*parts, (-scale, *made)])
    if not (total > 0 and left > 0):
        raise ValueError("their changes cancel out, nothing is left.")
    return math.sqrt(max(apart, 0.0) / total)


def size(model: Any, name: str) -> tuple[int, int]:
    """Parameters and bytes of a LoRA adapter in a PeftModel."""
    factors = [factor for pair in _pairs(model, [name]) for factor in pair]
    return sum(f.numel() for f in factors), sum(f.nbytes for f in factors)


def _check_sources(model: Any, weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        config = model.peft_config[name]
        kind = config.peft_type.value
        if kind != "LORA":
            raise ModelError(f"combine: {name!r} is a {kind} adapter; only LoRA can be combined.")
        found = [key for key in _LEFT_OUT if getattr(config, key, None)]
        if found or config.bias != "none":
            key = found[0] if found else f"bias={config.bias}"
            raise ModelError(f"combine: {name!r} was trained with {key}; that cannot be combined.")
        if not math.isfinite(weight):
            raise ModelError(f"combine: the weight of {name!r} is {weight}. Use a finite number.")
    if not any(weights.values()):
        raise ModelError("combine: no adapter has a weight other than 0, so nothing is left.")


def _check_method(
    model: Any,
    weights: Mapping[str, float],
    method: str,
    density: float | None,
    rank: int | None,
) -> None:
    if method not in METHODS:
        near = did_you_mean(get_close_matches(method, METHODS, n=1))
        raise ModelError(f"method={method!r}: choose from {', '.join(METHODS)}.{near}")
    prunes = method.startswith(("ties", "dare", "magnitude"))
    if prunes and (density is None or not 0 < density <= 1):
        raise ModelError(
            f"density={density}: {method} needs the share of values to keep, above 0 and at most "
            "1, such as 0.5."
        )
    for key, value, used in (("density", density, prunes), ("rank", rank, "svd" in method)):
        if value is not None and not used:
            raise ModelError(f"{key}: the method {method} does not use it. Leave it out.")
    largest = min(min(a.shape[1], b.shape[0]) for a, b in _pairs(model, weights))
    if rank is not None and not 1 <= rank <= largest:
        raise ModelError(f"rank={rank}: must be from 1 to {largest}, the smallest layer's size.")
    ranks = {name: model.peft_config[name].r for name in weights}
    if method in FACTOR_METHODS and len(set(ranks.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in ranks.items())
        raise ModelError(
            f"combine: {method} needs equal ranks, and these are {listed}. Use 'cat', 'svd' or a "
            "method that ends in _svd."
        )


def _layers(model: Any) -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def _pairs(model: Any, names: Iterable[str]) -> list[Factors]:
    found = (_factors(layer, name) for layer in _layers(model) for name in names)
    return [pair for pair in found if pair]


def _factors(layer: LoraLayer, name: str) -> Factors | None:
    """A and B of an adapter in one layer; None where it has none there."""
    if name in layer.lora_A:
        return layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name].data, layer.lora_embedding_B[name].data
    return None


def _square(parts: list[tuple[float, torch.Tensor, torch.Tensor]]) -> float:
    """Squared Frobenius norm of the sum of ``factor * B @ A``, without forming the product."""
    a = torch.cat([factor * a.double() for factor, a, _ in parts])
    b = torch.cat([b.double() for _, _, b in parts], dim=1)
    return float(((b.T @ b) * (a @ a.T)).sum())
