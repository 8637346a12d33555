"""Tests that need an NVIDIA GPU: marked gpu, and skipped with the reason where there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab import hardware
from ftlab.models import load_tokenizer
from tests.throwaway import small_model

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, and say why it is skipped."""
    machine = hardware.here()
    missing = None if machine.device == "cuda" else f"no NVIDIA GPU: here is {machine}"
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    """Skip a test that asks for a package, by the fixture of its name, which is not installed."""
    for name in hardware.KERNELS:
        if name in request.fixturenames and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture
def unsloth() -> None:
    """For a test that needs Unsloth installed."""


@pytest.fixture
def liger_kernel() -> None:
    """For a test that needs Liger's kernels installed."""


@pytest.fixture
def flash_attn() -> None:
    """For a test that needs FlashAttention-2 installed."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: Any) -> str:
    """A model of Qwen3's shape with random weights, wide enough for every kernel, in a folder."""
    path = tmp_path_factory.mktemp("model") / "random"
    tokenizer = load_tokenizer("tiny")
    model = small_model(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=2048,
        initializer_range=0.05,
    )  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
