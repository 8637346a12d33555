"""On a GPU: the engines agree, what Unsloth trains is PEFT's, fp16 stops where it overflows."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ftlab
from ftlab import engine, hardware

STEPS = {"max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
FAR = {"max_steps": 30, "learning_rate": 5e-3}  # far enough to see it through bf16's rounding
IDS = torch.arange(20, 84)[None]
# In the process of a run with Unsloth: its losses, and its own logits once trained.
IN_ONE_PROCESS = """
import sys
from ftlab import engine
engine.begin()
import ftlab, torch
from safetensors.torch import save_file
recipe = ftlab.Recipe.from_yaml(sys.argv[1])
run = ftlab.train(recipe, ftlab.read("world_qa").take(64), quiet=True)
with torch.no_grad():
    logits = run.model(torch.arange(20, 84, device=run.model.device)[None]).logits
save_file({"logits": logits.float().cpu().contiguous()}, sys.argv[2])
"""


def rows(name="world_qa", count=64):
    return ftlab.read(name).take(count)


def losses(recipe, data=None, **options):
    run = ftlab.train(recipe, rows() if data is None else data, save=False, quiet=True, **options)
    assert run.status == "finished", run.notices
    return [record["loss"] for record in run.history], run


def close(found, expected):
    """Within what bf16's eight bits leave of a mean over some hundred tokens."""
    return found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"quantization_bit": 4},
        {"finetuning_type": "full", "learning_rate": 1e-4},
        {"neat_packing": True, "cutoff_len": 256},
        {"use_unsloth_gc": True},
        {"stage": "dpo"},
        {"stage": "dpo", "pref_loss": "simpo"},
    ],
    ids=str,
)
def test_the_engines_have_the_same_losses_on_the_same_batches(unsloth, folder, keys):
    recipe = ftlab.Recipe(model_name_or_path=folder, **{**STEPS, **keys})
    data = rows("polite_pairs" if recipe.stage == "dpo" else "world_qa")
    fast, run = losses(recipe.replace(use_unsloth=True), data)
    plain, _ = losses(recipe.replace(use_unsloth=False), data)
    assert run.machine["engine"].startswith("unsloth")
    assert close(fast[0], plain[0]) and fast == pytest.approx(plain, rel=0.05)
    assert "unsloth" not in sys.modules


