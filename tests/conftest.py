"""Shared set-up: nothing here reaches the network, and slow things are built once."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from ftlab.doctor import OFFLINE

# Before any test imports a Hugging Face library; the notebooks' kernels inherit it.
os.environ.update(OFFLINE)
# One thread a process: two of them wait for each other whenever something else needs a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: Any) -> None:
    """Jupyter kernels and browsers talk over the loopback; everything else is a leak."""
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test tried to reach the network: {address}")
    _connect(self, address)


socket.socket.connect = _connect_locally


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    """The shipped model and its tokenizer, loaded once. Do not train it: copy it first."""
    import ftlab

    return ftlab.load("tiny")
