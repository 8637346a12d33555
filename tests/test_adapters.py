"""Every method trains, saves, loads again, resumes and generates; bad numbers stop before training.

The base stays as it was for all of them, also where a method splits its weights (PiSSA, OLoRA).
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import ftlab
from ftlab import rope
from ftlab.adapters import adapt, allocator, trainable_parameters
from ftlab.base import base_record, weights_hash

METHODS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"pissa_init": True},
    "pissa, exact, rslora": {"pissa_init": True, "pissa_iter": -1, "use_rslora": True},
    "olora": {"init_lora_weights": "olora"},
    "lora, embeddings too": {"additional_target": "embed_tokens", "lora_dropout": 0.1},
    "oft": {"finetuning_type": "oft"},
    "adalora": {"finetuning_type": "adalora"},
    "vera": {"finetuning_type": "vera", "lora_rank": 64, "learning_rate": 2e-2},
    "ia3": {"finetuning_type": "ia3", "learning_rate": 2e-2},
    "ln_tuning": {"finetuning_type": "ln_tuning", "learning_rate": 1e-2},
    "prompt_tuning": {"finetuning_type": "prompt_tuning", "learning_rate": 2e-2},
    "prefix_tuning": {"finetuning_type": "prefix_tuning", "learning_rate": 5e-2},
    "p_tuning": {"finetuning_type": "p_tuning"},
    "bottleneck": {"finetuning_type": "bottleneck"},
}
BRIEF = {
    "dataset": "world_qa", "max_samples": 24, "per_device_train_batch_size": 8, "max_steps": 5,
    "learning_rate": 5e-3, "save_steps": 2, "save_strategy": "steps",
}  # fmt: skip


def brief(**changes):
    return ftlab.Recipe(**{**BRIEF, **changes})


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits[:, -ids.shape[1] :]  # a learned prompt comes before them


def as_after_a_power_cut(folder, target):
    """A copy of a run's folder with its first checkpoint only, as if it had ended there."""
    shutil.copytree(folder, target)
    (target / "manifest.json").unlink()
    for later in ("checkpoint-4", "checkpoint-5"):
        shutil.rmtree(target / later)
    return target


@pytest.fixture(scope="module")
def ids(tiny):
    return torch.tensor([ftlab.encode(tiny[1], ftlab.read("world_qa")[0]).input_ids])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_saves_loads_resumes_and_answers(name, tiny, ids, tmp_path):
    model, tokenizer = tiny
    before = weights_hash(model, torch.float32)
    recipe = brief(**METHODS[name], output_dir=str(tmp_path / "run"))
    run = ftlab.train(recipe, model=model, tokenizer=tokenizer, quiet=True)
    assert run.history[-1]["loss"] < run.history[0]["loss"] - 0.05
    assert weights_hash(model, torch.float32) == before
    record = json.loads((run.folder / "base.json").read_text())
    assert record["sha256"] == before and record == base_record(run.model, "tiny")
    again = ftlab.load("tiny", adapter=run.folder)[0]
    assert torch.allclose(logits(again, ids), logits(run.model, ids), atol=1e-4)
    assert weights_hash(again, torch.float32) == before
    assert (logits(again, ids) - logits(model, ids)).abs().max() > 1e-3
    checkpoint = ftlab.load("tiny", adapter=run.folder / "checkpoint-4")[0]
    assert logits(checkpoint, ids).isfinite().all()
    assert isinstance(ftlab.generate(again, tokenizer, ["Where?"], max_new_tokens=2)[0], str)

    cut = as_after_a_power_cut(run.folder, tmp_path / "cut")
    resumed = ftlab.resume(cut)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in run.history]
    assert torch.equal(logits(resumed.model, ids), logits(run.model, ids))


STARTS = {
    **{
        name: METHODS[name]
        for name in METHODS
        if not name.endswith(("prompt_tuning", "x_tuning", "p_tuning"))
    },
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal", "lora_target": "q_proj,v_proj"},
}


