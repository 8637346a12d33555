"""A model in parts: FSDP2 and DeepSpeed ZeRO by the recipe's keys or by accelerate's configuration.

With DDP every process holds the whole model. Sharded, each holds a part of its optimizer state
(ZeRO-1), of its gradients too (ZeRO-2), of its weights too (ZeRO-3, FSDP). (Rajbhandari et al.
2020, ZeRO; Zhao et al. 2023, PyTorch FSDP.) Taught in notebooks/18_beyond_one_gpu.ipynb.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab import processes
from ftlab.errors import CheckpointError, EnvironmentProblem, RecipeError
from ftlab.recipe import rules

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

# What each way divides among the processes.
DIVIDED = {
    "ddp": (), "zero1": ("optimizer",), "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights", "adapters"),
    "fsdp": ("optimizer", "gradients", "weights", "adapters"),
}  # fmt: skip
# The words of fsdp as text (LLaMA-Factory, transformers before 5) and what they say in fsdp_config.
WORDS: dict[str, dict[str, Any]] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "offload": {"cpu_offload": True},
    "auto_wrap": {},
}
# The variables by which accelerate launch says that it was configured to shard, and what it said.
SWITCHES = {"fsdp": "ACCELERATE_USE_FSDP", "deepspeed": "ACCELERATE_USE_DEEPSPEED"}
BY_LAUNCHER = {key for key, name in SWITCHES.items() if os.environ.get(name, "").lower() == "true"}
FSDP_KEYS = (
    "version", "reshard_after_forward", "cpu_offload", "activation_checkpointing",
    "cpu_ram_efficient_loading", "state_dict_type", "auto_wrap_policy",
    "transformer_layer_cls_to_wrap", "min_num_params",
)  # fmt: skip


def bytes_per_process(parts: dict[str, int], how: str, processes: int) -> dict[str, int]:
    """Bytes that one process holds of each part of a training run (name -> bytes of the whole).

    ``how`` is a key of ``DIVIDED``. Activations and logits depend on a process's own batch: give
    them for one process. Left out: what is gathered for one layer at a time, and buffers.

    >>> bytes_per_process({"weights": 8, "optimizer": 32}, "zero2", 4)
    {'weights': 8, 'optimizer': 8}
    """
    if how not in DIVIDED:
        raise RecipeError(f"{how!r}: choose one of {', '.join(DIVIDED)}.")
    return {
        name: -(-size // processes) if name in DIVIDED[how] else size
        for name, size in parts.items()
    }


def kind(recipe: Recipe) -> str | None:
    """``fsdp`` or ``deepspeed``, by the recipe or by accelerate launch; None with DDP or alone."""
    for name in SWITCHES:
        if getattr(recipe, name) or name in BY_LAUNCHER:
            return name
    return None


def forget() -> None:
    """Undo accelerate's note to itself that this process shards: the next run may not."""
    for name, variable in SWITCHES.items():
        if name not in BY_LAUNCHER:
            os.environ.pop(variable, None)


def check(recipe: Recipe) -> None:
    """RecipeError or EnvironmentProblem for what cannot be sharded, or not here."""
    how = kind(recipe)
    if how is None:
        return
    rules.sharded(recipe, how)
    if how in BY_LAUNCHER:
        _check_launcher(how)
    elif how == "fsdp":
        fsdp_settings(recipe)
    else:
        _check_zero(recipe)
    if not processes.launched():
        raise EnvironmentProblem(
            f"{how}: divides a model among several processes, and this is one. Start them with "
            f"{processes.START}, or leave the key out."
        )
    if how == "deepspeed":
        _check_deepspeed_runs()


def _check_launcher(how: str) -> None:
    """RecipeError where accelerate's configuration says what the key of the recipe may not say."""
    if how == "deepspeed":
        raise RecipeError(
            "accelerate launch was configured for DeepSpeed. Write it into the recipe instead, as "
            "deepspeed: FILE.json, and start with torchrun."
        )
    for key, wanted in (("version", "2"), ("state_dict_type", "FULL_STATE_DICT"),
                        ("cpu_ram_efficient_loading", "false")):  # fmt: skip
        found = os.environ.get(f"FSDP_{key.upper()}", "")
        if found.lower() != wanted.lower():
            raise RecipeError(
                f"accelerate's fsdp_config: fsdp_{key} is {found or 'not set'}, and ftlab needs "
                f"{wanted}. See examples/several/accelerate_fsdp2.yaml."
            )


def _check_deepspeed_runs() -> None:
    import torch

    if importlib.util.find_spec("deepspeed") is None:
        raise EnvironmentProblem("deepspeed: the package is missing: pip install deepspeed")
    if not torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu":
        raise EnvironmentProblem(
            "deepspeed: no GPU was found here. Leave the key out (DDP), or try fsdp: true, which "
            "runs on a CPU too."
        )