def test_an_adapter_of_unsloth_gives_the_same_logits_in_peft_and_merged(unsloth, folder, tmp_path):
    recipe = ftlab.Recipe(model_name_or_path=folder, **{**STEPS, **FAR}, use_unsloth=True,
                          output_dir=str(tmp_path / "run"))  # fmt: skip
    (tmp_path / "train.yaml").write_text(recipe.to_yaml())
    words = [str(tmp_path / name) for name in ("train.yaml", "logits.safetensors")]
    root = str(Path(ftlab.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, *words], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = load_file(words[1])["logits"]
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ftlab.merge(tmp_path / "run", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.bfloat16)
    with torch.no_grad():
        untouched = base.cuda()(IDS.cuda()).logits.float().cpu()
        peft = PeftModel.from_pretrained(base, tmp_path / "run")(IDS.cuda()).logits.float().cpu()
        whole = merged.cuda()(IDS.cuda()).logits.float().cpu()
    change = (expected - untouched).abs().mean()
    # Rounding is small beside what training changed, or the test would prove nothing.
    assert (peft - expected).abs().mean() < 0.1 * change
    assert (whole - expected).abs().mean() < 0.2 * change


def test_four_bits_train_after_they_were_evaluated(folder):
    """On some machines an evaluation repacks 4-bit weights, and then no gradient comes through."""
    model, tokenizer = ftlab.load(folder, quantization_bit=4)
    before = ftlab.evaluate(model, tokenizer, rows(count=16), metric="perplexity")
    recipe = ftlab.Recipe(model_name_or_path=folder, quantization_bit=4, **{**STEPS, **FAR})
    found, run = losses(recipe, model=model, tokenizer=tokenizer)
    assert found[-1] < 0.8 * found[0]
    after = ftlab.evaluate(run.model, tokenizer, rows(count=16), metric="perplexity")
    assert after.value < before.value


def test_an_overflow_in_fp16_stops_the_run(folder, tmp_path):
    """Weights whose activations pass float16's 65,504: the loss is not a number from the start."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    model.save_pretrained(tmp_path / "loud")
    tokenizer = import_module("ftlab.models").load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "loud")
    recipe = ftlab.Recipe(model_name_or_path=str(tmp_path / "loud"), **STEPS, fp16=True,
                          use_unsloth=False)  # fmt: skip
    run = ftlab.train(recipe, rows(), save=False, quiet=True)
    assert run.status == "not finite" and not run.history
    assert all(torch.isfinite(p).all() for p in run.model.parameters() if p.requires_grad)


def test_fp16_scales_its_loss_and_learns(folder):
    found, run = losses(ftlab.Recipe(model_name_or_path=folder, **STEPS, fp16=True))
    plain, _ = losses(ftlab.Recipe(model_name_or_path=folder, **STEPS, use_unsloth=False))
    assert "float16" in run.machine["precision"] and close(found[0], plain[0])


def test_what_trains_is_in_fp32_unless_pure_bf16_is_asked_for(folder):
    recipe = ftlab.Recipe(
        model_name_or_path=folder, finetuning_type="full", use_unsloth=False, **STEPS
    )
    for pure, kind in ((False, torch.float32), (True, torch.bfloat16)):
        _, run = losses(recipe.replace(pure_bf16=pure))
        assert {parameter.dtype for parameter in run.model.parameters()} == {kind}


def test_auto_takes_unsloth_for_a_model_that_is_worth_it(unsloth, folder):
    machine, found = hardware.here(), hardware.packages()
    recipe = ftlab.Recipe(model_name_or_path="Qwen/Qwen3-0.6B")
    assert engine.choose(recipe, machine, found).value == "unsloth"
    assert engine.settle(recipe)[0].use_unsloth
    small = engine.choose(ftlab.Recipe(model_name_or_path=folder), machine, found)
    assert small.value == "transformers" and "small model" in small.reason


@pytest.mark.parametrize("keys", [{}, {"stage": "dpo"}], ids=str)
def test_ligers_kernels_have_the_same_losses(liger_kernel, folder, keys):
    recipe = ftlab.Recipe(model_name_or_path=folder, **STEPS, **keys, use_unsloth=False)
    data = rows("polite_pairs" if recipe.stage == "dpo" else "world_qa")
    found, _ = losses(recipe.replace(enable_liger_kernel=True), data)
    assert found == pytest.approx(losses(recipe, data)[0], rel=0.05)


@pytest.mark.parametrize("packed", [False, True])
def test_flash_attention_2_has_the_same_losses(flash_attn, folder, packed):
    recipe = ftlab.Recipe(model_name_or_path=folder, **STEPS, neat_packing=packed,
                          cutoff_len=256, use_unsloth=False)  # fmt: skip
    found, run = losses(recipe.replace(flash_attn="fa2"))
    assert run.model.config._attn_implementation == "flash_attention_2"
    assert found == pytest.approx(losses(recipe)[0], rel=0.05)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_adam_in_eight_bits_learns_as_adam_does(folder, optim):
    recipe = ftlab.Recipe(model_name_or_path=folder, **STEPS, use_unsloth=False)
    found, run = losses(recipe.replace(optim=optim))
    assert found == pytest.approx(losses(recipe)[0], rel=0.05)


def test_a_compiled_model_has_the_same_losses_and_saves_as_any_other(folder, tmp_path):
    recipe = ftlab.Recipe(model_name_or_path=folder, **STEPS, use_unsloth=False,
                          cutoff_len=128, neat_packing=True)  # fmt: skip
    found, _ = losses(recipe.replace(torch_compile=True))
    assert found == pytest.approx(losses(recipe)[0], rel=0.05)


def test_activations_kept_in_main_memory_leave_the_gpu_room(folder):
    long = {"cutoff_len": 2048, "neat_packing": True, "use_unsloth": False, "max_steps": 2}
    recipe = ftlab.Recipe(model_name_or_path=folder, **{**STEPS, **long})
    data, peaks, found = rows(count=800), [], []
    for keys in ({}, {"gradient_checkpointing": True}, {"use_unsloth_gc": True}):
        numbers, run = losses(recipe.replace(**keys), data)
        peaks.append(run.summary["peak_memory_bytes"])
        found.append(numbers)
    assert peaks[0] > peaks[1] > peaks[2]
    assert found[1] == pytest.approx(found[2], rel=1e-3)


@pytest.mark.parametrize(
    "keys",
    [
        {"finetuning_type": "full"},
        {"finetuning_type": "freeze"},
        {"finetuning_type": "lora"},
        {"finetuning_type": "lora", "quantization_bit": 8},
        {"finetuning_type": "lora", "quantization_bit": 4},
    ],
    ids=str,
)
def test_the_predicted_peak_is_within_15_percent_of_the_measured_one(folder, keys):
    recipe = ftlab.Recipe(model_name_or_path=folder, **STEPS, **keys, use_unsloth=False,
                          cutoff_len=1024, neat_packing=True)  # fmt: skip
    _, run = losses(recipe, rows(count=800))
    assert ftlab.estimate(recipe).peak == pytest.approx(run.summary["peak_memory_bytes"], rel=0.15)
