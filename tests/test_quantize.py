"""Quantized bases: what loads, what is refused, and that QLoRA trains, saves and resumes."""

import json
import shutil

import pytest
import torch

import ftlab
from ftlab import cli, quantize
from ftlab.adapters import adapt
from ftlab.base import base_record, weights_hash
from ftlab.checkpoints import BASE
from ftlab.models import load_for

WAYS = [("bnb", 8), ("bnb", 4), *(("hqq", bits) for bits in (8, 6, 5, 4, 3, 2, 1))]
IDS = torch.arange(20, 84).view(2, 32)


@pytest.fixture(scope="module")
def four():
    """The shipped model in NF4, loaded once. Do not train it."""
    return ftlab.load("tiny", quantization_bit=4)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def brief(**changes):
    values = {"learning_rate": 5e-3, "quantization_bit": 4, "dataset": "world_qa"}
    return ftlab.Recipe(**{**values, "max_samples": 32, "max_steps": 4, **changes})


@pytest.mark.parametrize(("method", "bits"), WAYS)
def test_every_way_to_quantize_loads_answers_and_trains(tiny, method, bits):
    model, _ = ftlab.load("tiny", quantization_bit=bits, quantization_method=method)
    assert quantize.describe(model)["bits"] == bits and not model.training
    held = [name for name, part in model.named_modules() if quantize.constants(part)]
    assert len(held) == 7 * model.config.num_hidden_layers
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, tiny[0].lm_head.weight)
    lost = (logits(model) - logits(tiny[0])).abs().mean()
    assert 0 < lost < {8: 0.1, 6: 0.2, 5: 0.4, 4: 0.6, 3: 1.5}.get(bits, 5)
    adapted = adapt(model, brief(quantization_bit=bits, quantization_method=method)).train()
    adapted(IDS, labels=IDS).loss.backward()
    grads = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(grads) == len(held) and all(grad.abs().max() > 0 for grad in grads)


def test_hqq_loses_more_with_fewer_bits(tiny):
    lost = []
    for bits in (8, 6, 4, 3, 2):
        model, _ = ftlab.load("tiny", quantization_bit=bits, quantization_method="hqq")
        lost.append(float((logits(model) - logits(tiny[0])).abs().mean()))
    assert lost == sorted(lost)


def test_fp4_and_single_quantization_are_what_was_asked_for():
    model, _ = ftlab.load("tiny", quantization_bit=4, quantization_type="fp4")
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert state.quant_type == "fp4" and state.nested
    model, _ = ftlab.load("tiny", quantization_bit=4, double_quantization=False)
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert state.quant_type == "nf4" and not state.nested


def test_eight_bits_load_and_answer_without_a_word(capfd):
    model, _ = ftlab.load("tiny", quantization_bit=8)
    logits(model)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_bit": 5}, "bnb knows 8, 4 bits"),
        ({"quantization_bit": 7, "quantization_method": "hqq"}, "hqq knows 8, 6, 5"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, "NVIDIA GPU"),
        ({"quantization_bit": 4, "quantization_method": "gguf"}, "ftlab knows bnb, hqq"),
        ({"quantization_bit": 4, "adapter": ["a", "b"]}, "2 adapters: .* rounds them away"),
    ],
)
def test_what_cannot_be_quantized_is_refused(options, message):
    with pytest.raises(ftlab.ModelError, match=message):
        ftlab.load("tiny", **options)


