"""Export: whatever format a model is written in, plain libraries read it and it answers alike."""

import gc
import json
import shutil
import subprocess
import sys
import weakref

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ftlab
from ftlab import checkpoints
from ftlab.cli import main
from ftlab.export import FORMATS, PROMPTS, distance, logits

TINY = str(ftlab.data_dir() / "tiny")


def in_16_bits(folder, dtype=torch.bfloat16):
    """The shipped model, stored in 16 bits."""
    shutil.copytree(TINY, folder)
    AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).save_pretrained(folder)
    return str(folder)


def module():
    """The module: the package binds the function of the same name in its place."""
    return sys.modules["ftlab.export"]


def refused(out, message, error=ftlab.ModelError, model="tiny", **options):
    """One sentence, and nothing is left behind."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(error, match=message):
        ftlab.export(model, out, **options)
    assert sorted(out.parent.rglob("*")) == before


# What comes out ---------------------------------------------------------------------------------


def test_a_model_without_adapter_is_written_anew_in_smaller_files(tmp_path):
    report = ftlab.export("tiny", tmp_path / "out", shard_gb=0.002)
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1 and report.rounding == report.reloaded == 0
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for name, tensor in load_file(f"{TINY}/model.safetensors").items():
        assert torch.equal(stored[name], tensor)
    checkpoints.verify(tmp_path / "out")


def test_the_folder_of_a_full_run_is_exported(tmp_path, tiny):
    recipe = ftlab.Recipe(
        finetuning_type="full", max_steps=2, learning_rate=1e-3, output_dir=str(tmp_path / "run")
    )
    rows = ftlab.read("world_qa").take(8)
    run = ftlab.train(recipe, rows, model=tiny[0], tokenizer=tiny[1], quiet=True)
    report = ftlab.export(str(run.folder), tmp_path / "out", format="gguf_q8_0")
    assert report.same_answers is not None and (tmp_path / "out" / "model.gguf").is_file()


ASK = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
answers = []
for folder in sys.argv[1:-1]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.quantization_config.quant_method == "bitsandbytes"
    for text in json.loads(sys.argv[-1]):
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=16, do_sample=False)
        new = out[0, ids["input_ids"].shape[1]:]
        answers.append(tokenizer.decode(new, skip_special_tokens=True))
print(json.dumps(answers))
"""


def test_quantized_folders_load_in_plain_transformers_and_answer_as_reported(tmp_path, tiny):
    model, tokenizer = tiny
    formats, folders = ("bnb_int8", "bnb_nf4"), []
    reports = [ftlab.export("tiny", tmp_path / name, format=name) for name in formats]
    folders = [str(report.folder) for report in reports]
    call = [sys.executable, "-c", ASK, *folders, json.dumps(PROMPTS)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    wanted = ftlab.generate(model, tokenizer, PROMPTS, max_new_tokens=16)
    for number, report in enumerate(reports):
        found = answers[number * len(PROMPTS) : (number + 1) * len(PROMPTS)]
        assert report.same_answers == sum(a == b for a, b in zip(found, wanted, strict=True))
        assert 0 < report.rounding < 5 and not (report.folder / "whole").exists()
    assert reports[0].rounding < reports[1].rounding  # 8 bits are nearer than 4
    size = (tmp_path / "bnb_nf4" / "model.safetensors").stat().st_size
    assert size < 0.5 * (ftlab.data_dir() / "tiny" / "model.safetensors").stat().st_size


def test_a_16_bit_model_keeps_its_precision(tmp_path):
    base = in_16_bits(tmp_path / "base", torch.float16)
    report = ftlab.export(base, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert report.dtype == "float16" and {t.dtype for t in stored.values()} == {torch.float16}


def test_a_template_by_name_travels(tmp_path):
    ftlab.export("tiny", tmp_path / "out", template="alpaca", default_system="")
    assert "### Response:" in ftlab.models.load_tokenizer(str(tmp_path / "out")).chat_template


def test_memory_holds_one_model_at_a_time(tmp_path, monkeypatch):
    """A 1.8 GB model took 4.2 GB: the merged one was alive while the folder was read again."""
    made, read = [], module()._read
    load = ftlab.models.load

    def remember(*arguments, **options):
        model, tokenizer = load(*arguments, **options)
        made.append(weakref.ref(model))
        return model, tokenizer

    def check(*arguments):
        gc.collect()
        assert made[0]() is None
        return read(*arguments)

    monkeypatch.setattr(ftlab.models, "load", remember)
    monkeypatch.setattr(module(), "_read", check)
    ftlab.export("tiny", tmp_path / "out")


# Logits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bit_weights_are_computed_in_fp32(dtype, tiny):
    half = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).eval()
    whole = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).eval()
    for weight in whole.parameters():
        weight.data = weight.data.float()
    before = {name: tensor.clone() for name, tensor in half.state_dict().items()}
    assert distance(logits(half, tiny[1]), logits(whole, tiny[1])) < 1e-5
    assert distance(logits(half, tiny[1], None), logits(whole, tiny[1])) > 1e-3
    after = half.state_dict()
    assert all(torch.equal(after[n], t) and after[n].dtype == dtype for n, t in before.items())
    assert not any("forward" in vars(module) for module in half.modules())


