"""Optimizers beside transformers' own: which run here, and how each is built.

LoRA+ is PEFT's, GaLore and APOLLO go through transformers, BAdam and Adam-mini come from their
authors' packages, Muon from torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import MethodType
from typing import Any

import torch

from ftlab.adapters.methods import split
from ftlab.errors import CheckpointError, EnvironmentProblem
from ftlab.recipe import Recipe

# key -> (module, package, what to know before installing it)
PACKAGES = {
    "use_galore": ("galore_torch", "galore-torch", ""),
    "use_apollo": ("apollo_torch", "apollo-torch", " Its licence is CC BY-NC: no commercial use."),
    "use_badam": ("badam", "badam", ""),
    "use_adam_mini": ("adam_mini", "adam-mini", ""),
}  # fmt: skip
_PICKLED = (
    ("use_galore", "galore_torch.galore_projector", "GaLoreProjector"),
    ("use_apollo", "apollo_torch.random_projector", "GradientProjector"),
    ("use_apollo", "apollo_torch.svd_projector", "GaLoreProjector"),
)  # fmt: skip


def check(recipe: Recipe) -> None:
    """EnvironmentProblem where the optimizer's package is missing."""
    wanted = [PACKAGES[key] for key in PACKAGES if getattr(recipe, key)]
    if "8bit" in recipe.optim or "paged" in recipe.optim:
        wanted.append(("bitsandbytes", "bitsandbytes", ""))
    for module, package, remark in wanted:
        if importlib.util.find_spec(module) is None:
            raise EnvironmentProblem(
                f"{recipe_key(recipe)} needs a package: pip install {package}.{remark}"
            )


def keeps_its_place(recipe: Recipe) -> bool:
    """Whether a checkpoint holds all that the optimizer goes on from."""
    layerwise = recipe.use_galore and recipe.galore_layerwise
    layerwise = layerwise or (recipe.use_apollo and recipe.apollo_layerwise)
    return not (recipe.use_badam or layerwise)


def check_resume(recipe: Recipe) -> None:
    """CheckpointError for an optimizer that keeps no state to go on from."""
    if not keeps_its_place(recipe):
        raise CheckpointError(
            f"{recipe_key(recipe)}: this optimizer keeps its place in no checkpoint, so the run "
            "cannot be resumed. Start a new run."
        )


def notice(recipe: Recipe) -> list[str]:
    """A sentence where an optimizer does less here than its name says."""
    if "paged" in recipe.optim and not torch.cuda.is_available():
        return [f"optim={recipe.optim}: only a GPU's memory is paged; here its states stay put."]
    if recipe.use_muon and not torch.cuda.is_available():
        return ["use_muon: torch computes its steps in bfloat16, which is slow on a CPU."]
    return []


def recipe_key(recipe: Recipe) -> str:
    """The key that chooses the recipe's optimizer, with its value."""
    keys = [key for key in (*PACKAGES, "use_muon") if getattr(recipe, key)]
    return f"{keys[0]}=True" if keys else f"optim={recipe.optim!r}"


def arguments(recipe: Recipe) -> dict[str, Any]:
    """The optimizer as TrainingArguments name it: ``optim`` and what belongs to it."""
    if recipe.use_galore:
        values = {
            "rank": recipe.galore_rank, "update_proj_gap": recipe.galore_update_interval,
            "scale": recipe.galore_scale, "proj_type": recipe.galore_proj_type,
        }  # fmt: skip
        return _low_rank("galore_adamw", recipe.galore_layerwise, recipe.galore_target, values)
    if recipe.use_apollo:
        values = {
            "rank": recipe.apollo_rank, "update_proj_gap": recipe.apollo_update_interval,
            "scale": recipe.apollo_scale, "proj": recipe.apollo_proj,
            "scale_type": recipe.apollo_scale_type,
        }  # fmt: skip
        return _low_rank("apollo_adamw", recipe.apollo_layerwise, recipe.apollo_target, values)
    # PyTorch's AdamW in one kernel: the same update, quicker where the model is small.
    same = {"adamw_torch": "adamw_torch_fused"}
    return {"optim": same.get(recipe.optim, recipe.optim)}


