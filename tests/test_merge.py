"""Merging: the merged folder answers as base and adapter did, and every bad pair is refused."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    LoraModel,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import ftlab
from ftlab import checkpoints, templates
from ftlab.cli import main
from ftlab.export import PROMPTS
from ftlab.ollama import go_template

TINY = str(ftlab.data_dir() / "tiny")
WEIGHTS = "adapter_model.safetensors"


def train(folder, tiny, **changes):
    """An adapter of ftlab, trained hard enough to change what the model says."""
    brief = {"max_steps": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    recipe = ftlab.Recipe(**{**brief, "output_dir": str(folder), **changes})
    rows = ftlab.read("world_qa").take(16)
    return ftlab.train(recipe, rows, model=tiny[0], tokenizer=tiny[1], quiet=True)


def by_peft(folder, plain=None, move=True, config=None, **changes):
    """An adapter of plain PEFT, with nothing of ftlab beside it; the model that it makes."""
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": not move, **changes}
    plain = plain or AutoModelForCausalLM.from_pretrained(TINY)
    model = get_peft_model(plain, config or LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    if move:
        for name, parameter in model.named_parameters():
            if "modules_to_save.default" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def logits(model, tokenizer):
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).logits for text in PROMPTS]


def distance(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def changed(folder, adapter, change):
    """A copy of an adapter, without its manifest, whose tensors went through ``change``."""
    shutil.copytree(adapter, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: change(name, tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


def refused(adapter, out, message, error=ftlab.ModelError, **options):
    """The merge raises one sentence, and the target stays as it was."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(error, match=message):
        ftlab.merge(adapter, out, **options)
    assert sorted(out.parent.rglob("*")) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    return train(tmp_path_factory.mktemp("runs") / "run", tiny, save_steps=2)


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "merged"
    return ftlab.merge(run.folder, out)


# What comes out ---------------------------------------------------------------------------------

ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
answers = []
for text in json.loads(sys.argv[2]):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}],
                                        add_generation_prompt=True, return_tensors="pt",
                                        return_dict=True)
    out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1]:]
    answers.append(tokenizer.decode(out, skip_special_tokens=True).strip())
