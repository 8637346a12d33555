"""A recipe as a plain TRL and PEFT script: what ftlab.train does, for readers and elsewhere.

Taught in notebooks/07_sft.ipynb.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.data.formats import Format
from ftlab.data.registry import data_dir, locate
from ftlab.errors import RecipeError

if TYPE_CHECKING:
    from ftlab.adapters.methods import Configuration
    from ftlab.recipe import Recipe

_HEAD = '''"""{title} with TRL {trl} and PEFT. Written by ftlab from a recipe; needs no ftlab."""

from datasets import concatenate_datasets, load_dataset
{imports}from transformers import AutoModelForCausalLM, AutoTokenizer{quantized}, set_seed
from trl import SFTConfig, SFTTrainer

MODEL = {model!r}
FILES = {files!r}
SYSTEM = {system!r}  # system prompt of rows that bring none

tokenizer = AutoTokenizer.from_pretrained(MODEL)
{template}model = AutoModelForCausalLM.from_pretrained(MODEL, dtype={dtype!r}{loading})
'''

_ALPACA = '''

def to_messages(row):
    """One Alpaca row as a conversation."""
    question = "\\n".join(part for part in (row["{prompt}"], row.get("{query}")) if part)
    system = row.get("{system}") or SYSTEM
    messages = [{{"role": "system", "content": system}}] if system else []
    for asked, answered in row.get("{history}") or []:
        messages += [
            {{"role": "user", "content": asked}},
            {{"role": "assistant", "content": answered}},
        ]
    messages += [
        {{"role": "user", "content": question}},
        {{"role": "assistant", "content": row["{response}"]}},
    ]
    return {{"messages": messages}}
'''

_TURNS = '''

ROLES = {roles!r}


def to_messages(row):
    """One row of turns as a conversation."""
    messages = [
        {{"role": ROLES[turn["{role_tag}"]], "content": turn["{content_tag}"]}}
        for turn in row["{messages}"]
    ]
    system = row.get("{system}") or SYSTEM
    if system and messages[0]["role"] != "system":
        messages.insert(0, {{"role": "system", "content": system}})
    return {{"messages": messages}}
'''

_TEXT = '''

END = "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.eos_token


def to_messages(row):
    """One text, closed by end-of-text (SFTTrainer would add the end of a chat turn to a text)."""
    return {{"input_ids": tokenizer(row["{prompt}"] + END)["input_ids"]}}
'''

_DATA = """

parts = [load_dataset("json", data_files=file, split="train") for file in FILES]
rows = concatenate_datasets([p.map(to_messages, remove_columns=p.column_names) for p in parts])
{select}{split}"""

_TAIL = """
set_seed({seed})
{freeze}trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset={train},
    eval_dataset={eval},
    peft_config={peft},
    args=SFTConfig(
{arguments}
    ),
)
trainer.train()
trainer.save_model({output!r})
"""


def training_script(recipe: Recipe) -> str:
    """The script; raises RecipeError or DataError when the recipe's data cannot be found."""
    from importlib.metadata import version

    from ftlab.hardware import here, precision
    from ftlab.models import model_folder

    if not recipe.dataset:
        raise RecipeError("dataset: the recipe names none, so a script could not load it.")
    if recipe.stage not in ("pt", "sft"):
        from ftlab.preference_script import preference_script

        return preference_script(recipe)
    refuse(recipe, _BEYOND_A_SCRIPT)
    if recipe.init_lora_weights in ("olora", "loftq"):
        raise RecipeError("init_lora_weights: a plain TRL script starts LoRA by its config only.")
    files, form = _files(recipe)
    config = _peft(recipe)
    head = _HEAD.format(
        title=recipe.run_name or f"{recipe.finetuning_type} {recipe.stage}",
        trl=version("trl"),
        imports=f"from peft import {config.name}\n" if config else "",
        quantized=", BitsAndBytesConfig" if recipe.quantization_bit else "",
        loading=_loading(recipe),
        model=model_folder(recipe.model_name_or_path),
        files=files,
        system=recipe.system_prompt,
        template=_template(recipe),
        dtype=precision(recipe, here()).weights,
    )
    held_out = f"rows.train_test_split(test_size={_size(recipe.val_size)}, seed={recipe.seed})"
    data = _DATA.format(
        select=f"rows = rows.select(range(min({recipe.max_samples}, len(rows))))\n"
        if recipe.max_samples
        else "",
        split=f"split = {held_out}\n" if recipe.val_size else "",
    )
    tail = _TAIL.format(
        seed=recipe.seed,
        freeze=_FREEZE.format(names=_unfrozen(recipe))
        if recipe.finetuning_type == "freeze"
        else "",
        train='split["train"]' if recipe.val_size else "rows",
        eval='split["test"]' if recipe.val_size else "None",
        peft=config or "None",
        arguments=_arguments(recipe),
        output=recipe.output_dir or "out",
    )
    return head + _converter(form) + data + tail


# keys whose effect TRL has no argument for, with the value that has none
_BEYOND_A_SCRIPT = {
    "mask_history": False, "truncation_strategy": "error", "mix_strategy": "concat",
    "pissa_init": False, "loraplus_lr_ratio": None, "use_badam": False, "use_adam_mini": False,
    "use_muon": False, "rope_scaling": None, "adapter_name_or_path": None,
    "quantization_method": "bnb", "use_unsloth": None, "use_unsloth_gc": False,
    "enable_liger_kernel": False,
}  # fmt: skip


def refuse(recipe: Recipe, beyond: dict[str, Any]) -> None:
    """RecipeError for a key that is set to something else than its value in ``beyond``."""
    for key, plain in beyond.items():
        if getattr(recipe, key) not in (plain, False):
            raise RecipeError(f"{key}: a plain TRL script cannot do that. Leave it at {plain!r}.")


