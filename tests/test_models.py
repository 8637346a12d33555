"""Loading: the shipped model, folders, and names that are neither."""

import json
import shutil

import pytest
import torch

import ftlab
from ftlab.models import pick_device, pick_dtype


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