@pytest.mark.parametrize("name", STARTS)
def test_an_untrained_adapter_changes_nothing(name, tiny, ids):
    model = adapt(tiny[0], brief(**STARTS[name])).eval()
    assert torch.allclose(logits(model, ids), logits(tiny[0], ids), atol=1e-4)


def test_the_bottleneck_is_down_gelu_up_and_the_way_around(tiny, ids):
    model = adapt(tiny[0], brief(finetuning_type="bottleneck", bottleneck_size=4))
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    x = torch.randn(2, 3, 384)
    plain = layer.base_layer(x)
    assert torch.equal(layer(x), plain)
    layer.bottleneck_up["default"].weight.data.normal_()
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    hidden = torch.nn.functional.gelu(plain @ down.weight.T + down.bias)
    assert torch.allclose(layer(x), plain + hidden @ up.weight.T, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(layer(x), plain)
    # 2 places in each of 4 layers: 128 down to 4 and up again, with biases
    assert trainable_parameters(model)[0] == 8 * (128 * 4 + 4 + 4 * 128 + 128)


def test_a_fresh_process_reads_a_bottleneck_adapter(tiny, ids, tmp_path):
    recipe = brief(finetuning_type="bottleneck", max_steps=1, output_dir=str(tmp_path / "run"))
    run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], quiet=True)
    code = (
        "import sys, torch, ftlab\n"
        "model, ids = ftlab.load('tiny', adapter=sys.argv[1])[0], torch.load(sys.argv[2])\n"
        "torch.save(model(input_ids=ids).logits.detach(), sys.argv[2])\n"
    )
    file = tmp_path / "ids.pt"
    torch.save(ids, file)
    subprocess.run([sys.executable, "-c", code, str(run.folder), str(file)], check=True)
    assert torch.allclose(torch.load(file), logits(run.model, ids), atol=1e-5)


def test_pissa_is_saved_as_a_plain_lora_of_twice_the_rank(tiny, tmp_path):
    recipe = brief(pissa_init=True, output_dir=str(tmp_path / "run"), lora_rank=4)
    run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], quiet=True)
    assert "twice the rank" in run.notices[0]
    for folder in (run.folder, run.folder / "checkpoint-4"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)


def test_adalora_prunes_to_the_ranks_it_was_asked_for(tiny):
    recipe = brief(finetuning_type="adalora", lora_rank=4, max_steps=12, save_strategy="no")
    run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
    ranks = [sum(kept) for kept in allocator(run.model).peft_config.rank_pattern.values()]
    assert sum(ranks) == 4 * len(ranks) and max(ranks) <= 6 and len(set(ranks)) > 1
    values = [p for n, p in run.model.named_parameters() if ".lora_E." in n]
    assert sum(int((v != 0).sum()) for v in values) <= sum(ranks)


def test_adaloras_eval_loss_has_no_penalty(tiny):
    losses = {}
    for method in ("lora", "adalora"):
        recipe = brief(finetuning_type=method, val_size=8, eval_strategy="steps", eval_steps=1,
                       learning_rate=0.0, max_steps=1, save_strategy="no")  # fmt: skip
        run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
        losses[method] = run.history[-1]
    assert losses["adalora"]["eval_loss"] == pytest.approx(losses["lora"]["eval_loss"], abs=1e-4)
    assert losses["adalora"]["loss"] > losses["lora"]["loss"] + 0.5


def test_accumulation_does_not_multiply_adaloras_penalty(tiny):
    first = []
    for rows, batches in ((8, 1), (1, 8)):
        recipe = brief(finetuning_type="adalora", per_device_train_batch_size=rows, max_steps=1,
                       gradient_accumulation_steps=batches)  # fmt: skip
        run = ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], save=False, quiet=True)
        first.append(run.history[0]["loss"])
    assert first[0] == pytest.approx(first[1], abs=1e-3)


