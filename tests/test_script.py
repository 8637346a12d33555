"""A recipe copied as plain TRL Python trains the same thing, without ftlab."""

import ast
import subprocess
import sys

import pytest

import ftlab

BRIEF = {
    "dataset": "world_qa",
    "max_samples": 24,
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "save_strategy": "no",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"finetuning_type": "full"},
        {"template": "qwen", "enable_thinking": False},
        {"neat_packing": True, "cutoff_len": 128},
        {"stage": "pt", "dataset": "world_text", "cutoff_len": 32},
        {"train_sampling_strategy": "sequential"},
        {"finetuning_type": "prompt_tuning"},
        {"finetuning_type": "full", "use_galore": True, "galore_update_interval": 2},
    ],
)
def test_the_script_runs_without_ftlab_and_gives_the_same_losses(changes, tmp_path):
    recipe = ftlab.Recipe(**{**BRIEF, **changes}, output_dir=str(tmp_path / "out"))
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nsys.modules['ftlab'] = None  # importing it would fail\n"
        + recipe.to_python()
        + "print('LOSSES', [h['loss'] for h in trainer.state.log_history if 'loss' in h])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOSSES"))
    run = ftlab.train(recipe, save=False, quiet=True)
    ours = [record["loss"] for record in run.history]
    assert ast.literal_eval(line.removeprefix("LOSSES ")) == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 10},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"template": "qwen", "lora_target": "q_proj,v_proj"},
        {"stage": "pt", "dataset": "world_text"},
        {"finetuning_type": "oft"},
        {"finetuning_type": "vera", "lora_rank": 64},
        {"finetuning_type": "ia3"},
        {"finetuning_type": "ln_tuning"},
        {"finetuning_type": "prefix_tuning"},
        {"finetuning_type": "p_tuning"},
        {"quantization_bit": 4},
        {"quantization_bit": 8, "use_rslora": True},
        {"flash_attn": "disabled", "torch_compile": True, "use_unsloth": False},
    ],
)
def test_every_kind_of_recipe_becomes_valid_python(changes):
    source = ftlab.Recipe(**{**BRIEF, **changes}).to_python()
    ast.parse(source)
    assert "import ftlab" not in source and "from ftlab" not in source


def test_turns_are_converted_by_their_tags(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(
        '[{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}]'
    )
    source = ftlab.Recipe(dataset=str(path)).to_python()
    assert "'human': 'user'" in source and 'turn["from"]' in source


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_history": True},
        {"truncation_strategy": "left"},
        {"mix_strategy": "interleave_over"},
        {"pissa_init": True},
        {"init_lora_weights": "olora"},
        {"loraplus_lr_ratio": 4},
        {"use_muon": True},
        {"quantization_method": "hqq", "quantization_bit": 4},
        {"finetuning_type": "bottleneck"},
        {"finetuning_type": "adalora"},
        {"use_unsloth": True},
        {"use_unsloth_gc": True},
        {"flash_attn": "sdpa", "stage": "dpo", "dataset": "polite_pairs"},
    ],
)
def test_what_a_plain_script_cannot_do_is_refused(changes):
    with pytest.raises(ftlab.RecipeError, match=f"{next(iter(changes))}.*a plain TRL script"):
        ftlab.Recipe(**{**BRIEF, **changes}).to_python()


def test_a_recipe_without_data_says_so():
    with pytest.raises(ftlab.RecipeError, match="names none"):
        ftlab.Recipe().to_python()
