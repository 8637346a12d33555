"""Recipe: every parameter once, with its default, range and one line of help; YAML in and out.

A recipe is a LLaMA-Factory YAML file: the field names are its keys and the defaults are its
defaults (LLaMA-Factory 0.9.5), except for ``logging_steps`` and ``report_to``, which do not
change what is trained. Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ftlab.data.registry import data_dir
from ftlab.errors import RecipeError
from ftlab.recipe import rules
from ftlab.recipe.knobs import Knob, convert, knob
from ftlab.recipe.known import EXTENSIONS, NO_EFFECT, check_keys, renamed
from ftlab.recipe.strict_yaml import parse_yaml
from ftlab.templates import named

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop",
    "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_8bit", "paged_lion_8bit",
)  # fmt: skip
# LLaMA-Factory knows the first four; the others are PEFT's and, last, our own.
METHODS = (
    "full", "freeze", "lora", "oft", "adalora", "vera", "ia3", "ln_tuning",
    "prompt_tuning", "prefix_tuning", "p_tuning", "bottleneck",
)  # fmt: skip
# LLaMA-Factory knows the first six; the others are our own.
STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto", "grpo", "rloo")
# LLaMA-Factory knows the first five; robust is our own.
PREF_LOSSES = ("sigmoid", "hinge", "ipo", "orpo", "simpo", "robust")
# What happens to rows longer than cutoff_len (the key is ms-swift's; LLaMA-Factory cuts silently).
STRATEGIES = ("error", "delete", "left", "split")
ORDERS = ("random", "group_by_length", "sequential")
MIXES = ("concat", "interleave_under", "interleave_over")


@dataclass(init=False, eq=True)
class Recipe:
    """All parameters of one run. Unknown keys and bad values raise RecipeError.

    >>> Recipe(stage="sft", finetuning_type="lora", lora_rank=8, learning_rate="1e-3").learning_rate
    0.001
    """

    # model
    model_name_or_path: str = knob("tiny", "base model: tiny, a folder or a hub name", "model")
    adapter_name_or_path: str | None = knob(
        None, "adapter to train on; of several, comma-separated, the last", "model"
    )
    create_new_adapter: bool = knob(False, "merge those adapters and train a new one", "model")
    template: str | None = knob(None, "chat format; empty: the tokenizer's own", "model")
    default_system: str | None = knob(None, "system prompt for rows without one", "model")
    enable_thinking: bool = knob(True, "learn the think block too; false: it is given", "model")
    stage: str = knob("sft", "what kind of training", "model", choices=STAGES)
    do_train: bool = knob(True, "train the model", "model")
    finetuning_type: str = knob("lora", "which parameters train", "model", choices=METHODS)
    rope_scaling: str | None = knob(
        None,
        "read longer texts than the base was trained on",
        "model",
        choices=("linear", "dynamic", "yarn", "llama3"),
    )
    # quantization
    quantization_bit: int | None = knob(
        None, "bits of a frozen base weight; empty: not quantized", "quantization", low=1, high=8
    )
    quantization_method: str = knob(
        "bnb", "library that quantizes", "quantization", choices=("bnb", "hqq", "eetq")
    )
    quantization_type: str = knob(
        "nf4", "the 16 values of 4 bits (bnb)", "quantization", choices=("nf4", "fp4")
    )
    double_quantization: bool = knob(True, "quantize the constants too (bnb)", "quantization")
    # data
    dataset: str | None = knob(
        None, "names in dataset_info.json, or files, comma-separated", "data"
    )
    eval_dataset: str | None = knob(None, "held-out data; not together with val_size", "data")
    dataset_dir: str | None = knob(None, "folder of dataset_info.json; empty: shipped data", "data")
    max_samples: int | None = knob(
        None, "use only the first rows: fewer rows overfit sooner", "data", low=1, slider=(16, 1000)
    )
    val_size: float = knob(0.0, "rows held out for eval loss: share or count", "data", low=0)
    cutoff_len: int = knob(2048, "longest example in tokens", "data", low=4, slider=(32, 512))
    train_on_prompt: bool = knob(False, "also learn to write the question", "data")
    mask_history: bool = knob(False, "learn the last answer only", "data")
    truncation_strategy: str = knob(
        "error", "rows over cutoff_len: stop, or cut whole turns", "data", choices=STRATEGIES
    )
    packing: bool | None = knob(None, "fill windows with several samples (pt: on)", "data")
    neat_packing: bool = knob(False, "pack whole samples that do not see each other", "data")
    mix_strategy: str = knob(
        "concat", "several datasets: one after the other or by turns", "data", choices=MIXES
    )
    interleave_probs: str | None = knob(None, "share of each dataset, such as 0.7,0.3", "data")
    # learning
    learning_rate: float = knob(
        5e-5,
        "step size: too low learns nothing, too high forgets or blows up",
        "learning",
        low=0,
        high=10,
        scale="log",
        slider=(1e-5, 1e-1),
    )
    num_train_epochs: float = knob(
        3.0, "passes over the data: more passes memorize more", "learning", low=0, slider=(1, 20)
    )
    max_steps: int = knob(
        -1, "stop after this many steps; -1: by epochs", "learning", low=-1, slider=(10, 300)
    )
    weight_decay: float = knob(
        0.0,
        "pull weights toward zero: more regularizes",
        "learning",
        low=0,
        high=1,
        slider=(0, 0.5),
    )
    max_grad_norm: float = knob(
        1.0, "longest gradient step: lower is calmer", "learning", low=0, slider=(0.1, 5)
    )
    neftune_noise_alpha: float | None = knob(None, "noise on embeddings", "learning", low=0)
    optim: str = knob("adamw_torch", "optimizer", "learning", choices=OPTIMIZERS)
    loraplus_lr_ratio: float | None = knob(
        None, "LoRA+: B learns this many times faster than A", "learning", low=0, slider=(1, 32)
    )
    loraplus_lr_embedding: float = knob(1e-6, "LoRA+: learning rate of embeddings", "learning")
    adam_beta1: float = knob(0.9, "memory of the gradient", "learning", low=0, high=1)
    adam_beta2: float = knob(0.999, "memory of its square", "learning", low=0, high=1)
    adam_epsilon: float = knob(1e-8, "floor of Adam's divisor", "learning", low=0)
    seed: int = knob(42, "order of rows and fresh weights", "learning", low=0, slider=(0, 99))
    bf16: bool = knob(False, "compute in bfloat16 where the device has it", "learning")
    fp16: bool = knob(False, "compute in float16 with loss scaling", "learning")
    pure_bf16: bool = knob(False, "keep weights in bfloat16 too", "learning")
    # lora
    lora_rank: int = knob(
        8,
        "width of the update: more can learn more",
        "lora",
        low=1,
        high=1024,
        scale="log",
        slider=(1, 64),
    )
    lora_alpha: int | None = knob(
        None,
        "strength: the update is scaled by alpha/rank; empty: 2 x rank",
        "lora",
        low=1,
        high=4096,
        scale="log",
        slider=(1, 256),
    )
    lora_dropout: float = knob(
        0.0, "share of inputs dropped: more regularizes", "lora", low=0, high=0.99, slider=(0, 0.5)
    )
    lora_target: str = knob("all", "which linear layers, comma-separated; all: every one", "lora")
    additional_target: str | None = knob(None, "modules trained whole and saved along", "lora")
    use_rslora: bool = knob(False, "scale by alpha/sqrt(rank)", "lora")
    use_dora: bool = knob(False, "learn direction and length apart (DoRA)", "lora")
    pissa_init: bool = knob(False, "start from the largest singular vectors (PiSSA)", "lora")
    pissa_iter: int = knob(16, "steps of its fast SVD; -1: the exact one", "lora", low=-1)
    pissa_convert: bool = knob(False, "save as a plain LoRA of twice the rank", "lora")
    init_lora_weights: str = knob(
        "default",
        "how A and B start",
        "lora",
        choices=("default", "gaussian", "orthogonal", "olora", "loftq"),
    )
    # the other adapters
    oft_rank: int = knob(0, "OFT: number of blocks; 0: by oft_block_size", "oft", low=0)
    oft_block_size: int = knob(
        32, "OFT: size of a rotated block", "oft", low=0, scale="log", slider=(4, 64)
    )
    oft_target: str = knob("all", "which linear layers, comma-separated; all: every one", "oft")
    module_dropout: float = knob(0.0, "OFT: share of blocks left alone", "oft", low=0, high=0.99)
    num_virtual_tokens: int = knob(
        20,
        "prompt, prefix, P-tuning: length of the learned prompt",
        "virtual",
        low=1,
        slider=(1, 64),
    )
    bottleneck_size: int = knob(
        64,
        "width of the bottleneck adapter: more can learn more",
        "bottleneck",
        low=1,
        scale="log",
        slider=(1, 128),
    )
    # freeze
    freeze_trainable_layers: int = knob(2, "train the last n layers; -n: the first", "freeze")
    freeze_trainable_modules: str = knob("all", "modules inside them, comma-separated", "freeze")
    freeze_extra_modules: str | None = knob(None, "modules outside the layers", "freeze")
    # preferences
    pref_loss: str = knob("sigmoid", "how pairs are compared", "preference", choices=PREF_LOSSES)
    pref_beta: float = knob(
        0.1,
        "pull to the reference: lower strays further",
        "preference",
        low=0,
        high=10,
        scale="log",
        slider=(0.01, 1),
    )
    pref_ftx: float = knob(
        0.0, "share of SFT loss on the chosen answer", "preference", low=0, slider=(0, 2)
    )
    dpo_label_smoothing: float = knob(
        0.0, "share of pairs that may be swapped", "preference", low=0, high=0.49, slider=(0, 0.4)
    )
    simpo_gamma: float = knob(
        0.5, "SimPO: margin that chosen has to win by", "preference", low=0, slider=(0, 3)
    )
    ld_alpha: float | None = knob(
        None, "weight of tokens beyond the shorter answer", "preference", low=0, high=1
    )
    kto_chosen_weight: float = knob(
        1.0, "KTO: weight of good answers", "preference", low=0, slider=(0, 4)
    )
    kto_rejected_weight: float = knob(
        1.0, "KTO: weight of bad answers", "preference", low=0, slider=(0, 4)
    )
    ref_model: str | None = knob(None, "reference; empty: the model at the start", "preference")
    ref_model_adapters: str | None = knob(None, "adapters of ref_model", "preference")
    ref_model_quantization_bit: int | None = knob(
        None, "bits of ref_model's weights", "preference", low=1, high=8
    )
    precompute_ref_log_probs: bool = knob(
        False, "ask the reference once, before training", "preference"
    )
    # answers that the model samples itself
    reward_model: str | None = knob(None, "reward model: a run folder of stage rm", "online")
    reward_model_type: str = knob(
        "lora", "what reward_model is: an adapter or a model", "online", choices=("lora", "full")
    )
    reward_model_adapters: str | None = knob(None, "adapters of reward_model", "online")
    reward_model_quantization_bit: int | None = knob(
        None, "bits of reward_model's weights", "online", low=1, high=8
    )
    reward_funcs: str | None = knob(None, "rewards by rule, comma-separated", "online")
    ppo_epochs: int = knob(
        4, "passes over each batch of sampled answers", "online", low=1, slider=(1, 8)
    )
    ppo_buffer_size: int = knob(1, "batches sampled before each update", "online", low=1)
    ppo_target: float = knob(
        6.0, "KL to the reference to aim at", "online", low=0, slider=(0.1, 20)
    )
    ppo_score_norm: bool = knob(False, "divide scores by their spread", "online")
    ppo_whiten_rewards: bool = knob(False, "whiten rewards before advantages", "online")
    kl_coef: float = knob(
        0.1, "price of straying from the reference", "online", low=0, slider=(0, 1)
    )
    cliprange: float = knob(
        0.2, "PPO, GRPO: largest change of a probability", "online", low=0, slider=(0.05, 0.5)
    )
    num_generations: int = knob(
        8, "GRPO, RLOO: answers to each question", "online", low=2, slider=(2, 16)
    )
    # batch
    per_device_train_batch_size: int = knob(
        8, "rows per step: more is smoother and slower", "batch", low=1, scale="log", slider=(1, 64)
    )
    gradient_accumulation_steps: int = knob(
        1, "batches added up before each update", "batch", low=1, slider=(1, 16)
    )
    train_sampling_strategy: str = knob(
        "random", "order of rows; grouped by length: less padding", "batch", choices=ORDERS
    )
    per_device_eval_batch_size: int = knob(8, "rows per evaluation batch", "batch", low=1)
    gradient_checkpointing: bool = knob(False, "recompute activations to save memory", "batch")
    # speed and memory
    use_unsloth: bool | None = knob(
        None, "train with Unsloth's kernels; empty: where that pays", "speed"
    )
    use_unsloth_gc: bool = knob(
        False, "recompute activations and keep their seeds in main memory", "speed"
    )
    flash_attn: str = knob(
        "auto", "how attention is computed", "speed", choices=("auto", "sdpa", "fa2", "disabled")
    )
    enable_liger_kernel: bool = knob(False, "train with Liger's kernels", "speed")
    torch_compile: bool = knob(False, "compile the model: a slow start, quicker steps", "speed")
    dataloader_num_workers: int = knob(0, "processes that load batches", "batch", low=0)
    # several processes
    deepspeed: str | dict | None = knob(
        None, "DeepSpeed: its JSON file, or the same in place", "processes"
    )
    fsdp: str | bool | None = knob(None, "true: shard the model (FSDP2)", "processes")
    fsdp_config: str | dict | None = knob(
        None, "FSDP: its JSON file, or the same in place", "processes"
    )
    ddp_timeout: int = knob(1800, "seconds to wait for another process", "processes", low=1)
    # schedule
    lr_scheduler_type: str = knob(
        "linear", "how the learning rate moves over the run", "schedule", choices=SCHEDULES
    )
    warmup_ratio: float = knob(
        0.0, "share of steps that ramp the rate up", "schedule", low=0, high=1, slider=(0, 0.5)
    )
    warmup_steps: float = knob(0, "steps of ramp-up; wins over warmup_ratio", "schedule", low=0)
    # evaluation and output
    eval_strategy: str = knob(
        "no", "when to compute the eval loss", "evaluation", choices=("no", "steps", "epoch")
    )
    eval_steps: float | None = knob(None, "steps between evaluations", "evaluation", low=0)
    logging_steps: float = knob(1, "steps between points of the curve", "output", low=0)
    save_strategy: str = knob(
        "steps", "when to write checkpoints", "output", choices=("no", "steps", "epoch")
    )
    save_steps: float = knob(500, "steps between checkpoints", "output", low=0)
    save_total_limit: int | None = knob(None, "keep only the newest checkpoints", "output", low=1)
    output_dir: str | None = knob(None, "run folder; empty: runs/<time>-<name>", "output")
    overwrite_output_dir: bool = knob(False, "move an earlier run aside first", "output")
    plot_loss: bool = knob(False, "write the loss picture into the run folder", "output")
    run_name: str | None = knob(None, "name of the run", "output")
    # export
    export_dir: str | None = knob(None, "folder that the merged model goes to", "export")
    export_size: int = knob(5, "largest file of weights in GB", "export", low=1, high=100)
    export_device: str = knob("cpu", "where to merge", "export", choices=("cpu", "auto"))
    export_legacy_format: bool = knob(False, "pickled weights: never written", "export")
    export_format: str = knob(
        "safetensors",
        "files to write: safetensors, a quantized folder, or one GGUF file",
        "export",
        choices=("safetensors", "bnb_int8", "bnb_nf4", "gguf_f16", "gguf_q8_0", "gguf_q4_0"),
    )
    # optimizers beside optim
    use_galore: bool = knob(False, "GaLore: project gradients to a low rank", "optimizer")
    galore_target: str = knob("all", "linear layers it works on", "optimizer")
    galore_rank: int = knob(
        16, "rank of the projection", "optimizer", low=1, scale="log", slider=(4, 64)
    )
    galore_update_interval: int = knob(
        200, "steps between projections", "optimizer", low=1, slider=(5, 200)
    )
    galore_scale: float = knob(2.0, "strength of the update", "optimizer", low=0, slider=(0.25, 4))
    galore_proj_type: str = knob(
        "std",
        "side that is projected",
        "optimizer",
        choices=("std", "reverse_std", "right", "left", "full"),
    )
    galore_layerwise: bool = knob(False, "update layer by layer", "optimizer")
    use_apollo: bool = knob(False, "APOLLO: learning rates from a low-rank sketch", "optimizer")
    apollo_target: str = knob("all", "linear layers it works on", "optimizer")
    apollo_rank: int = knob(
        16, "rank of the sketch", "optimizer", low=1, scale="log", slider=(4, 64)
    )
    apollo_update_interval: int = knob(
        200, "steps between sketches", "optimizer", low=1, slider=(5, 200)
    )
    apollo_scale: float = knob(32.0, "strength of the update", "optimizer", low=0)
    apollo_proj: str = knob("random", "kind of sketch", "optimizer", choices=("random", "svd"))
    apollo_scale_type: str = knob(
        "channel", "one rate for", "optimizer", choices=("channel", "tensor")
    )
    apollo_layerwise: bool = knob(False, "update layer by layer", "optimizer")
    apollo_scale_front: bool = knob(False, "scale before the norm limit", "optimizer")
    use_badam: bool = knob(False, "BAdam: train one block of layers at a time", "optimizer")
    badam_mode: str = knob(
        "layer", "blocks: layers, or shares", "optimizer", choices=("layer", "ratio")
    )
    badam_switch_mode: str = knob(
        "ascending",
        "order of the blocks",
        "optimizer",
        choices=("ascending", "descending", "random", "fixed"),
    )
    badam_switch_interval: int = knob(
        50, "steps on each block", "optimizer", low=1, slider=(5, 100)
    )
    badam_update_ratio: float = knob(
        0.05, "share updated in mode ratio", "optimizer", low=0, high=1, slider=(0.05, 1)
    )
    use_adam_mini: bool = knob(False, "Adam-mini: one rate for a block of weights", "optimizer")
    use_muon: bool = knob(False, "Muon: orthogonal updates of matrices", "optimizer")
    # tracking
    report_to: str = knob("none", "tracker of transformers", "tracking")
    use_swanlab: bool = knob(False, "track with SwanLab", "tracking")
    swanlab_project: str = knob("llamafactory", "SwanLab project", "tracking")
    swanlab_run_name: str | None = knob(None, "SwanLab experiment", "tracking")
    swanlab_workspace: str | None = knob(None, "SwanLab workspace", "tracking")
    swanlab_mode: str = knob(
        "offline",
        "offline keeps all on this machine",
        "tracking",
        choices=("offline", "local", "cloud", "disabled"),
    )
    swanlab_logdir: str | None = knob(None, "folder of SwanLab's files", "tracking")
    # generation
    do_sample: bool = knob(True, "sample answers (chat); evaluation is greedy", "generation")
    temperature: float = knob(0.95, "higher is more random", "generation", low=0)
    top_p: float = knob(0.7, "sample from the likeliest share", "generation", low=0, high=1)
    top_k: int = knob(50, "sample from the likeliest tokens", "generation", low=0)
    max_new_tokens: int = knob(1024, "longest answer in tokens", "generation", low=1)
    repetition_penalty: float = knob(1.0, "above 1 avoids repeating", "generation", low=0)

    def __init__(self, **values: Any) -> None:
        values = renamed(values)
        check_keys(values, KNOBS)
        for name, item in KNOBS.items():
            setattr(self, name, convert(item, values[name]) if name in values else item.default)
        self.notices = [NO_EFFECT[key] for key in values if key in NO_EFFECT]
        self.notices += rules.check(self, KNOBS)
        if self.template is not None:
            named(self.template)
        _ = self.shares

    @property
    def system_prompt(self) -> str | None:
        """The system prompt for rows without one: ``default_system``, or the template's."""
        own = named(self.template).default_system if self.template else None
        return (own if self.default_system is None else self.default_system) or None

    @property
    def shares(self) -> list[float] | None:
        """``interleave_probs`` as numbers."""
        try:
            return [
                float(part) for part in (self.interleave_probs or "").split(",") if part
            ] or None
        except ValueError as error:
            raise RecipeError(
                f"interleave_probs={self.interleave_probs!r}: write numbers, such as 0.7,0.3."
            ) from error

    @property
    def alpha(self) -> int:
        """LoRA's alpha: ``lora_alpha``, or twice the rank when that is empty."""
        return self.lora_alpha or 2 * self.lora_rank

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some values changed."""
        changed = Recipe(**{**self.to_dict(), **changes})
        kept = [notice for notice in self.notices if notice in NO_EFFECT.values()]
        changed.notices = kept + changed.notices
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value."""
        return {name: getattr(self, name) for name in KNOBS}

    def changes_from(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """The keys whose values differ, as ``{key: (value in other, value here)}``."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {key: (theirs[key], mine[key]) for key in mine if theirs[key] != mine[key]}

    def to_yaml(self) -> str:
        """The recipe as a LLaMA-Factory YAML with every value written out.

        The shipped model and data are named by their folders and the template by the name whose
        rendering there equals ours, so that LLaMA-Factory trains the same thing.
        """
        values = self.to_dict()
        if self.model_name_or_path == "tiny":
            values["model_name_or_path"] = str(data_dir() / "tiny")
            values["template"] = self.template or "qwen3_nothink"
        values["dataset_dir"] = self.dataset_dir or str(data_dir())
        values["lora_alpha"] = self.alpha
        ours = {key for key in EXTENSIONS if values[key] == KNOBS[key].default}
        kept = {k: value for k, value in values.items() if value is not None and k not in ours}
        return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Recipe:
        """Read a YAML file (a path) or YAML text (a string with a line break)."""
        if isinstance(source, str) and "\n" in source:
            return cls(**parse_yaml(source, "recipe"))
        path = Path(source)
        if not path.is_file():
            near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RecipeError(f"{path}: no such recipe file.{hint}")
        values = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
        try:
            return cls(**values)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    def to_python(self) -> str:
        """The run as a plain TRL and PEFT script that needs no ftlab."""
        from ftlab.script import training_script

        return training_script(self)


def _knobs() -> dict[str, Knob]:
    kinds = get_type_hints(Recipe)
    words = {name: getattr(kind, "__name__", str(kind)) for name, kind in kinds.items()}
    return {f.name: Knob(f.name, words[f.name], f.default, **f.metadata) for f in fields(Recipe)}


KNOBS: dict[str, Knob] = _knobs()