def test_layernorm_tuning_reaches_every_norm(tiny):
    model = adapt(tiny[0], brief(finetuning_type="ln_tuning"))
    trained = {n.split(".ln_tuning_layers")[0].split(".")[-1]
               for n, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    assert trained == {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"}


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    recipe = brief(output_dir=str(tmp_path_factory.mktemp("first") / "run"), max_steps=3)
    return ftlab.train(recipe, model=tiny[0], tokenizer=tiny[1], quiet=True)


def test_training_goes_on_with_an_adapter(first, ids, tmp_path):
    recipe = brief(adapter_name_or_path=str(first.folder), output_dir=str(tmp_path / "run"))
    run = ftlab.train(recipe, quiet=True)
    assert run.history[0]["loss"] < first.history[0]["loss"] - 0.2
    again = ftlab.load("tiny", adapter=run.folder)[0]
    assert torch.allclose(logits(again, ids), logits(run.model, ids), atol=1e-5)
    assert torch.equal(
        logits(ftlab.load("tiny", adapter=first.folder)[0], ids), logits(first.model, ids)
    )


def test_a_new_adapter_on_a_merged_one_resumes_and_names_what_was_merged(first, ids, tmp_path):
    recipe = brief(adapter_name_or_path=str(first.folder), create_new_adapter=True,
                   finetuning_type="ia3", learning_rate=1e-2)  # fmt: skip
    run = ftlab.train(recipe.replace(output_dir=str(tmp_path / "run")), quiet=True)
    record = json.loads((run.folder / "base.json").read_text())
    assert record["merged"] == [str(first.folder)]
    assert record["sha256"] != json.loads((first.folder / "base.json").read_text())["sha256"]
    both = ftlab.load("tiny", adapter=[str(first.folder), str(run.folder)])[0]
    assert torch.allclose(logits(both, ids), logits(run.model, ids), atol=1e-4)
    resumed = ftlab.resume(as_after_a_power_cut(run.folder, tmp_path / "cut"))
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in run.history]


def test_the_model_of_a_run_is_trained_on_without_changing_it(first, tiny, ids):
    before = logits(first.model, ids)
    run = ftlab.train(brief(), model=first.model, tokenizer=tiny[1], save=False, quiet=True)
    assert run.history[0]["loss"] < first.history[0]["loss"] - 0.2
    assert torch.equal(logits(first.model, ids), before)


def test_an_adapter_of_another_base_is_refused(first, tmp_path):
    record = json.loads((first.folder / "base.json").read_text()) | {"sha256": "0" * 64}
    other = tmp_path / "other"
    other.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (other / name).write_bytes((first.folder / name).read_bytes())
    (other / "base.json").write_text(json.dumps(record))
    with pytest.raises(ftlab.ModelError, match="not the base of"):
        ftlab.train(brief(adapter_name_or_path=str(other)), save=False, quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 65}, r"k_proj has 128 inputs and 64 outputs. Choose at most 64"),
        ({"finetuning_type": "adalora", "lora_rank": 43}, "Choose at most 42"),
        ({"finetuning_type": "oft", "oft_block_size": 48}, "which it does not divide"),
        ({"finetuning_type": "oft", "oft_target": "nonsense"}, "oft_target: no module 'nonsense'"),
        ({"finetuning_type": "vera", "lora_target": "x_proj"}, "no module 'x_proj' there.*q_proj"),
        ({"finetuning_type": "p_tuning", "num_virtual_tokens": 1024}, "reads 1024 tokens in all"),
        ({"finetuning_type": "bottleneck", "bottleneck_size": 128}, "hidden size is 128"),
    ],
)
def test_numbers_and_names_that_do_not_fit_the_model_say_what_does(changes, message, tiny):
    with pytest.raises(ftlab.RecipeError, match=message):
        adapt(tiny[0], brief(**changes))


def test_an_adapter_of_another_method_is_not_trained_on(first):
    with pytest.raises(ftlab.RecipeError, match="it is a LORA adapter.*create_new_adapter"):
        adapt(first.model, brief(finetuning_type="oft"))
    with pytest.raises(ftlab.RecipeError, match="the model has an adapter. Merge it first"):
        adapt(first.model, brief(finetuning_type="full"))


