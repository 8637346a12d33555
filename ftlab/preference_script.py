"""A recipe of stage rm, dpo or kto as a plain TRL and PEFT script; see `ftlab.script`.

Taught in notebooks/13_dpo.ipynb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlab import script
from ftlab.data.formats import Format
from ftlab.errors import RecipeError

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

_HEAD = '''"""{title} with TRL {trl}. Written by ftlab from a recipe; needs no ftlab."""

from datasets import concatenate_datasets, load_dataset
{imports}from transformers import {auto}, AutoTokenizer, set_seed
from trl import {config}, {trainer}

MODEL = {model!r}
FILES = {files!r}
SYSTEM = {system!r}  # system prompt of rows that bring none

tokenizer = AutoTokenizer.from_pretrained(MODEL)
{template}set_seed({seed})
model = {auto}.from_pretrained(MODEL, dtype={dtype!r}{labels})
'''

_ALPACA = '''

def to_trl(row):
    """One Alpaca row as TRL reads it."""
    question = "\\n".join(part for part in (row["{prompt}"], row.get("{query}")) if part)
    system = row.get("{system}") or SYSTEM
    prompt = [{{"role": "system", "content": system}}] if system else []
    for asked, answered in row.get("{history}") or []:
        prompt += [
            {{"role": "user", "content": asked}},
            {{"role": "assistant", "content": answered}},
        ]
    prompt.append({{"role": "user", "content": question}})
    return {{"prompt": prompt, {answers}}}
'''

_TURNS = '''

ROLES = {roles!r}


def turns(said):
    """A turn or a list of turns in TRL's words."""
    said = said if isinstance(said, list) else [said]
    return [{{"role": ROLES[t["{role_tag}"]], "content": t["{content_tag}"]}} for t in said]


def to_trl(row):
    """One row of turns as TRL reads it."""
    prompt = turns(row["{messages}"]){without}
    system = row.get("{system}") or SYSTEM
    if system and prompt[0]["role"] != "system":
        prompt.insert(0, {{"role": "system", "content": system}})
    return {{"prompt": prompt, {answers}}}