def _template(recipe: Recipe) -> str:
    """The lines that give the tokenizer the recipe's chat format."""
    lines = []
    if recipe.template:
        from transformers import AutoTokenizer

        from ftlab import templates
        from ftlab.models import model_folder

        tokenizer = AutoTokenizer.from_pretrained(model_folder(recipe.model_name_or_path))
        tokenizer = templates.apply(tokenizer, recipe.template, recipe.default_system)
        lines += [f"tokenizer.chat_template = {tokenizer.chat_template!r}"]
        lines += [f"tokenizer.eos_token = {tokenizer.eos_token!r}"]
    if not recipe.enable_thinking:
        off = "{%- set enable_thinking = false %}"
        lines += [f"tokenizer.chat_template = {off!r} + tokenizer.chat_template"]
    return "".join(f"{line}\n" for line in lines)


_FREEZE = """TRAINED = {names!r}
for name, parameter in model.named_parameters():
    parameter.requires_grad_(name in TRAINED)
"""


def _files(recipe: Recipe) -> tuple[list[str], Format]:
    folder = Path(recipe.dataset_dir) if recipe.dataset_dir else data_dir()
    found = locate(recipe.dataset or "", folder)
    odd = [path for path, _ in found if path.suffix not in (".json", ".jsonl")]
    if odd or any(form != found[0][1] for _, form in found):
        raise RecipeError(
            f"dataset: a script reads JSON files of one format, {recipe.dataset} are not."
        )
    return [str(path) for path, _ in found], found[0][1]


def _converter(form: Format) -> str:
    """The function that turns a row of this dataset into what SFTTrainer reads."""
    columns = {role: role for role in ("query", "system", "history")} | form.columns
    if form.tags:
        tags = form.tags
        roles = {tags[f"{role}_tag"]: role for role in ("system", "user", "assistant")}
        return _TURNS.format(
            roles=roles, **columns, **{k: tags[k] for k in ("role_tag", "content_tag")}
        )
    return (_ALPACA if "response" in columns else _TEXT).format(**columns)


def _arguments(recipe: Recipe) -> str:
    """The arguments that differ from SFTConfig's own, plus those whose defaults would mislead."""
    from dataclasses import fields

    from trl import SFTConfig

    from ftlab import sharding
    from ftlab.arguments import training_arguments
    from ftlab.batches import packs

    ours = training_arguments(recipe, Path(recipe.output_dir or "out"))
    keys = [f.name for f in fields(SFTConfig) if f.init and f.name in _SCRIPT_KEYS]
    values = {key: getattr(ours, key) for key in keys}
    values |= {key: getattr(ours, key) for key in ("optim_target_modules", "optim_args")
               if getattr(ours, key)}  # fmt: skip
    values |= {"output_dir": recipe.output_dir or "out", "report_to": "none"}
    values |= sharding.keys(recipe)
    values |= {"assistant_only_loss": recipe.stage == "sft" and not recipe.train_on_prompt}
    values |= {
        "max_length": recipe.cutoff_len,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        **({"torch_compile": True} if recipe.torch_compile else {}),
    }
    if recipe.train_sampling_strategy != "random":
        values["train_sampling_strategy"] = recipe.train_sampling_strategy
    if packs(recipe):
        values |= {"packing": True, "packing_strategy": "bfd"}
    elif recipe.stage == "pt" and recipe.packing is not False:
        values |= {"packing": True, "packing_strategy": "wrapped"}
    return "\n".join(f"        {key}={_plain(value)!r}," for key, value in values.items())


_SCRIPT_KEYS = {
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "bf16",
    "fp16", "use_cpu", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "adam_beta1",
    "adam_beta2", "adam_epsilon", "neftune_noise_alpha", "seed", "eval_strategy", "eval_steps",
    "logging_steps", "logging_nan_inf_filter", "save_strategy", "save_steps",
}  # fmt: skip


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # enums of transformers as their words


def _peft(recipe: Recipe) -> Configuration | None:
    """The configuration that SFTTrainer gives to PEFT; None where no adapter trains."""
    from ftlab.adapters.methods import configuration

    method = recipe.finetuning_type
    if method in ("adalora", "bottleneck"):
        raise RecipeError(f"finetuning_type={method}: a plain TRL script cannot do that.")
    return None if method in ("full", "freeze") else configuration(recipe)


def _loading(recipe: Recipe) -> str:
    """What ``from_pretrained`` is told besides the precision."""
    from ftlab.hardware import attention, here, packages, pick_device, pick_dtype

    how = attention(recipe.flash_attn, here(), packages())
    first = f", attn_implementation={how!r}" if how else ""
    if recipe.quantization_bit is None:
        return first
    device = pick_device().value
    if recipe.quantization_bit == 8:
        bits = "load_in_8bit=True"
    else:
        bits = (
            f"load_in_4bit=True, bnb_4bit_quant_type={recipe.quantization_type!r}, "
            f"bnb_4bit_use_double_quant={recipe.double_quantization}, "
            f"bnb_4bit_compute_dtype={pick_dtype(device).value!r}"
        )
    return f"{first}, device_map={device!r}, quantization_config=BitsAndBytesConfig({bits})"


def _unfrozen(recipe: Recipe) -> list[str]:
    from ftlab.adapters import unfrozen_names
    from ftlab.models import load

    return sorted(unfrozen_names(load(recipe.model_name_or_path)[0], recipe))


def _size(val_size: float) -> str:
    return repr(int(val_size) if val_size >= 1 else val_size)
