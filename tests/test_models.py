"""Loading: the shipped model, folders, and names that are neither."""

import copy
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

import ftlab
from ftlab.base import untie
from ftlab.models import load_for, pick_device, pick_dtype
from ftlab.quantize import describe


def test_the_shipped_model_loads_with_its_tokenizer(tiny):
    model, tokenizer = tiny
    assert model.config.model_type == "qwen3" and not model.training
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_loading_prints_nothing(capfd):
    ftlab.load("tiny")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_name_with_a_typo_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ftlab.ModelError, match="Did you mean 'tiny'"):
        ftlab.load("tinny")


def test_a_hub_name_offline_says_how_to_go_online(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ftlab.ModelError, match="online=True"):
        ftlab.load("Qwen/Qwen3-0.6B")


def test_a_folder_with_pickled_weights_is_refused(tmp_path):
    shutil.copy(ftlab.data_dir() / "tiny" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ftlab.ModelError, match="no pickle files"):
        ftlab.load(str(tmp_path))


def test_a_truncated_weight_file_is_one_message(tmp_path):
    shutil.copytree(ftlab.data_dir() / "tiny", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ftlab.Error, match="cannot be loaded"):
        ftlab.load(str(tmp_path / "cut"))


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    shutil.copytree(ftlab.data_dir() / "tiny", tmp_path / "grown")
    model, tokenizer = ftlab.load("tiny")
    room = model.get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"new{i}" for i in range(room)])
    tokenizer.save_pretrained(tmp_path / "grown")
    with pytest.raises(ftlab.ModelError, match="embeddings"):
        ftlab.load(str(tmp_path / "grown"))


def test_an_adapter_without_safetensors_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ftlab.ModelError, match="no pickle files"):
        ftlab.load("tiny", adapter=tmp_path)


def test_the_choice_of_device_and_precision_has_a_reason():
    device = pick_device()
    assert device.value in ("cpu", "cuda", "mps") and device.reason
    assert pick_dtype("cpu").value == "float32"


def test_a_t4_is_not_taken_for_a_bf16_card(monkeypatch):
    # PyTorch answers True for a T4 unless told to leave emulation out.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert pick_dtype("cuda").value == "float16"


@pytest.fixture
def adapters(tiny, tmp_path):
    """Two LoRA folders, the first on the embeddings too, and the logits of both at once."""
    inner = copy.deepcopy(tiny[0])
    for name, targets in (("a", ["q_proj", "embed_tokens"]), ("b", ["v_proj"])):
        torch.manual_seed(len(targets))
        config = LoraConfig(target_modules=targets, init_lora_weights=False, r=2)
        model = get_peft_model(inner, config)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        untie(model.get_base_model())
        inner = model.merge_and_unload()
    with torch.no_grad():
        total = inner(torch.arange(20, 40)[None]).logits
    return f"{tmp_path / 'a'}, {tmp_path / 'b'}", total


def test_several_adapters_add_up_as_in_llamafactory(adapters):
    names, expected = adapters
    model, _ = load_for(ftlab.Recipe(adapter_name_or_path=names))
    assert len(model.peft_config) == 1  # the first is merged, the last can be trained on
    with torch.no_grad():
        found = model(torch.arange(20, 40)[None]).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_recipe_loads_what_its_keys_say_and_changes_win(adapters):
    recipe = ftlab.Recipe(quantization_bit=4, double_quantization=False, quantization_type="fp4")
    model, _ = load_for(recipe)
    assert describe(model) == {"method": "bnb", "bits": 4, "type": "fp4", "double": False}
    assert describe(load_for(recipe, quantization_bit=None)[0]) is None
    with pytest.raises(ftlab.ModelError, match="rounds them away"):
        load_for(recipe, adapter=adapters[0].split(", "))


def test_rope_scaling_reaches_the_model():
    model, _ = load_for(ftlab.Recipe(rope_scaling="linear", cutoff_len=4096))
    assert model.config.rope_parameters["rope_type"] == "linear"
    assert model.config.rope_parameters["factor"] == 4
