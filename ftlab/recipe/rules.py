"""Which keys of a recipe go together: RecipeError where they do not, a sentence where one rests.

The limits are LLaMA-Factory's (hparams/finetuning_args.py, hparams/parser.py) and the libraries'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftlab.errors import RecipeError

if TYPE_CHECKING:
    from ftlab.recipe import Knob, Recipe

PAIRS = ("rm", "dpo")
PREFERENCE = (*PAIRS, "kto")
ONLINE = ("ppo", "grpo", "rloo")
REFERENCE_FREE = ("orpo", "simpo")  # of pref_loss
PROMPTS = ("prompt_tuning", "prefix_tuning", "p_tuning")
# Which methods read the keys of a group.
READ_BY = {
    "lora": ("lora", "adalora", "vera"),
    "oft": ("oft",),
    "virtual": PROMPTS,
    "bottleneck": ("bottleneck",),
    "freeze": ("freeze",),
}
OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
BITS: dict[str, tuple[int, ...]] = {"bnb": (8, 4), "hqq": (8, 6, 5, 4, 3, 2, 1), "eetq": (8,)}
EETQ = (
    "quantization_method=eetq: transformers fetches its kernels from a hub while loading, for an "
    "NVIDIA GPU only, and ftlab runs no code from there. Use bnb with quantization_bit 8."
)


def check(recipe: Recipe, knobs: dict[str, Knob]) -> list[str]:
    """What to tell the reader; raises RecipeError for keys that exclude each other."""
    _data(recipe)
    _methods(recipe)
    _quantization(recipe)
    _optimizers(recipe)
    _engine(recipe)
    if recipe.stage in (*PREFERENCE, *ONLINE):
        _preference(recipe)
    _processes(recipe)
    return [*_notices(recipe), *_resting(recipe, knobs), *_resting_stage(recipe, knobs)]


def _data(recipe: Recipe) -> None:
    if recipe.val_size and recipe.eval_dataset:
        raise RecipeError(
            f"val_size={recipe.val_size} and eval_dataset={recipe.eval_dataset!r} are both set. "
            "Hold rows out of the training data or name a second dataset, not both."
        )
    if recipe.train_on_prompt and recipe.mask_history:
        raise RecipeError("train_on_prompt and mask_history exclude each other. Set one.")
    if recipe.export_legacy_format:
        raise RecipeError("export_legacy_format: ftlab writes safetensors only. Remove the key.")
    if recipe.bf16 and recipe.fp16:
        raise RecipeError("bf16 and fp16 are both set. Choose one precision.")
    if recipe.interleave_probs and recipe.mix_strategy == "concat":
        raise RecipeError("interleave_probs needs mix_strategy: interleave_under or _over.")


def _methods(recipe: Recipe) -> None:
    method = recipe.finetuning_type
    switches = {
        "use_rslora": recipe.use_rslora,
        "use_dora": recipe.use_dora,
        "pissa_init": recipe.pissa_init,
        "loraplus_lr_ratio": recipe.loraplus_lr_ratio is not None,
        "init_lora_weights": recipe.init_lora_weights != "default",
    }
    on = [key for key, value in switches.items() if value]
    if on and method != "lora":
        raise RecipeError(f"{on[0]}: for LoRA only, and finetuning_type is {method}. Remove it.")
    splits = "pissa_init" if recipe.pissa_init else "init_lora_weights=olora"
    if recipe.pissa_init and recipe.init_lora_weights != "default":
        raise RecipeError("pissa_init and init_lora_weights both say how A and B start. Set one.")
    if recipe.use_dora and (recipe.pissa_init or recipe.init_lora_weights == "olora"):
        raise RecipeError(
            f"use_dora with {splits}: the trained adapter would fit no base but the changed one. "
            "Remove one of the two."
        )
    if recipe.pissa_init and recipe.pissa_iter == 0:
        raise RecipeError(
            "pissa_iter=0: choose the steps of its fast SVD, or -1 for the exact one."
        )
    if method == "oft" and bool(recipe.oft_rank) == bool(recipe.oft_block_size):
        raise RecipeError(
            f"oft_rank={recipe.oft_rank} and oft_block_size={recipe.oft_block_size}: the number of "
            "blocks follows from their size. Set one of the two and the other to 0."
        )
    if method in PROMPTS and (recipe.neat_packing or (recipe.packing and recipe.stage != "pt")):
        raise RecipeError(
            f"finetuning_type={method}: packed samples need positions of their own, which a "
            "learned prompt does not leave them. Set packing and neat_packing to false."
        )
    if method == "prefix_tuning" and recipe.gradient_checkpointing:
        raise RecipeError("prefix_tuning: does not work with gradient_checkpointing. Set it false.")
    if recipe.adapter_name_or_path and method in ("full", "freeze"):
        raise RecipeError(
            f"adapter_name_or_path: finetuning_type={method} trains no adapter. Merge it first "
            "(ftlab export) and train the merged model."
        )


def _quantization(recipe: Recipe) -> None:
    bits, library = recipe.quantization_bit, recipe.quantization_method
    method = recipe.finetuning_type
    if bits is None:
        if recipe.init_lora_weights == "loftq":
            raise RecipeError("init_lora_weights=loftq: needs quantization_bit: 4 (bnb).")
        return
    if library == "eetq":
        raise RecipeError(EETQ)
    if bits not in BITS[library]:
        allowed = ", ".join(map(str, BITS[library]))
        raise RecipeError(f"quantization_bit={bits}: {library} knows {allowed}. Choose one.")
    if method in ("full", "freeze"):
        raise RecipeError(
            f"quantization_bit={bits}: quantized weights cannot be trained, and "
            f"finetuning_type={method} trains them. Use lora or another adapter."
        )
    if recipe.pissa_init or recipe.init_lora_weights == "olora":
        name = "pissa_init" if recipe.pissa_init else "init_lora_weights=olora"
        raise RecipeError(
            f"{name}: changes the base's weights, and quantization_bit={bits} froze them rounded. "
            "Use init_lora_weights: loftq, or no quantization."
        )
    if recipe.init_lora_weights == "loftq" and (bits, library) != (4, "bnb"):
        raise RecipeError("init_lora_weights=loftq: needs quantization_bit: 4 (bnb).")
    if recipe.use_dora and (bits, library) == (8, "bnb"):
        raise RecipeError(
            "use_dora with quantization_bit=8: PEFT loses the constants of 8-bit weights there. "
            "Use quantization_bit: 4."
        )
    if library == "hqq" and method in ("adalora", "vera", "ia3", "oft"):
        raise RecipeError(f"quantization_method=hqq: PEFT has no {method} for it. Use bnb.")
    many = "," in (recipe.adapter_name_or_path or "")
    if recipe.adapter_name_or_path and (many or recipe.create_new_adapter):
        raise RecipeError(
            f"quantization_bit={bits}: adapters cannot be merged into quantized weights. Merge "
            "them into the 16-bit model first (ftlab export), or name one adapter to train on."
        )


def _optimizers(recipe: Recipe) -> None:
    on = [key for key in OPTIMIZERS if getattr(recipe, key)]
    if recipe.loraplus_lr_ratio is not None:
        on.append("loraplus_lr_ratio")
    if len(on) > 1:
        raise RecipeError(f"{' and '.join(on)}: each is an optimizer of its own. Set one of them.")
    if not on or on == ["loraplus_lr_ratio"]:
        return
    key, method = on[0], recipe.finetuning_type
    if recipe.optim not in ("adamw_torch", "adamw_torch_fused"):
        raise RecipeError(f"{key} and optim={recipe.optim}: two optimizers. Leave optim out.")
    if key != "use_muon" and method not in ("full", "freeze"):
        raise RecipeError(
            f"{key}: works on whole weight matrices, and finetuning_type={method} trains others. "
            "Use full or freeze."
        )
    if recipe.apollo_scale_front and recipe.use_apollo:
        raise RecipeError("apollo_scale_front: transformers has no argument for it. Remove it.")
    for name in ("galore", "apollo"):
        layerwise = getattr(recipe, f"use_{name}") and getattr(recipe, f"{name}_layerwise")
        if layerwise and recipe.gradient_accumulation_steps > 1:
            raise RecipeError(
                f"{name}_layerwise: updates within each backward pass. Set "
                "gradient_accumulation_steps to 1."
            )


def _engine(recipe: Recipe) -> None:
    if recipe.use_unsloth and (problem := beyond_unsloth(recipe)):
        raise RecipeError(f"use_unsloth with {problem}. Remove one of the two.")
    if recipe.use_unsloth_gc and recipe.finetuning_type == "prefix_tuning":
        raise RecipeError("prefix_tuning: does not work with use_unsloth_gc. Set it false.")


def beyond_unsloth(recipe: Recipe) -> str | None:
    """What of a recipe is not trained with Unsloth here, in words; None where all is."""
    full = recipe.finetuning_type == "full"
    copied = full and recipe.stage == "dpo" and recipe.pref_loss not in REFERENCE_FREE
    quantized = recipe.quantization_bit is not None
    odd = (recipe.quantization_bit, recipe.quantization_method, recipe.quantization_type,
           recipe.double_quantization) != (4, "bnb", "nf4", True)  # fmt: skip
    faults = (
        (recipe.stage not in ("pt", "sft", "dpo"),
         f"stage={recipe.stage}: it trains stages pt, sft and dpo here"),
        (recipe.finetuning_type not in ("lora", "full"),
         f"finetuning_type={recipe.finetuning_type}: it trains lora and full"),
        (quantized and odd, "another quantization: it knows 4 bits, bnb, nf4, doubly quantized"),
        (recipe.use_dora, "use_dora: its LoRA kernels do not know DoRA"),
        (recipe.pissa_init or recipe.init_lora_weights != "default",
         "another start of LoRA: pissa_init and init_lora_weights are PEFT's"),
        (recipe.additional_target, "additional_target: it trains LoRA's matrices alone here"),
        (recipe.adapter_name_or_path,
         "adapter_name_or_path: merge that adapter first (ftlab export) and train the result"),
        (recipe.ref_model, "ref_model: a second model would come without its kernels"),
        (copied and not recipe.precompute_ref_log_probs,
         "stage=dpo and full: the reference would be a second model, which "
         "precompute_ref_log_probs: true avoids"),
        (recipe.rope_scaling, "rope_scaling: it scales by itself, otherwise"),
        (recipe.enable_liger_kernel, "enable_liger_kernel: both bring kernels for the same layers"),
        (recipe.torch_compile, "torch_compile: it compiles by itself"),
    )  # fmt: skip
    return next((why for fault, why in faults if fault), None)


def _preference(recipe: Recipe) -> None:
    stage, method = recipe.stage, recipe.finetuning_type
    if method in PROMPTS:
        raise RecipeError(
            f"finetuning_type={method}: stage {stage} compares the probabilities of tokens, and a "
            "learned prompt moves them to other places. Use lora or another adapter."
        )
    for key in ("packing", "neat_packing", "train_on_prompt"):
        if getattr(recipe, key):
            raise RecipeError(f"{key}: stage {stage} learns from whole answers. Remove the key.")
    if stage in ONLINE:
        return
    loss, free = recipe.pref_loss, stage == "dpo" and recipe.pref_loss in REFERENCE_FREE
    reference = [
        key for key in ("ref_model", "ref_model_adapters", "ref_model_quantization_bit",
                        "precompute_ref_log_probs") if getattr(recipe, key)
    ]  # fmt: skip
    if reference and (free or stage == "rm"):
        what = f"pref_loss={loss}" if free else "stage rm"
        raise RecipeError(f"{reference[0]}: {what} works without a reference. Remove the key.")
    if reference and reference[0].startswith("ref_model_") and not recipe.ref_model:
        raise RecipeError(f"{reference[0]}: belongs to ref_model, which is empty. Name it too.")
    if stage != "dpo":
        return
    smooth = recipe.dpo_label_smoothing
    if smooth and loss not in ("sigmoid", "robust"):
        raise RecipeError(f"dpo_label_smoothing={smooth:g}: for pref_loss sigmoid and robust only.")
    if loss == "robust" and not smooth:
        raise RecipeError(
            "pref_loss=robust: needs dpo_label_smoothing, the share of swapped pairs."
        )
    if smooth and recipe.ld_alpha is not None:
        raise RecipeError("dpo_label_smoothing and ld_alpha: not together. Set one.")
    if recipe.ld_alpha is not None and loss != "sigmoid":
        raise RecipeError("ld_alpha: for pref_loss sigmoid only. Remove one of the two.")
    if loss == "orpo" and recipe.pref_ftx:
        raise RecipeError("pref_ftx: pref_loss=orpo has the SFT loss in it. Set pref_ftx to 0.")
    if recipe.pref_beta == 0:
        raise RecipeError(f"pref_beta=0: nothing is learned with pref_loss={loss}. Choose 0.1.")


def _processes(recipe: Recipe) -> None:
    on = [key for key in ("fsdp", "deepspeed") if getattr(recipe, key)]
    if len(on) > 1:
        raise RecipeError("fsdp and deepspeed: each shards the model in its own way. Set one.")
    if recipe.fsdp_config and not recipe.fsdp:
        raise RecipeError("fsdp_config: belongs to fsdp, which is off. Set fsdp: true.")
    for key in on:
        sharded(recipe, key)


def sharded(recipe: Recipe, key: str) -> None:
    """RecipeError for what ftlab cannot train on a sharded model; ``key`` is fsdp or deepspeed."""
    stage, method = recipe.stage, recipe.finetuning_type
    free = stage == "dpo" and recipe.pref_loss in REFERENCE_FREE
    if stage in ONLINE:
        raise RecipeError(f"{key}: stage {stage} samples answers in one process. Remove the key.")
    if stage not in ("pt", "sft", "rm") and not free:
        raise RecipeError(
            f"{key}: stage {stage} needs a whole reference model beside the sharded one. Remove "
            "the key (DDP), or use stage dpo with pref_loss orpo or simpo."
        )
    if recipe.quantization_bit is not None:
        raise RecipeError(
            f"{key} and quantization_bit={recipe.quantization_bit}: quantized weights are not "
            "sharded here. Set one: QLoRA with DDP, or 16-bit weights in parts."
        )
    if method not in ("full", "freeze", "lora"):
        raise RecipeError(f"{key}: trains full, freeze or lora, and finetuning_type is {method}.")
    special = {
        "use_dora": recipe.use_dora, "pissa_init": recipe.pissa_init,
        "init_lora_weights": recipe.init_lora_weights in ("olora", "loftq"),
        "loraplus_lr_ratio": recipe.loraplus_lr_ratio is not None,
        "optim": not recipe.optim.startswith("adamw_torch"),
        **{name: getattr(recipe, name) for name in OPTIMIZERS},
    }  # fmt: skip
    for name, on in special.items():
        if on:
            raise RecipeError(f"{key} and {name}: not together. Remove one of the two.")


# Which stage reads a key, and with which pref_loss.
STAGE_READS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pref_loss": (("dpo",), ()),
    "pref_beta": (("dpo", "kto"), ()),
    "pref_ftx": (("dpo", "kto"), ()),
    "dpo_label_smoothing": (("dpo",), ()),
    "simpo_gamma": (("dpo",), ("simpo",)),
    "ld_alpha": (("dpo",), ()),
    "kto_chosen_weight": (("kto",), ()),
    "kto_rejected_weight": (("kto",), ()),
    "precompute_ref_log_probs": (("dpo", "kto"), ()),
    "ref_model": (("dpo", "kto", *ONLINE), ()),
    "ref_model_adapters": (("dpo", "kto", *ONLINE), ()),
    "ref_model_quantization_bit": (("dpo", "kto", *ONLINE), ()),
    "lora_dropout": (("pt", "sft", "rm"), ()),
    "train_sampling_strategy": (("pt", "sft", *PREFERENCE), ()),
    # An answer drawn from a part of the distribution is not the policy's own.
    **dict.fromkeys(("top_k", "top_p", "repetition_penalty"), (("pt", "sft", *PREFERENCE), ())),
}


def _resting_stage(recipe: Recipe, knobs: dict[str, Knob]) -> Iterator[str]:
    """A sentence for each key that was set and that the stage does not read."""
    for name, item in knobs.items():
        stages, losses = STAGE_READS.get(name, ((), ()))
        stages = stages or (ONLINE if item.group == "online" else ())
        if not stages or getattr(recipe, name) == item.default:
            continue
        if recipe.stage not in stages:
            yield f"{name}: no effect in stage {recipe.stage}."
        elif losses and recipe.pref_loss not in losses:
            yield f"{name}: no effect with pref_loss {recipe.pref_loss}."


def _notices(recipe: Recipe) -> Iterator[str]:
    windows = recipe.neat_packing or (
        recipe.packing is not False if recipe.stage == "pt" else recipe.packing
    )
    if recipe.train_sampling_strategy == "group_by_length" and windows:
        yield "group_by_length: no effect with packing, whose windows are of one length."
    if recipe.stage == "ppo" and not recipe.kl_coef and recipe.ppo_target:
        yield "kl_coef=0: KL costs nothing, and ppo_target, which scales it, changes nothing."
    if recipe.packing and recipe.stage == "sft" and not recipe.neat_packing:
        yield (
            "packing: samples that share a window do not see each other here; LLaMA-Factory "
            "lets them, unless neat_packing is true."
        )
    if recipe.pissa_init and not recipe.pissa_convert:
        yield (
            "pissa_init: the adapter is saved as a LoRA of twice the rank that fits the base as "
            "it was (pissa_convert); LLaMA-Factory would save a changed base beside it."
        )
    if recipe.finetuning_type == "adalora":
        yield (
            "adalora: the training loss holds a penalty that keeps A and B orthogonal; the eval "
            "loss does not."
        )
    if recipe.stage == "dpo" and recipe.ld_alpha is not None:
        yield (
            "ld_alpha: weighs the tail of the reference's log-probabilities too, as in the paper "
            "and in TRL; LLaMA-Factory weighs the policy's alone."
        )
    if recipe.use_unsloth:
        yield from _unsloth_notices(recipe)
    if recipe.use_badam:
        yield "use_badam: keeps its place in no checkpoint, so a stopped run starts anew."
    if recipe.use_galore and (recipe.weight_decay or recipe.adam_beta1 != 0.9):
        yield "use_galore: transformers passes it neither weight_decay nor Adam's betas."


def _unsloth_notices(recipe: Recipe) -> Iterator[str]:
    if not (recipe.use_unsloth_gc or recipe.gradient_checkpointing):
        yield (
            "use_unsloth: activations are kept, which is quickest; LLaMA-Factory would recompute "
            "them. use_unsloth_gc: true does that, for long texts or little memory."
        )
    if recipe.flash_attn != "auto":
        yield "flash_attn: no effect with use_unsloth, which chooses by itself."
    if recipe.lora_dropout:
        yield "lora_dropout: Unsloth's LoRA kernels are quickest without."


def _resting(recipe: Recipe, knobs: dict[str, Knob]) -> Iterator[str]:
    """A sentence for each key that was set and that the chosen method does not read."""
    for name, item in knobs.items():
        value, readers = getattr(recipe, name), READ_BY.get(item.group)
        if readers is None or recipe.finetuning_type in readers or value == item.default:
            continue
        if name == "additional_target" and recipe.finetuning_type not in (
            *PROMPTS, "full", "freeze",
        ):  # fmt: skip
            continue
        if name == "lora_alpha" and value == 2 * recipe.lora_rank:
            continue  # the default, written out
        yield f"{name}: no effect with finetuning_type {recipe.finetuning_type}."