def test_logits_of_a_batch_are_those_of_each_prompt(tiny):
    model, tokenizer = tiny
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in PROMPTS]
    assert distance(logits(model, tokenizer), alone) < 1e-5


# Refusals ---------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(tmp_path):
    refused(tmp_path / "out", "ftlab writes safetensors, bnb_int8", format="gptq")


@pytest.mark.parametrize("format", FORMATS)
def test_an_existing_target_is_refused_in_every_format(tmp_path, format):
    (tmp_path / "out").mkdir()
    refused(tmp_path / "out", "exists already", ftlab.CheckpointError, format=format)


def test_the_models_own_folder_is_refused(tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    model = str(tmp_path / "base")
    refused(tmp_path / "base" / "out", "own folder", ftlab.CheckpointError, model=model)


def test_a_quantized_model_is_not_rounded_once_more(tmp_path):
    ftlab.export("tiny", tmp_path / "nf4", format="bnb_nf4")
    model = str(tmp_path / "nf4")
    refused(tmp_path / "out", "quantized.*16- or 32-bit", model=model, format="gguf_q4_0")


def test_an_adapter_folder_is_no_model(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused(tmp_path / "out", "adapter", model=str(tmp_path / "adapter"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch, format):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(tmp_path / "out", "1 MB of disk are free", ftlab.EnvironmentProblem, format=format)


@pytest.mark.parametrize("format", ["safetensors", "bnb_nf4", "gguf_f16"])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch, format):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module(), "_read", fail)
    with pytest.raises(KeyboardInterrupt):
        ftlab.export("tiny", tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


# Command line -----------------------------------------------------------------------------------


def test_export_of_a_recipe_without_adapter(tmp_path, capsys):
    keys = {
        "model_name_or_path": "tiny", "template": "qwen3_nothink",
        "export_dir": str(tmp_path / "out"), "export_format": "gguf_q8_0",
    }  # fmt: skip
    (tmp_path / "export.yaml").write_text(yaml.safe_dump(keys))
    assert main(["export", str(tmp_path / "export.yaml")]) == 0
    assert "tiny as gguf_q8_0" in capsys.readouterr().out
    assert (tmp_path / "out" / "Modelfile").read_text().startswith("FROM ./model.gguf\n")


def test_what_llamafactory_calls_a_quantized_export_stays_an_error():
    with pytest.raises(ftlab.RecipeError, match="export_quantization_bit=4.*no quantized export"):
        ftlab.Recipe(export_dir="out", export_quantization_bit=4)
    with pytest.raises(ftlab.RecipeError, match="choose one of safetensors, bnb_int8"):
        ftlab.Recipe(export_format="gptq")


def test_several_adapters_are_merged_one_by_one(tmp_path, capsys):
    recipe = tmp_path / "export.yaml"
    recipe.write_text(yaml.safe_dump({"adapter_name_or_path": "a,b", "export_dir": "out"}))
    assert main(["export", str(recipe)]) == 2
    assert "names several adapters" in capsys.readouterr().err