def test_four_bits_where_bitsandbytes_does_not_work_are_one_message(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", broken)
    with pytest.raises(ftlab.ModelError, match=r"bitsandbytes does not work .*no kernel image"):
        ftlab.load("tiny", quantization_bit=4)


@pytest.fixture
def stored(tmp_path):
    """A folder whose configuration says how its weights are quantized."""

    def write(**values):
        shutil.copytree(ftlab.data_dir() / "tiny", tmp_path / "stored")
        path = tmp_path / "stored" / "config.json"
        fields = json.loads(path.read_text(encoding="utf-8")) | {"quantization_config": values}
        path.write_text(json.dumps(fields), encoding="utf-8")
        return str(tmp_path / "stored")

    return write


def test_a_gptq_folder_names_the_packages_that_are_missing(stored):
    with pytest.raises(ftlab.ModelError, match="pip install optimum gptqmodel"):
        ftlab.load(stored(quant_method="gptq", bits=4))


def test_an_awq_folder_wants_a_gpu_even_with_its_package(stored, monkeypatch):
    folder = stored(quant_method="awq", bits=4)
    monkeypatch.setattr(quantize, "PACKAGES", {"awq": ("torch",)})
    with pytest.raises(ftlab.ModelError, match="NVIDIA GPU; here is cpu"):
        ftlab.load(folder, device="cpu")


def test_a_folder_of_quantized_weights_loads_and_is_not_quantized_twice(four, tmp_path):
    model, tokenizer = four
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = ftlab.load(str(tmp_path))
    assert torch.equal(logits(again), logits(model))
    assert quantize.describe(again)["load_in_4bit"] and "sha256" not in base_record(again, "x")
    with pytest.raises(ftlab.ModelError, match="stored quantized already"):
        ftlab.load(str(tmp_path), quantization_bit=4)


def test_the_original_weights_are_known_without_loading_them(tiny, four):
    record = base_record(four[0], "tiny")
    assert record["sha256"] == weights_hash(tiny[0], torch.float32)
    assert record["quantization"]["bits"] == 4
    half = quantize.original(four[0], torch.bfloat16)
    assert half["sha256"] == weights_hash(tiny[0], torch.bfloat16)


def gradients(model):
    torch.manual_seed(0)
    model = adapt(model, brief()).train()
    model(IDS, labels=IDS).loss.backward()
    return [p.grad for name, p in model.named_parameters() if "lora_B" in name]


@pytest.mark.parametrize("avx512_bf16", [False, True])
def test_evaluating_first_changes_no_gradient(monkeypatch, avx512_bf16):
    """On CPUs with AVX512-BF16 evaluating packs the weights anew, and the layers before lose their
    gradient: training "worked" and learned next to nothing. The packing itself runs everywhere."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512_bf16)
    fresh, _ = ftlab.load("tiny", quantization_bit=4)
    expected = gradients(fresh)
    model, _ = ftlab.load("tiny", quantization_bit=4)
    before = logits(model)
    found = gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"finetuning_type": "full"}, "finetuning_type=full"),
        ({"finetuning_type": "freeze"}, "finetuning_type=freeze"),
        ({"pissa_init": True}, "pissa_init"),
        ({"create_new_adapter": True}, "create_new_adapter"),
    ],
)
def test_nothing_writes_into_weights_that_came_quantized(four, keys, named):
    """The recipe of a folder of 4-bit weights has no quantization_bit that would have told."""
    model = adapt(four[0], brief()) if "create_new_adapter" in keys else four[0]
    with pytest.raises(ftlab.RecipeError, match=f"{named}.* they are quantized"):
        adapt(model, brief(quantization_bit=None, **keys))


def test_qlora_learns_and_leaves_the_base_as_it_was(four):
    model, tokenizer = four
    before = logits(model)
    run = ftlab.train(brief(max_steps=12), model=model, tokenizer=tokenizer, save=False, quiet=True)
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2
    trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    # TRL rounds what trains on a quantized base to bfloat16.
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    frozen = [p for p in run.model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    assert not torch.equal(logits(run.model), before) and torch.equal(logits(model), before)


def test_a_qlora_run_saves_resumes_and_answers_again(tiny, tmp_path):
    recipe = brief(max_steps=4, save_steps=2, output_dir=str(tmp_path / "run"))
    straight = ftlab.train(recipe, save=False, quiet=True)

    class Power:
        def on_start(self, run): ...
        def on_end(self, run): ...
        def on_log(self, run, record):
            if record["step"] == 3:
                raise SystemExit

    with pytest.raises(SystemExit):
        ftlab.train(recipe, observers=[Power()], quiet=True)
    run = ftlab.resume(tmp_path / "run")
    assert [r["loss"] for r in run.history] == [r["loss"] for r in straight.history]
    record = json.loads((tmp_path / "run" / BASE).read_text(encoding="utf-8"))
    assert record["sha256"] == weights_hash(tiny[0], torch.float32)
    assert record["quantization"] == {"method": "bnb", "bits": 4, "type": "nf4", "double": True}
    again, _ = load_for(recipe, adapter=tmp_path / "run")
    assert torch.allclose(logits(again), logits(run.model), atol=1e-5)


def test_the_command_line_trains_and_scores_in_four_bits(tmp_path, capsys):
    path, out = tmp_path / "qlora.yaml", tmp_path / "run"
    path.write_text(brief(max_steps=2, max_new_tokens=4).to_yaml(), encoding="utf-8")
    assert cli.main(["train", str(path), f"output_dir={out}"]) == 0
    assert cli.main(["eval", str(path), f"adapter_name_or_path={out}", "max_samples=2"]) == 0
    assert "exact_match" in capsys.readouterr().out