'''

_DATA = """

parts = [load_dataset("json", data_files=file, split="train") for file in FILES]
rows = concatenate_datasets([p.map(to_trl, remove_columns=p.column_names) for p in parts])
{select}{split}"""

_TAIL = """
{freeze}trainer = {trainer}(
    model=model,
    processing_class=tokenizer,
    train_dataset={train},
    eval_dataset={eval},
    peft_config={peft},
    args={config}(
{arguments}
    ),
)
trainer.train()
trainer.save_model({output!r})
"""

# What TRL does otherwise or not at all, with the value that needs none of it.
_OURS = {"pref_ftx": 0.0, "ref_model": None, "quantization_bit": None, "adapter_name_or_path": None,
         "flash_attn": "auto", "torch_compile": False}  # fmt: skip
_KINDS = {"rm": "Reward", "dpo": "DPO", "kto": "KTO"}


def preference_script(recipe: Recipe) -> str:
    """The script; RecipeError for what plain TRL computes otherwise."""
    from importlib.metadata import version

    from ftlab.hardware import here, precision
    from ftlab.models import model_folder

    _refuse(recipe)
    kind, scores = _KINDS[recipe.stage], recipe.stage == "rm"
    files, form = script._files(recipe)
    adapter = script._peft(recipe)
    names = {"config": f"{kind}Config", "trainer": f"{kind}Trainer"}
    head = _HEAD.format(
        title=recipe.run_name or f"{recipe.finetuning_type} {recipe.stage}",
        trl=version("trl"),
        imports=f"from peft import {adapter.name}\n" if adapter else "",
        auto="AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM",
        labels=", num_labels=1" if scores else "",
        model=model_folder(recipe.model_name_or_path),
        files=files,
        system=recipe.system_prompt,
        template=script._template(recipe),
        seed=recipe.seed,
        dtype=precision(recipe, here()).weights,
        **names,
    )
    size = script._size(recipe.val_size)
    first = f"rows = rows.select(range(min({recipe.max_samples}, len(rows))))\n"
    held_out = f"split = rows.train_test_split(test_size={size}, seed={recipe.seed})\n"
    data = _DATA.format(
        select=first if recipe.max_samples else "", split=held_out if recipe.val_size else ""
    )
    frozen = recipe.finetuning_type == "freeze"
    tail = _TAIL.format(
        freeze=script._FREEZE.format(names=_trained(recipe)) if frozen else "",
        train='split["train"]' if recipe.val_size else "rows",
        eval='split["test"]' if recipe.val_size else "None",
        peft=adapter or "None",
        arguments=_arguments(recipe),
        output=recipe.output_dir or "out",
        **names,
    )
    return head + _converter(form) + data + tail


def _refuse(recipe: Recipe) -> None:
    if recipe.stage not in _KINDS:
        raise RecipeError(f"stage: {recipe.stage} samples answers in ftlab's own loop; no script.")
    if recipe.stage == "dpo" and recipe.pref_loss in ("orpo", "simpo"):
        raise RecipeError(
            f"pref_loss={recipe.pref_loss}: TRL's trainer masks rows otherwise; there is no script."
        )
    if recipe.dpo_label_smoothing and recipe.pref_loss == "sigmoid":
        raise RecipeError("dpo_label_smoothing: TRL's sigmoid loss has none. Use pref_loss robust.")
    script.refuse(recipe, {**script._BEYOND_A_SCRIPT, **_OURS})
    if recipe.stage == "kto" and recipe.per_device_train_batch_size == 1:
        raise RecipeError("per_device_train_batch_size: TRL's KTOTrainer needs 2 or more.")
    if recipe.train_sampling_strategy != "random":
        raise RecipeError("train_sampling_strategy: TRL has no lengths of pairs. Leave it random.")


def _trained(recipe: Recipe) -> list[str]:
    return [*script._unfrozen(recipe), *(["score.weight"] if recipe.stage == "rm" else [])]


def _converter(form: Format) -> str:
    """The function that turns a row of this dataset into what TRL's trainer reads."""
    columns = {role: role for role in ("query", "system", "history")} | form.columns
    said = '[{{"role": "assistant", "content": row["{name}"]}}]'
    if form.tags:
        tags = form.tags
        roles = {tags[f"{role}_tag"]: role for role in ("system", "user", "assistant")}
        answers = {side: f'turns(row["{columns.get(side)}"])' for side in ("chosen", "rejected")}
        if form.kind == "kto":
            answers = {"completion": f'turns(row["{columns["messages"]}"])[-1:]'}
        values = {"without": "[:-1]" if form.kind == "kto" else "", "roles": roles}
        values |= {key: tags[key] for key in ("role_tag", "content_tag")}
    else:
        sides = {"completion": "response"} if form.kind == "kto" else {}
        sides = sides or {side: side for side in ("chosen", "rejected")}
        answers = {side: said.format(name=columns[role]) for side, role in sides.items()}
        values = {}
    if form.kind == "kto":
        answers["label"] = f'bool(row["{columns["kto_tag"]}"])'
    written = ", ".join(f'"{name}": {value}' for name, value in answers.items())
    return (_TURNS if form.tags else _ALPACA).format(answers=written, **columns, **values)


def _arguments(recipe: Recipe) -> str:
    """The arguments that differ from TRL's own, plus those whose defaults would mislead."""
    from pathlib import Path

    from ftlab import sharding
    from ftlab.alignment.preference import _TABLE
    from ftlab.arguments import common_arguments

    ours = common_arguments(recipe, Path(recipe.output_dir or "out"))
    values = {key: ours[key] for key in ours if key in script._SCRIPT_KEYS}
    values |= {"output_dir": recipe.output_dir or "out", "report_to": "none"}
    values |= sharding.keys(recipe)
    values |= {"gradient_checkpointing": recipe.gradient_checkpointing}
    values |= _TABLE[recipe.stage][2](recipe) | {"max_length": recipe.cutoff_len}
    return "\n".join(f"        {key}={script._plain(value)!r}," for key, value in values.items())
