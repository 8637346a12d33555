"""Which parameters train: all of them (full), some layers (freeze), or those of an adapter.

The methods of the table in `ftlab.adapters.methods` are PEFT's, the bottleneck adapter is our own.
Taught in notebooks/07_sft.ipynb, notebooks/08_lora.ipynb and notebooks/10_peft_family.ipynb.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from ftlab.adapters.folders import adapter_config
from ftlab.adapters.methods import check, configuration, linear_layers, parts, split
from ftlab.base import base_record
from ftlab.engine import fast
from ftlab.errors import RecipeError
from ftlab.hardware import here, precision
from ftlab.models import gives_scores, with_score
from ftlab.quantize import describe
from ftlab.recipe import Recipe
from ftlab.recipe.rules import PROMPTS

STATE = "trainable.safetensors"  # in a checkpoint whose adapter file is not what trains
QUANTIZED = ("Linear4bit", "Linear8bitLt", "HQQLinear")


def adapt(model: Any, recipe: Recipe, *, copied: bool = True) -> Any:
    """Return a model whose trainable parameters are those of ``recipe.finetuning_type``.

    The given model stays as it is: an adapter shares its frozen weights, full and freeze get a
    copy, or with ``copied=False`` train the model itself and save that memory. A given model that
    has an adapter trains on with it, or with ``create_new_adapter`` it is merged first. Raises
    RecipeError where the recipe does not fit the model.
    """
    splits = recipe.pissa_init or recipe.init_lora_weights == "olora"  # changes the base's weights
    if describe(model) is not None:
        _refuse_change(model, recipe, splits)
    if recipe.use_unsloth:
        return fast.attach(model, recipe)
    if recipe.stage == "rm":
        model = _scored(model, recipe)
    if recipe.finetuning_type in ("full", "freeze"):
        return _unfrozen(model, recipe, copied)
    if isinstance(model, PeftModel):
        if not recipe.create_new_adapter:
            return _continued(model, recipe)
        model = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    check(model, recipe)
    base = copy.deepcopy(model) if splits else _shared_copy(model)
    if splits:
        base.ftlab_base = base_record(model, "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of norms it does not know, of ties: tested here
            adapted = get_peft_model(base, _fitting(configuration(recipe).build(), base))
    except (ValueError, TypeError, NotImplementedError, KeyError) as error:
        raise RecipeError(
            f"finetuning_type={recipe.finetuning_type}: PEFT says: {error}"
        ) from error
    if recipe.init_lora_weights == "loftq":
        from ftlab.adapters.loftq import start_from_error

        start_from_error(adapted, recipe)
    if splits:
        weights = get_peft_model_state_dict(adapted)
        first = {name: t.detach().clone() for name, t in weights.items() if ".lora_" in name}
        adapted.ftlab_first = first
    return adapted


def _refuse_change(model: Any, recipe: Recipe, splits: bool) -> None:
    """RecipeError for what would write into quantized weights, also where they came that way."""
    whole = recipe.finetuning_type in ("full", "freeze")
    merges = isinstance(model, PeftModel) and recipe.create_new_adapter
    if whole or splits or merges:
        key = f"finetuning_type={recipe.finetuning_type}" if whole else "pissa_init or olora"
        raise RecipeError(
            f"{'create_new_adapter' if merges else key}: would change the model's weights, and "
            "they are quantized. Train an adapter on them, or load the 16-bit model."
        )


def _fitting(config: Any, model: Any) -> Any:
    """PEFT's "all-linear" passes over the layers of hqq: name them all."""
    hqq = (describe(model) or {}).get("method") == "hqq"
    if hqq and getattr(config, "target_modules", None) == "all-linear":
        output = model.get_output_embeddings()
        config.target_modules = {n for n, m in linear_layers(model).items() if m is not output}
    return config


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe's LoRA keys as PEFT's LoraConfig."""
    config = configuration(recipe.replace(finetuning_type="lora")).build()
    assert isinstance(config, LoraConfig)
    return config


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
                raise RecipeError(f"{key}: no module {module!r} there. There are: {parts(pool)}.")
    chosen = {n for n in in_layers if "all" in wanted or any(m in n for m in wanted)}
    return chosen | {n for n in names if any(m in n for m in extra)}


def trainable_parameters(model: Any) -> tuple[int, int]:
    """``(trainable, total)`` numbers of parameters; tied weights count once."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return trainable, sum(p.numel() for p in parameters)


def finish_folder(model: Any, folder: Path, *, checkpoint: bool) -> None:
    """Add to a folder with a model saved in it what PEFT leaves out.

    An adapter that split the base's weights (PiSSA, OLoRA) becomes a LoRA of twice the rank that
    fits the base as it was: ``BA - B0 A0 = [B, -B0] [A; A0]`` (as PEFT's subtract_mutated_init). A
    checkpoint gets the tensors that train where the adapter's file holds something else.
    """
    first = getattr(model, "ftlab_first", None)
    if first is not None:
        config = copy.deepcopy(model.peft_config["default"])
        config.init_lora_weights, config.inference_mode = True, True
        config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
        config.r *= 2
        weights = get_peft_model_state_dict(model)
        for name, start in first.items():
            down = ".lora_A" in name or ".lora_embedding_A" in name
            both = [weights[name], start if down else -start]
            weights[name] = torch.cat(both, dim=0 if down else 1).contiguous()
        save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config.save_pretrained(folder)
    kinds = [config.peft_type for config in getattr(model, "peft_config", {}).values()]
    if checkpoint and (first is not None or {"P_TUNING", "ADALORA"} & set(kinds)):
        save_file(_state(model), folder / STATE)