QUANTIZED = {
    **{name: METHODS[name] for name in METHODS if name in (
        "lora", "dora", "oft", "adalora", "vera", "ia3", "ln_tuning", "prompt_tuning",
        "prefix_tuning", "p_tuning", "bottleneck")},
    "loftq": {"init_lora_weights": "loftq"},
}  # fmt: skip


@pytest.fixture(scope="module")
def four_bits():
    pytest.importorskip("bitsandbytes")
    return ftlab.load("tiny", quantization_bit=4)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_method_trains_on_a_quantized_base_and_never_copies_it(name, four_bits, ids, tmp_path):
    model, tokenizer = four_bits
    before = logits(model, ids)
    recipe = brief(**QUANTIZED[name], quantization_bit=4, output_dir=str(tmp_path / "run"))
    recipe = recipe.replace(save_strategy="no")
    run = ftlab.train(recipe, model=model, tokenizer=tokenizer, quiet=True)
    assert run.history[-1]["loss"] < run.history[0]["loss"] - 0.02
    assert torch.equal(logits(model, ids), before)
    pointers = {p.data_ptr() for p in model.parameters() if not p.is_floating_point()}
    assert pointers <= {p.data_ptr() for p in run.model.parameters()}
    assert all(p.dtype == torch.float32 for p in run.model.parameters() if p.requires_grad)
    again = ftlab.load("tiny", adapter=run.folder, quantization_bit=4)[0]
    assert torch.allclose(logits(again, ids), logits(run.model, ids), atol=1e-4)


def test_loftq_starts_nearer_to_the_unrounded_model(four_bits, tiny, ids):
    start = adapt(four_bits[0], brief(quantization_bit=4, init_lora_weights="loftq", lora_rank=32))
    lost = (logits(four_bits[0], ids) - logits(tiny[0], ids)).norm()
    assert (logits(start, ids) - logits(tiny[0], ids)).norm() < 0.7 * lost


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling_changes_what_lies_beyond_the_native_length(kind, tiny):
    from transformers import AutoModelForCausalLM

    ids = torch.arange(300)[None] % 100
    found = {}
    for scaled in (None, kind):
        config = ftlab.models.read_config("tiny")
        config.max_position_embeddings = 64
        if scaled:
            rope.scale(config, kind, 200)
            assert config.rope_parameters["factor"] == 4.0
            assert config.max_position_embeddings == 256
        folder = ftlab.models.model_folder("tiny")
        model = AutoModelForCausalLM.from_pretrained(folder, config=config)
        found[scaled] = logits(model.eval(), ids)[0]
    assert found[kind].isfinite().all()
    assert (found[kind] - found[None])[128:].abs().max() > 1e-3


def test_rope_factors_are_llamafactorys():
    config = ftlab.models.read_config("tiny")
    assert rope.rope_parameters(config, "linear", 1024) is None
    assert rope.rope_parameters(config, "yarn", 2049)["factor"] == 3.0
    assert rope.rope_parameters(config, "yarn")["factor"] == 2.0
    assert rope.rope_parameters(config, "llama3", 2000)["low_freq_factor"] == 1.0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_saved_run_remembers_its_rope_scaling(method, tmp_path):
    recipe = brief(finetuning_type=method, rope_scaling="yarn", cutoff_len=2000, max_steps=1,
                   output_dir=str(tmp_path / "run"))  # fmt: skip
    run = ftlab.train(recipe, quiet=True)
    assert run.model.config.rope_parameters["factor"] == 2.0
    name, adapter = (run.folder, None) if method == "full" else ("tiny", run.folder)
    again = ftlab.load(str(name), adapter=adapter)[0]
    assert again.config.rope_parameters == run.model.config.rope_parameters
    long = torch.arange(1500)[None] % 100
    assert torch.allclose(logits(again, long), logits(run.model, long), atol=1e-4)


def test_rope_scaling_without_need_says_so():
    with pytest.warns(UserWarning, match="no effect, the model reads 1024 tokens as it is"):
        ftlab.load("tiny", rope_scaling="linear", length=512)
    config = ftlab.models.read_config("tiny")
    assert rope.scale(config, "yarn", 2000) is None
    assert "own configuration says yarn" in rope.scale(config, "linear", 4000)