def _low_rank(name: str, layerwise: bool, target: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "optim": f"{name}_layerwise" if layerwise else name,
        "optim_target_modules": "all-linear" if target == "all" else split(target),
        "optim_args": ",".join(f"{key}={value}" for key, value in values.items()),
    }


def build(model: Any, recipe: Recipe, args: Any) -> torch.optim.Optimizer | None:
    """The recipe's optimizer for ``model``; None where transformers builds it from ``args``."""
    for key, module, name in _PICKLED:
        if getattr(recipe, key):  # part of their state: a checkpoint is read with weights_only
            projector = getattr(importlib.import_module(module), name)
            torch.serialization.add_safe_globals([projector])
    if recipe.loraplus_lr_ratio is not None:
        return _lora_plus(model, recipe, args)
    if recipe.use_badam:
        return _badam(model, recipe)
    if recipe.use_adam_mini:
        return _adam_mini(model, recipe)
    return Muon(model, recipe) if recipe.use_muon else None


def clip_sparse(accelerator: Any) -> None:
    """Let gradients be clipped that hold part of their numbers only, as BAdam's by shares do."""
    from badam.utils import clip_grad_norm_old_version

    accelerator.clip_grad_norm_ = MethodType(clip_grad_norm_old_version, accelerator)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices inside the layers, AdamW for everything else, as one optimizer.

    Muon's steps are scaled to AdamW's size (``match_rms_adamw``, arXiv:2502.16982), so that one
    learning rate fits both. Its state is that of both.
    """

    def __init__(self, model: Any, recipe: Recipe) -> None:
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        ends = {id(model.get_input_embeddings().weight)}
        if model.get_output_embeddings() is not None:
            ends.add(id(model.get_output_embeddings().weight))
        inner = [p for p in weights.values() if p.ndim == 2 and id(p) not in ends]
        rest = [p for p in weights.values() if p.ndim != 2 or id(p) in ends]
        rate: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        self.parts: list[torch.optim.Optimizer] = []
        if inner:
            self.parts.append(torch.optim.Muon(inner, **rate, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, **rate, **_adam(recipe)))
        super().__init__([{"params": [*inner, *rest]}], rate)
        self._join()

    def _join(self) -> None:
        # The same group objects: a schedule that sets a rate here sets it there.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        """One step of each part."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of each part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part its state back."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()


def _adam(recipe: Recipe) -> dict[str, Any]:
    return {"betas": (recipe.adam_beta1, recipe.adam_beta2), "eps": recipe.adam_epsilon}


def _groups(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]


def _lora_plus(model: Any, recipe: Recipe, args: Any) -> torch.optim.Optimizer:
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    kind, values = Trainer.get_optimizer_cls_and_kwargs(args, model)
    values.pop("lr", None)
    return create_loraplus_optimizer(
        model, kind, lr=recipe.learning_rate, loraplus_lr_ratio=recipe.loraplus_lr_ratio,
        loraplus_lr_embedding=recipe.loraplus_lr_embedding,
        loraplus_weight_decay=recipe.weight_decay, **values,
    )  # fmt: skip


def _badam(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    from badam import BlockOptimizer, BlockOptimizerRatio, block_optim

    block_optim.print_rank_0 = lambda *args, **kwargs: None  # it names each block on stdout
    rate = {"lr": recipe.learning_rate, **_adam(recipe)}
    named = list(model.named_parameters())
    if recipe.badam_mode == "ratio":
        return BlockOptimizerRatio(
            _groups(model, recipe), named, update_ratio=recipe.badam_update_ratio,
            switch_every=recipe.badam_switch_interval, mask_mode="adjacent", verbose=0,
            include_embedding=True, include_lm_head=True, **rate,
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fp32 weights, which are what a CPU trains
        return BlockOptimizer(
            torch.optim.AdamW(_groups(model, recipe), **rate), named,
            switch_block_every=recipe.badam_switch_interval,
            switch_mode=recipe.badam_switch_mode, verbose=0,
        )  # fmt: skip


def _adam_mini(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    from adam_mini import Adam_mini

    config = model.config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    made = Adam_mini(
        model.named_parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay,
        **_adam(recipe), dim=config.hidden_size, n_heads=heads, n_kv_heads=key_heads, verbose=False,
    )  # fmt: skip
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    made.head_numel = size * config.hidden_size  # it takes heads * head_dim for the hidden size
    return made
