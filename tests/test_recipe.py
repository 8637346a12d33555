"""The recipe: LLaMA-Factory's keys in, the same keys out, and one clear error for a bad one."""

import dataclasses

import pytest
import yaml

from ftlab import Recipe, RecipeError
from ftlab.recipe import EXTENSIONS, KNOBS, NO_EFFECT
from ftlab.recipe.known import _LACKS

# The file of a published LLaMA-Factory tutorial, its model and data replaced.
TUTORIAL = """
model_name_or_path: tiny  # the model
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset: world_qa
template: qwen
cutoff_len: 1024
max_samples: 103505
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/qwen2-7b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""


def test_a_llamafactory_yaml_is_read_as_it_is():
    recipe = Recipe.from_yaml(TUTORIAL)
    assert (recipe.template, recipe.cutoff_len, recipe.learning_rate) == ("qwen", 1024, 1e-4)
    assert recipe.gradient_accumulation_steps == 8 and recipe.eval_steps == 500


def test_keys_without_effect_are_announced_not_swallowed():
    recipe = Recipe.from_yaml(TUTORIAL)
    assert len(recipe.notices) == len(recipe.replace(seed=1).notices) == 2


def test_defaults_are_those_of_llamafactory():
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.num_train_epochs, recipe.cutoff_len) == (5e-5, 3.0, 2048)
    assert (recipe.lora_rank, recipe.alpha, recipe.lora_dropout) == (8, 16, 0.0)
    assert recipe.finetuning_type == "lora" and recipe.freeze_trainable_layers == 2


def test_every_value_survives_the_way_through_yaml():
    recipe = Recipe(learning_rate=3e-4, lora_rank=4, dataset="world_qa", val_size=0.1)
    again = Recipe.from_yaml(recipe.to_yaml())
    changed = again.changes_from(recipe)
    # The shipped model and data are named by folder and alpha is written out; nothing else moves.
    assert set(changed) == {"model_name_or_path", "template", "dataset_dir", "lora_alpha"}
    assert again.alpha == recipe.alpha


def test_saving_writes_every_value_that_is_set():
    saved = yaml.safe_load(Recipe(dataset="world_qa").to_yaml())
    missing = {name for name in KNOBS if name not in saved} - set(EXTENSIONS)
    assert all(KNOBS[name].default is None for name in missing)
    assert saved["template"] == "qwen3_nothink" and saved["model_name_or_path"].endswith("tiny")


def test_a_saved_recipe_has_no_key_that_llamafactory_would_refuse():
    saved = yaml.safe_load(Recipe(dataset="world_qa").to_yaml())
    assert not set(EXTENSIONS) & set(saved)
    changed = Recipe(dataset="world_qa", truncation_strategy="left")
    assert Recipe.from_yaml(changed.to_yaml()).truncation_strategy == "left"


def test_a_yaml_1_1_string_is_read_as_the_number_it_looks_like():
    assert isinstance(yaml.safe_load("lr: 1e-4")["lr"], str)
    assert Recipe.from_yaml("learning_rate: 1e-4\nstage: sft\n").learning_rate == 1e-4


def test_no_means_no_where_yaml_reads_false():
    assert yaml.safe_load("eval_strategy: no") == {"eval_strategy": False}
    assert Recipe.from_yaml("eval_strategy: no\nsave_strategy: no\n").save_strategy == "no"
    with pytest.raises(RecipeError, match="expected text, found bool"):
        Recipe.from_yaml("stage: no\n")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rnk": 8}, "Did you mean 'lora_rank'"),
        ({"lora_rank": 0}, "out of range"),
        ({"lora_rank": 2.5}, "a whole number"),
        ({"lora_rank": [8]}, "a whole number"),
        ({"learning_rate": "fast"}, "a number"),
        ({"learning_rate": float("nan")}, "out of range"),
        ({"learning_rate": None}, "needs a value"),
        ({"bf16": "yes"}, "true or false"),
        ({"stage": "sftt"}, "Did you mean 'sft'"),
        ({"stage": "sfd"}, "choose one of pt, sft.*Did you mean .sft"),
        ({"use_llama_pro": True}, "has no LLaMA Pro"),
        ({"pref_bco_weight": 0.1}, "has no BCO"),
        ({"template": "llama9"}, "knows alpaca, chatml.*Did you mean 'llama3'"),
        ({"val_size": 0.1, "eval_dataset": "x"}, "not both"),
        ({"train_on_prompt": True, "mask_history": True}, "exclude each other"),
        ({"bf16": True, "fp16": True}, "Choose one precision"),
        ({"truncation_strategy": "right"}, "choose one of error, delete, left, split"),
        ({"interleave_probs": "0.5,0.5"}, "needs mix_strategy"),
        ({"mix_strategy": "interleave_under", "interleave_probs": "half"}, "write numbers"),
    ],
)
def test_a_bad_key_or_value_is_one_clear_error(values, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: sft\nstage: pt\n", "line 2: key 'stage' appears twice"),
        ("stage: [sft\n", r"recipe:2:1: not readable as YAML"),
        ("- stage\n- sft\n", "expected lines of `key: value`"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text)


def test_a_missing_file_suggests_the_nearest(tmp_path):
    (tmp_path / "train.yaml").write_text("stage: sft\n")
    with pytest.raises(RecipeError, match=r"Did you mean train\.yaml"):
        Recipe.from_yaml(tmp_path / "trian.yaml")


def test_a_feature_that_is_switched_off_may_be_named():
    Recipe(use_galore=False, quantization_bit=None, deepspeed=None, mix_strategy="concat")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finetuning_type": "oft", "use_dora": True}, "use_dora: for LoRA only"),
        ({"finetuning_type": "full", "loraplus_lr_ratio": 2}, "loraplus_lr_ratio: for LoRA only"),
        ({"pissa_init": True, "init_lora_weights": "olora"}, "both say how A and B start"),
        ({"pissa_init": True, "use_dora": True}, "use_dora with pissa_init"),
        ({"pissa_init": True, "pissa_iter": 0}, "or -1 for the exact one"),
        ({"finetuning_type": "oft", "oft_rank": 4}, "Set one of the two and the other to 0"),
        ({"finetuning_type": "p_tuning", "neat_packing": True}, "packed samples need positions"),
        ({"finetuning_type": "prefix_tuning", "gradient_checkpointing": True}, "does not work"),
        ({"finetuning_type": "full", "adapter_name_or_path": "x"}, "trains no adapter"),
        ({"finetuning_type": "full", "quantization_bit": 4}, "quantized weights cannot be trained"),
        ({"finetuning_type": "freeze", "quantization_bit": 8}, "cannot be trained"),
        ({"quantization_bit": 6}, "bnb knows 8, 4. Choose one"),
        ({"quantization_bit": 7, "quantization_method": "hqq"}, "hqq knows 8, 6, 5, 4, 3, 2, 1"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, "fetches its kernels"),
        ({"quantization_bit": 4, "pissa_init": True}, "changes the base's weights"),
        ({"quantization_bit": 8, "init_lora_weights": "loftq"}, "needs quantization_bit: 4"),
        ({"init_lora_weights": "loftq"}, "needs quantization_bit: 4"),
        ({"quantization_bit": 8, "use_dora": True}, "Use quantization_bit: 4"),
        ({"quantization_bit": 4, "adapter_name_or_path": "a,b"}, "cannot be merged into quantized"),
        ({"use_galore": True}, "use_galore: works on whole weight matrices.*Use full or freeze"),
        ({"finetuning_type": "full", "use_galore": True, "use_muon": True}, "Set one of them"),
        ({"use_muon": True, "optim": "sgd"}, "two optimizers. Leave optim out"),
    ],
)
def test_keys_that_exclude_each_other_say_so_before_anything_is_loaded(values, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**values)


def test_a_key_that_the_chosen_method_does_not_read_is_announced():
    recipe = Recipe(finetuning_type="full", lora_rank=4, bottleneck_size=8)
    assert recipe.notices == [
        "lora_rank: no effect with finetuning_type full.",
        "bottleneck_size: no effect with finetuning_type full.",
    ]
    assert not recipe.replace(finetuning_type="lora", bottleneck_size=64).notices
    assert not Recipe(finetuning_type="adalora", lora_rank=4).notices[1:]
    assert not Recipe(finetuning_type="ia3", additional_target="embed_tokens").notices
    assert not Recipe.from_yaml(Recipe(finetuning_type="full").to_yaml()).notices


def test_packing_says_where_it_differs_from_llamafactory():
    assert "LLaMA-Factory lets them" in Recipe(packing=True).notices[0]
    assert not Recipe(packing=True, neat_packing=True).notices
    assert not Recipe(stage="pt", packing=True).notices


def test_shares_are_numbers():
    recipe = Recipe(mix_strategy="interleave_over", interleave_probs="0.7, 0.3")
    assert recipe.shares == [0.7, 0.3] and Recipe().shares is None


def test_checkpointing_is_switched_off_by_llama_factorys_key_too():
    assert not Recipe(disable_gradient_checkpointing=True).gradient_checkpointing
    on = Recipe(gradient_checkpointing=True, disable_gradient_checkpointing=False)
    assert on.gradient_checkpointing
    with pytest.raises(RecipeError, match="contradict each other. Set one"):
        Recipe(gradient_checkpointing=True, disable_gradient_checkpointing=True)


def test_no_key_is_in_two_tables():
    assert not set(KNOBS) & set(NO_EFFECT) and not (set(KNOBS) | set(NO_EFFECT)) & set(_LACKS)


def test_every_parameter_has_help_and_its_default_is_valid():
    for item in KNOBS.values():
        assert 5 < len(item.help) < 80, item.name
    assert Recipe(**{f.name: f.default for f in dataclasses.fields(Recipe)}) == Recipe()


def test_changes_name_what_differs():
    base = Recipe()
    assert base.replace(lora_rank=32).changes_from(base) == {"lora_rank": (8, 32)}