assert not {"ftlab"} & set(sys.modules)
print(json.dumps(answers))
"""


def test_the_merged_folder_answers_in_plain_transformers_as_the_run_did(run, merged, tmp_path):
    questions = ["Where does Ada Quill live?", "What is 3 plus 4?", "你好"]
    call = [sys.executable, "-c", ASK, str(merged.folder), json.dumps(questions)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = run.ask(questions, max_new_tokens=24, do_sample=False)
    assert json.loads(done.stdout.splitlines()[-1]) == answers and any(answers)


def test_the_report_has_the_differences_it_measured(run, merged, tiny):
    assert merged.difference < 1e-4 and merged.reloaded < 1e-4 and merged.rounding < 1e-4
    assert merged.moved > 0.1 and merged.notes == [] and merged.dtype == "float32"
    plain = AutoModelForCausalLM.from_pretrained(merged.folder)
    found = distance(logits(plain, run.tokenizer), logits(run.model, run.tokenizer))
    assert found == pytest.approx(merged.rounding, abs=2e-5)
    assert f"{merged.moved:.1e}" in str(merged)


def test_the_folder_is_whole_and_the_run_untouched(run, merged):
    checkpoints.verify(merged.folder)
    checkpoints.verify(run.folder)
    assert not (merged.folder / "adapter_config.json").exists()
    assert ftlab.load(str(merged.folder))[1].chat_template == run.tokenizer.chat_template


def test_a_checkpoint_merges_too(run, tmp_path):
    report = ftlab.merge(run.folder / "checkpoint-2", tmp_path / "out")
    assert report.notes == [] and report.moved > 0


def test_an_adapter_of_plain_peft_merges_with_a_note_and_as_peft_does(tmp_path, tiny):
    model = by_peft(tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    report = ftlab.merge(tmp_path / "adapter", tmp_path / "out")
    assert any("was not checked" in note for note in report.notes) and report.source == TINY
    theirs = logits(model.merge_and_unload(safe_merge=True), tiny[1])
    ours = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), tiny[1])
    assert distance(ours, theirs) < 1e-5


def test_plain_peft_merges_an_adapter_of_ftlab_to_the_same(run, merged):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY), run.folder)
    ours = AutoModelForCausalLM.from_pretrained(merged.folder)
    theirs = model.eval().merge_and_unload()
    assert distance(logits(ours, run.tokenizer), logits(theirs, run.tokenizer)) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"use_dora": True},
    ],
    ids=str,
)
def test_tied_embeddings_answer_the_same_after_reading_again(tmp_path, tiny, changes):
    model = by_peft(tmp_path / "adapter", **changes)
    report = ftlab.merge(tmp_path / "adapter", tmp_path / "out")
    assert report.difference < 1e-4 and report.reloaded < 1e-4
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert distance(logits(again, tiny[1]), logits(model, tiny[1])) < 1e-4


def test_a_token_that_the_adapter_added_is_merged(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<new>"])
    grown = AutoModelForCausalLM.from_pretrained(TINY)
    grown.resize_token_embeddings(len(tokenizer))
    both = {"modules_to_save": ["embed_tokens", "lm_head"]}
    model = by_peft(tmp_path / "adapter", plain=grown, **both)
    tokenizer.save_pretrained(tmp_path / "adapter")
    report = ftlab.merge(tmp_path / "adapter", tmp_path / "out")
    assert report.difference < 1e-4 and report.reloaded < 1e-4
    again, its_tokenizer = ftlab.load(str(tmp_path / "out"))
    text = its_tokenizer("<new> opens", return_tensors="pt")
    assert text["input_ids"][0, 0] == len(tokenizer) - 1 == 2048
    with torch.no_grad():
        assert float((again(**text).logits - model(**text).logits).abs().max()) < 1e-4


def test_an_additional_target_of_a_recipe_is_merged(tmp_path, tiny):
    train(tmp_path / "run", tiny, additional_target="embed_tokens,lm_head")
    report = ftlab.merge(tmp_path / "run", tmp_path / "out")
    assert report.notes == [] and report.rounding < 1e-4


def test_a_16_bit_base_stays_16_bit_and_its_rounding_is_reported(tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    model, tokenizer = ftlab.load(str(tmp_path / "base"), dtype="bfloat16")
    train(tmp_path / "run", (model, tokenizer))
    report = ftlab.merge(tmp_path / "run", tmp_path / "out", base=str(tmp_path / "base"))
    assert report.difference < 1e-4 and report.reloaded < 1e-4 < report.rounding
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert report.dtype == "bfloat16" and {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert report.notes == []  # the base hash holds for the precision that was trained in


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True),
        LoraConfig(r=4, target_modules="all-linear", use_rslora=True),
        AdaLoraConfig(init_r=4, total_step=10, target_modules=["q_proj"]),
        VeraConfig(r=8, target_modules=["q_proj", "o_proj"]),
        OFTConfig(oft_block_size=32, target_modules=["q_proj", "down_proj"]),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_every_method_with_weights_merges_in_fp32_and_is_rounded_once(
    tmp_path, config, dtype, tiny
):
    shutil.copytree(TINY, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    config.task_type, config.base_model_name_or_path = "CAUSAL_LM", base
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval().save_pretrained(tmp_path / "adapter")
    report = ftlab.merge(tmp_path / "adapter", tmp_path / "out", base=base)
    assert report.difference < 1e-4 and report.reloaded < 1e-4 and report.moved > 1e-3
    assert report.rounding < (1e-4 if dtype == torch.float32 else 1)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    theirs = model.merge_and_unload().to(dtype)
    ours = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in theirs.state_dict().items():
        if name in ours:
            torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0.008)


def test_positions_stay_scaled_as_they_were_in_training(tmp_path):
    keys = {"rope_scaling": "yarn", "cutoff_len": 2048, "truncation_strategy": "delete"}
    run = train(tmp_path / "run", ftlab.models.load_for(ftlab.Recipe(**keys)), **keys)
    report = ftlab.merge(run.folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "yarn" and report.notes == []
    assert config["max_position_embeddings"] == 2048
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert distance(logits(again, run.tokenizer), logits(run.model, run.tokenizer)) < 1e-4


def test_weights_come_in_files_of_the_size_asked_for(run, tmp_path):
    ftlab.merge(run.folder, tmp_path / "out", shard_gb=0.002)
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1 and all(s.stat().st_size < 2.1e6 for s in shards)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()


def test_a_named_template_travels_and_ends_the_answers(tmp_path, tiny):
    run = train(tmp_path / "run", tiny, template="alpaca", default_system="")
    ftlab.merge(tmp_path / "run", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "### Response:" in tokenizer.chat_template
    assert tokenizer.chat_template == run.tokenizer.chat_template
    assert "### Response:" in (tmp_path / "out" / "Modelfile").read_text()
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert tokenizer.eos_token_id in settings["eos_token_id"]


@pytest.fixture(scope="module")
def qlora(tmp_path_factory):
    """A run whose base was quantized to 4 bits while it was loaded."""
    base = ftlab.load("tiny", quantization_bit=4)
    changes = {"quantization_bit": 4, "model_name_or_path": TINY}
    return train(tmp_path_factory.mktemp("qlora") / "run", base, **changes)


def test_a_qlora_adapter_merges_into_the_original_and_tells_how_far_that_is(qlora, tmp_path):
    report = ftlab.merge(qlora.folder, tmp_path / "out")
    assert report.notes == [] and report.difference < 1e-4 and report.source == TINY
    assert report.as_trained > 1e-3 and f"{report.as_trained:.1e}" in str(report)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = distance(logits(again, qlora.tokenizer), logits(qlora.model, qlora.tokenizer))
    assert abs(found - report.as_trained) < 0.05 * report.as_trained


def test_a_qlora_adapter_knows_its_base_too(qlora, tmp_path):
    base = other_base(tmp_path / "other")
    refused(qlora.folder, tmp_path / "out", "not the base of", base=base)


def test_an_adapter_is_merged_and_written_in_another_format(run, tmp_path):
    report = ftlab.merge(run.folder, tmp_path / "out", format="gguf_q8_0")
    assert report.difference < 1e-4 < report.rounding and report.same_answers is not None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "Modelfile", "manifest.json", "model.gguf",
    ]  # fmt: skip


# Refusals ---------------------------------------------------------------------------------------


def other_base(folder):
    """Weights of the same shapes, a little different."""
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_base_of_equal_shapes_and_other_weights_is_refused(run, tmp_path):
    base = other_base(tmp_path / "other")
    refused(run.folder, tmp_path / "out", "not the base of.*Pass that model as base", base=base)


def test_the_same_weights_elsewhere_are_the_right_base(run, tmp_path):
    shutil.copytree(TINY, tmp_path / "moved")
    report = ftlab.merge(run.folder, tmp_path / "out", base=str(tmp_path / "moved"))
    assert report.notes == []


def test_a_base_of_other_shapes_is_refused_also_for_an_adapter_without_record(tmp_path):
    from tests.throwaway import small_model

    shutil.copytree(TINY, tmp_path / "small")
    small_model(vocab_size=2048).save_pretrained(tmp_path / "small")
    by_peft(tmp_path / "adapter")
    small = str(tmp_path / "small")
    refused(tmp_path / "adapter", tmp_path / "out", "does not fit|of no use", base=small)


def test_a_quantized_base_is_refused(run, tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    base = str(tmp_path / "base")
    refused(run.folder, tmp_path / "out", "quantized.*16- or 32-bit", base=base)


@pytest.mark.parametrize("inside", [True, False], ids=["a file in it", "empty"])
def test_an_existing_target_is_refused_and_kept(run, tmp_path, inside):
    (tmp_path / "out").mkdir()
    if inside:
        (tmp_path / "out" / "model.safetensors").write_text("an older merge")
    refused(run.folder, tmp_path / "out", "exists already", ftlab.CheckpointError)


def test_a_target_below_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(run.folder, tmp_path / "file" / "out", "cannot write in", ftlab.CheckpointError)


def test_the_folder_of_the_base_is_refused(run, tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    for out in (tmp_path / "base", tmp_path / "base" / "merged"):
        refused(run.folder, out, "own folder", ftlab.CheckpointError, base=str(tmp_path / "base"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(run, tmp_path, value):
    folder = changed(tmp_path / "bad", run.folder, lambda n, t: t * value if "layers.2" in n else t)
    refused(folder, tmp_path / "out", "layers.2.*NaN or infinite", base="tiny")


def test_finite_weights_that_overflow_when_merged_are_refused(run, tmp_path):
    folder = changed(tmp_path / "bad", run.folder, lambda n, t: t * 0 + 1e30)
    refused(folder, tmp_path / "out", "cannot be merged", base="tiny")


def test_an_adapter_that_changes_nothing_is_refused(run, tmp_path):
    folder = changed(
        tmp_path / "idle", run.folder, lambda n, t: torch.zeros_like(t) if "lora_B" in n else t
    )
    refused(folder, tmp_path / "out", "changes no weight", base="tiny")
    by_peft(tmp_path / "fresh", move=False)
    refused(tmp_path / "fresh", tmp_path / "out", "changes no weight")


def test_an_adapter_that_16_bits_round_away_is_refused(tmp_path):
    shutil.copytree(TINY, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    by_peft(tmp_path / "adapter")
    faint = changed(tmp_path / "faint", tmp_path / "adapter", lambda n, t: t * 1e-6)
    base = str(tmp_path / "base")
    refused(faint, tmp_path / "out", "changes no weight", base=base)


def test_an_adapter_that_peft_would_pass_over_in_silence_is_refused(run, tmp_path):
    folder = tmp_path / "renamed"
    shutil.copytree(run.folder, folder)
    (folder / "manifest.json").unlink()
    tensors = {n.replace("layers.0", "stack.0"): t for n, t in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    refused(folder, tmp_path / "out", "tensors are missing", base="tiny")
    both = load_file(run.folder / WEIGHTS) | tensors
    save_file(both, folder / WEIGHTS)
    refused(folder, tmp_path / "out", "tensors are of no use", base="tiny")


def test_a_pickled_adapter_is_refused(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "bin")
    (tmp_path / "bin" / WEIGHTS).rename(tmp_path / "bin" / "adapter_model.bin")
    refused(tmp_path / "bin", tmp_path / "out", "no pickle files")


@pytest.mark.parametrize("manifest", [True, False], ids=["with manifest", "without"])
def test_an_adapter_short_of_a_byte_is_refused(run, tmp_path, manifest):
    shutil.copytree(run.folder, tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).write_bytes((run.folder / WEIGHTS).read_bytes()[:-1])
    if not manifest:
        (tmp_path / "cut" / "manifest.json").unlink()
    refused(tmp_path / "cut", tmp_path / "out", "damaged", ftlab.Error, base="tiny")


def test_a_flipped_bit_is_seen(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "flip")
    data = bytearray((run.folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (tmp_path / "flip" / WEIGHTS).write_bytes(data)
    refused(tmp_path / "flip", tmp_path / "out", "changed or damaged", ftlab.CheckpointError)


@pytest.mark.parametrize(("text", "message"), [("{", "not readable as JSON"), ("7", "JSON")])
def test_a_faulty_configuration_is_one_sentence(run, tmp_path, text, message):
    shutil.copytree(run.folder, tmp_path / "bad")
    (tmp_path / "bad" / "adapter_config.json").write_text(text)
    refused(tmp_path / "bad", tmp_path / "out", message)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    by_peft(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens([f"<n{i}>" for i in range(50)])
    tokenizer.save_pretrained(tmp_path / "adapter")
    refused(tmp_path / "adapter", tmp_path / "out", r"tokens, the model only 2048")


def test_an_adapter_without_weights_of_the_model_cannot_be_merged(tmp_path):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    by_peft(tmp_path / "prefix", config=config)
    refused(tmp_path / "prefix", tmp_path / "out", "PREFIX_TUNING")


def test_a_bottleneck_is_not_merged(tmp_path, tiny):
    train(tmp_path / "run", tiny, finetuning_type="bottleneck")
    refused(tmp_path / "run", tmp_path / "out", "not linear.*Load it along", base="tiny")


def test_a_folder_without_adapter_or_base_says_so(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "out", "no adapter here")
    by_peft(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    refused(tmp_path / "adapter", tmp_path / "out", "Pass base=")


@pytest.mark.parametrize("step", ["merge", "write"])
def test_a_merge_that_changes_the_answers_is_refused(run, tmp_path, monkeypatch, step):
    def spoil(model):
        model.lm_head.weight.data[5] += 0.01
        return model

    if step == "merge":
        plain = LoraModel.merge_and_unload
        monkeypatch.setattr(
            LoraModel, "merge_and_unload", lambda self, **options: spoil(plain(self, **options))
        )
        refused(run.folder, tmp_path / "out", "merged, the logits differ")
    else:
        load = AutoModelForCausalLM.from_pretrained
        monkeypatch.setattr(
            AutoModelForCausalLM,
            "from_pretrained",
            lambda path, **options: (
                spoil(load(path, **options)) if "partial" in str(path) else load(path, **options)
            ),
        )
        refused(run.folder, tmp_path / "out", "read again", ftlab.CheckpointError)


def test_a_run_does_not_resume_on_another_base(tmp_path, tiny):
    base = other_base(tmp_path / "base")
    recipe = ftlab.Recipe(
        model_name_or_path=base, dataset="world_qa", max_samples=8, max_steps=2,
        save_steps=1, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    run = ftlab.train(recipe, quiet=True)
    (run.folder / "manifest.json").unlink()
    shutil.copy(f"{TINY}/model.safetensors", f"{base}/model.safetensors")
    with pytest.raises(ftlab.CheckpointError, match="base model changed"):
        ftlab.resume(run.folder)


# Modelfile --------------------------------------------------------------------------------------


def go(template, messages):
    """What Ollama makes of ``template``: the few forms of Go's language that it uses."""
    system = next((m["content"] for m in messages if m["role"] == "system"), "")
    start, body = template.split("{{ range $i, $_ := .Messages }}")
    start = re.sub(
        r"(?s)\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}",
        lambda m: m[1] if system else m[2],
        start,
    ).replace("{{ .System }}", system)
    user, answer = re.fullmatch(
        r'(?s)\{\{ if eq \.Role "user" \}\}(.*?)\{\{ else if eq \.Role "assistant" \}\}(.*?)'
        r"\{\{ end \}\}\{\{ end \}\}",
        body,
    ).groups()
    forms = {"user": user, "assistant": answer, "system": ""}
    last = re.compile(
        r"(?s)\{\{ if eq \(len \(slice \$\.Messages \$i\)\) 1 \}\}(.*?)\{\{ else \}\}"
        r"(.*?)\{\{ end \}\}"
    )
    for number, message in enumerate(messages, 1):
        chosen = r"\1" if number == len(messages) else r"\2"
        form = last.sub(chosen, forms[message["role"]])
        start += form.replace("{{ .Content }}", message["content"])
    return start


TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Two?"},
]


@pytest.mark.parametrize("name", [None, *templates.NAMES])
@pytest.mark.parametrize("system", ["Be brief.", None])
def test_the_modelfile_renders_what_the_chat_template_does(name, system, tiny):
    from tests.families import family

    tokenizer = templates.apply(family(name), name) if name else tiny[1]
    messages = [*([{"role": "system", "content": system}] if system else []), *TURNS]
    for turns in (messages, messages[:-2]):
        expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert go(go_template(tokenizer), turns) == expected


def test_the_modelfile_names_the_stop_word(merged):
    text = (merged.folder / "Modelfile").read_text()
    assert text.startswith("FROM .\n") and 'PARAMETER stop "<|im_end|>"' in text


# Command line -----------------------------------------------------------------------------------


def test_export_of_a_llamafactory_yaml(run, tmp_path, capsys):
    keys = {
        "model_name_or_path": "tiny", "adapter_name_or_path": str(run.folder),
        "template": "qwen3_nothink", "trust_remote_code": True,
        "export_dir": str(tmp_path / "out"), "export_size": 5, "export_device": "cpu",
        "export_legacy_format": False,
    }  # fmt: skip
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(keys))
    assert main(["export", str(file)]) == 0
    assert "logits, largest difference" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert main(["export", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(keys | {"export_dir": None}))
    assert main(["export", str(file)]) == 2
    assert "export_dir: the recipe names none" in capsys.readouterr().err


def test_a_pickled_export_is_no_choice():
    with pytest.raises(ftlab.RecipeError, match="safetensors only"):
        ftlab.Recipe(export_legacy_format=True)


def test_merge_is_the_function_also_after_its_module_was_imported():
    code = "import ftlab, ftlab.merge\nassert callable(ftlab.merge), ftlab.merge"
    subprocess.run([sys.executable, "-c", code], check=True)