def fsdp_settings(recipe: Recipe) -> dict[str, Any]:
    """``fsdp`` and ``fsdp_config`` as transformers' ``fsdp_config``; RecipeError for what it or
    ftlab does not know."""
    given = _mapping("fsdp_config", recipe.fsdp_config)
    settings = {key.removeprefix("fsdp_"): value for key, value in given.items()}
    for key in settings:
        if key not in FSDP_KEYS:
            raise RecipeError(f"fsdp_config: no key {key!r}. There are: {', '.join(FSDP_KEYS)}.")
    for word in recipe.fsdp.split() if isinstance(recipe.fsdp, str) else ():
        if word not in WORDS:
            raise RecipeError(
                f"fsdp={recipe.fsdp!r}: {word!r} is none of FSDP2's: {', '.join(WORDS)}. Write "
                "fsdp: true and the rest in fsdp_config."
            )
        settings = WORDS[word] | settings
    wanted = {"version": 2, "state_dict_type": "FULL_STATE_DICT",
              "cpu_ram_efficient_loading": False}  # fmt: skip
    for key, value in wanted.items():
        if settings.setdefault(key, value) != value:
            raise RecipeError(
                f"fsdp_config: {key}={settings[key]!r}. ftlab needs {value!r}. Remove the key."
            )
    return settings


def zero_settings(recipe: Recipe) -> dict[str, Any]:
    """``deepspeed`` as a dict, read from its file where it is a path."""
    return _mapping("deepspeed", recipe.deepspeed)


def _check_zero(recipe: Recipe) -> None:
    settings = zero_settings(recipe)
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if recipe.deepspeed and stage not in (0, 1, 2, 3):
        raise RecipeError(f"deepspeed: zero_optimization.stage={stage!r}: choose 0, 1, 2 or 3.")
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        raise RecipeError(
            "deepspeed: with stage 3 the weights lie in parts, and a run folder needs them whole. "
            'Set "stage3_gather_16bit_weights_on_model_save": true in zero_optimization.'
        )


def _mapping(key: str, value: Any) -> dict[str, Any]:
    """A copy of a dict, or what the JSON file of that name holds."""
    if not isinstance(value, str):
        return copy.deepcopy(value) or {}
    path = Path(value)
    if not path.is_file():
        raise RecipeError(f"{key}: {path}: no such file.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{key}: {path}: not readable as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{key}: {path}: must hold a JSON object.")
    return found


def arguments(recipe: Recipe) -> dict[str, Any]:
    """What transformers' TrainingArguments are told of several processes."""
    if not processes.launched():
        return {}
    values: dict[str, Any] = {
        "ddp_timeout": recipe.ddp_timeout,
        "ddp_find_unused_parameters": False,  # every step uses all that trains
        **keys(recipe),
    }
    return values | ({"use_cpu": False} if recipe.deepspeed else {})


def keys(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys for sharding as transformers' TrainingArguments take them."""
    if recipe.fsdp:
        return {"fsdp": True, "fsdp_config": fsdp_settings(recipe)}
    return {"deepspeed": zero_settings(recipe)} if recipe.deepspeed else {}


def placement(recipe: Recipe) -> dict[str, str]:
    """How ``load`` is told to load: a model that will be sharded need not fit into one GPU."""
    return {} if kind(recipe) is None else {"device": "cpu"}


def enable(trainer: Any) -> None:
    """Shard on a CPU too, for which accelerate passes FSDP over, though torch's runs there.

    EnvironmentProblem where the model would not be sharded after all.
    """
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    how, state = kind(trainer.run.recipe), trainer.accelerator.state
    if how == "fsdp" and state.distributed_type == DistributedType.MULTI_CPU:
        given = trainer.args.fsdp_plugin_args
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**given or {})
        state.distributed_type, trainer.is_fsdp_enabled = DistributedType.FSDP, True
    sharded = {"fsdp": trainer.is_fsdp_enabled, "deepspeed": trainer.is_deepspeed_enabled}
    if how and not sharded[how]:
        raise EnvironmentProblem(
            f"{how}: accelerate does not shard on {state.device} with {state.num_processes} "
            "processes. Leave the key out."
        )


def weights(trainer: Any) -> dict[str, Any] | None:
    """The whole weights that training changed, on the CPU of the first process; None where the
    model is whole. Every process has to call this."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_fsdp_enabled:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    adapter = hasattr(trainer.model, "peft_config")  # its base is on disk already
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    found = get_model_state_dict(trainer.model, options=options)
    once = {name for name, _ in trainer.model.named_parameters()}  # of tied weights, one
    once |= {name for name, _ in trainer.model.named_buffers()}
    return {name: tensor for name, tensor in found.items() if name in once}


def check_checkpoint(recipe: Recipe, checkpoint: Path, before: int) -> None:
    """CheckpointError where a checkpoint was written in another way than this run goes on."""
    how = kind(recipe)
    was = "fsdp" if (checkpoint / "pytorch_model_fsdp.bin").is_file() else None
    was = "deepspeed" if (checkpoint / "latest").is_file() else was
    if how != was:
        raise CheckpointError(
            f"{checkpoint}: written with {was or 'DDP or one process'}, and this run goes on with "
            f"{how or 'DDP or one process'}. Resume as it was begun."
        )
    if how == "deepspeed" and before != processes.count():
        raise CheckpointError(
            f"{checkpoint}: DeepSpeed wrote one part of the optimizer for each of {before} "
            f"processes, and {processes.count()} were started. Resume with {before}."
        )
