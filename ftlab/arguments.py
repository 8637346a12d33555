"""The recipe's keys as the arguments of transformers and TRL.

Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trl import SFTConfig

from ftlab import optimizers, sharding
from ftlab.adapters.methods import split
from ftlab.hardware import here, precision
from ftlab.recipe import Recipe


def common_arguments(recipe: Recipe, folder: Path | None = None) -> dict[str, Any]:
    """What every stage's configuration has: transformers' TrainingArguments by name."""
    hardware = here()
    device, autocast = hardware.device, precision(recipe, hardware).autocast
    warmup = recipe.warmup_steps or recipe.warmup_ratio  # below 1 a share, else steps
    return {
        "output_dir": str(folder or Path(tempfile.gettempdir()) / "ftlab-unsaved"),
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": recipe.per_device_eval_batch_size,
        "train_sampling_strategy": recipe.train_sampling_strategy,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "gradient_checkpointing": recipe.gradient_checkpointing or recipe.use_unsloth_gc,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        **optimizers.arguments(recipe),
        "adam_beta1": recipe.adam_beta1,
        "adam_beta2": recipe.adam_beta2,
        "adam_epsilon": recipe.adam_epsilon,
        "neftune_noise_alpha": recipe.neftune_noise_alpha,
        "seed": recipe.seed,
        "bf16": autocast == "bf16",
        "fp16": autocast == "fp16",
        "torch_compile": recipe.torch_compile,
        "eval_strategy": recipe.eval_strategy,
        "eval_steps": recipe.eval_steps,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # the default hides a NaN loss and trains on
        "save_strategy": recipe.save_strategy if folder else "no",
        "save_steps": recipe.save_steps,
        "dataloader_num_workers": recipe.dataloader_num_workers,
        "dataloader_pin_memory": device == "cuda",
        "use_cpu": device == "cpu",
        "report_to": [] if recipe.report_to == "none" else recipe.report_to.split(","),
        "disable_tqdm": True,
        **sharding.arguments(recipe),
    }


def training_arguments(
    recipe: Recipe, folder: Path | None = None, vocabulary: int = 0
) -> SFTConfig:
    """The recipe as TRL's SFTConfig, for a model with that many tokens in its vocabulary."""
    return SFTConfig(
        **common_arguments(recipe, folder),
        loss_type=loss_type(recipe, vocabulary),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def loss_type(recipe: Recipe, vocabulary: int) -> str:
    """TRL's name of how the loss is computed. Its default is in chunks, which saves memory with a
    vocabulary of 150,000 tokens and costs time with one of 2,000; Unsloth and Liger have kernels
    for that, and an adapter on the output layer needs whole logits."""
    kernels = recipe.use_unsloth or recipe.enable_liger_kernel
    adapted = "lm_head" in [*split(recipe.lora_target), *split(recipe.oft_target)]
    return "chunked_nll" if vocabulary > 32_000 and not (kernels or adapted) else "nll"