def restore(model: Any, folder: Path) -> bool:
    """Put a checkpoint's trainable tensors back; False where its adapter file is all there is."""
    if not (folder / STATE).is_file():
        return False
    found, ranks = load_file(folder / STATE), allocator(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(found[name])
    if ranks is not None:
        ranks.peft_config.rank_pattern = json.loads(
            (folder / "adapter_config.json").read_text(encoding="utf-8")
        )["rank_pattern"]
        for table in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            prefix = f"{table}/"
            values = {k.removeprefix(prefix): t for k, t in found.items() if k.startswith(prefix)}
            setattr(ranks, table, {k: t.to(model.device) for k, t in values.items()})
    return True


class RankSchedule(TrainerCallback):
    """AdaLoRA: from ``init_r`` ranks a layer to ``lora_rank`` on average, the least useful first.

    A tenth of the steps nothing is pruned, and in the last quarter the ranks that are left train.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell PEFT how long this run is."""
        config = allocator(kwargs["model"]).peft_config
        config.total_step = state.max_steps
        config.tinit, config.tfinal = state.max_steps // 10, state.max_steps // 4

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune: gradients are still there, and ``global_step`` counts the steps before this."""
        if state.max_steps > 1:  # PEFT prunes by what earlier steps told
            kwargs["model"].base_model.update_and_allocate(state.global_step + 1)


def allocator(model: Any) -> Any:
    """PEFT's RankAllocator of an AdaLoRA model; None for every other model."""
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def is_adapter(model: Any) -> bool:
    """Whether an adapter trains, not the model's own weights."""
    return isinstance(model, PeftModel)


def merged_first(recipe: Recipe) -> list[str]:
    """The adapters that are merged into the base before training begins."""
    folders = split(recipe.adapter_name_or_path)
    all_of_them = recipe.create_new_adapter
    if folders and recipe.stage == "rm":
        all_of_them |= adapter_config(Path(folders[-1])).get("task_type") != "SEQ_CLS"
    return folders if all_of_them else folders[:-1]


@contextmanager
def penalty(model: Any, share: float) -> Iterator[None]:
    """Inside, the loss of an AdaLoRA model has this share of its penalty; 0: the answers alone."""
    config = ranks.peft_config if (ranks := allocator(model)) else None
    weight = getattr(config, "orth_reg_weight", 0.0)
    if config is not None:
        config.orth_reg_weight = weight * share
    try:
        yield
    finally:
        if config is not None:
            config.orth_reg_weight = weight


def _state(model: Any) -> dict[str, torch.Tensor]:
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    if (ranks := allocator(model)) is not None:
        for table in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            state |= {f"{table}/{name}": t for name, t in getattr(ranks, table).items()}
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _scored(model: Any, recipe: Recipe) -> Any:
    """A reward model on the given model's weights; an adapter of a language model is merged."""
    if gives_scores(model.config):
        return model
    if isinstance(model, PeftModel) and recipe.finetuning_type not in ("full", "freeze"):
        model = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    scored = with_score(model)
    if recipe.finetuning_type not in ("full", "freeze"):
        # An adapter's record names the weights of the language model, which has no score.
        scored.ftlab_base = base_record(model, "")
    return scored


def _unfrozen(model: Any, recipe: Recipe, copied: bool) -> Any:
    if isinstance(model, PeftModel):
        raise RecipeError(
            f"finetuning_type={recipe.finetuning_type}: the model has an adapter. Merge it first "
            "(ftlab export) and train the merged model."
        )
    model = copy.deepcopy(model) if copied else model
    chosen = None if recipe.finetuning_type == "full" else unfrozen_names(model, recipe)
    exact = precision(recipe, here()).autocast is not None
    for name, parameter in model.named_parameters():
        head = recipe.stage == "rm" and name.startswith("score.")
        parameter.requires_grad_(chosen is None or name in chosen or head)
        if parameter.requires_grad and exact:
            parameter.data = parameter.data.float()
    return model


def _continued(model: Any, recipe: Recipe) -> Any:
    """A copy of a model with an adapter, ready to train that adapter on."""
    kind = str(getattr(model.active_peft_config.peft_type, "value", ""))
    wanted = str(getattr(configuration(recipe).build().peft_type, "value", ""))
    if kind != wanted or kind in ("P_TUNING", "ADALORA"):
        why = (
            f"it is a {kind} adapter"
            if kind != wanted
            else f"a saved {kind} adapter has not all that training needs"
        )
        raise RecipeError(
            f"finetuning_type={recipe.finetuning_type}: the model's adapter cannot be trained on, "
            f"{why}. Set create_new_adapter: true to merge it and train a new one."
        )
    model = _shared_copy(model)
    active = model.active_adapter
    model.peft_config[active].inference_mode = False
    if recipe.finetuning_type in PROMPTS:
        model.prompt_encoder[active].requires_grad_(True)
    else:
        model.set_adapter(active)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
    return model


def _shared_copy(model: Any) -> Any:
    """A second model object on the same weights, so that injecting LoRA leaves the first alone."""
    return copy.deepcopy(model, _shared(model))


def _shared(model: Any) -> dict[int, Any]:
    """What a copy of the model takes over instead of copying it, for ``copy.deepcopy``."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():  # parameters of their own, or freezing them would reach over
        if weight.is_floating_point():
            memo[id(weight)] = torch.nn.Parameter(weight.data, weight.requires_grad)
    for module in model.modules():  # frozen for good, and its class keeps constants beside it
        if type(module).__name__ in QUANTIZED:
            memo[id(module)] = module
    return memo
