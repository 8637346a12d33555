"""Exercises of notebooks/06_pretraining_the_base.ipynb."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ftlab.exercises.engine import exercise, expect


@exercise(
    "start",
    hints=(
        "Two conversions: from one unit of information to another, and from tokens to bytes.",
        "A nat is 1 / ln 2 bits. The text as a whole costs `loss * tokens` nats.",
        "Total bits = `loss * tokens / math.log(2)`; share them out over the bytes.",
    ),
    solution="""
import math


def bits_per_byte(loss, tokens, bytes):
    return loss * tokens / math.log(2) / bytes
""",
    why="A loss per token depends on how long the tokens are; bytes are the same for everyone.",
)
def bits_per_byte(answer: Callable[[float, int, int], float]) -> None:
    """Loss (nats per token), number of tokens and of bytes -> bits per byte."""
    expect(answer(0.0, 10, 40) == 0, "a loss of zero costs no bits")
    full, half = answer(1.5, 100, 300), answer(1.5, 100, 600)
    expect(math.isclose(half * 2, full), "the same loss spread over twice the bytes is half")
    more = answer(1.5, 200, 300)
    expect(math.isclose(more, full * 2), "twice the tokens on the same bytes cost twice the bits")
    coin = answer(math.log(2), 64, 64)
    expect(
        math.isclose(coin, 1.0),
        "choosing between two equally likely tokens of one byte each costs one bit a byte",
    )


def _reference_loss_by_position(logits: Any, ids: Any) -> list[float]:
    losses = []
    for position in range(ids.shape[1] - 1):
        log_probabilities = logits[:, position].log_softmax(-1)
        rows = [-log_probabilities[row, token] for row, token in enumerate(ids[:, position + 1])]
        losses.append(float(sum(rows)) / len(rows))
    return losses


@exercise(
    "build",
    hints=(
        "Which logits predict which token? The last logits predict a token that is not there.",
        "Compare `logits[:, :-1]` with `ids[:, 1:]`, and keep one loss per token.",
        "`F.cross_entropy(guesses.transpose(1, 2), targets, reduction='none')`, then mean over 0.",
    ),
    solution="""
import torch.nn.functional as F


def loss_by_position(logits, ids):
    guesses, targets = logits[:, :-1], ids[:, 1:]
    losses = F.cross_entropy(guesses.transpose(1, 2), targets, reduction="none")
    return losses.mean(dim=0)
""",
    why="Logits at position t see tokens up to t and are judged by token t + 1.",
)
def loss_by_position(answer: Callable[[Any, Any], Any]) -> None:
    """Logits [rows, length, vocabulary], ids [rows, length] -> mean loss [length - 1]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (4, 6), generator=generator)
    logits = torch.randn(4, 6, 11, generator=generator)
    knows = torch.full((4, 6, 11), -30.0).scatter(2, ids.roll(-1, dims=1)[..., None], 30.0)

    losses = answer(logits, ids)
    expect(hasattr(losses, "shape"), "a tensor with one loss for each position")
    expect(losses.ndim == 1, "one dimension: the mean over the rows, one loss for each position")
    expect(losses.shape == (5,), "one loss fewer than tokens, because the first is not predicted")
    expect(bool((losses >= 0).all()), "no negative losses")
    perfect = answer(knows, ids)
    expect(
        float(perfect.max()) < 1e-3,
        "a loss near 0 everywhere for logits that put all weight on the token that comes next",
    )
    flat = answer(torch.zeros(4, 6, 11), ids)
    expect(
        math.isclose(float(flat.mean()), math.log(11), rel_tol=1e-4),
        "a loss of ln 11 at each position when all 11 tokens are equally likely",
    )
    reference = torch.tensor(_reference_loss_by_position(logits, ids))
    expect(torch.allclose(losses.float(), reference, atol=1e-4), "the mean over all rows")


_SHAPE = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def _reference_count(config: dict[str, Any]) -> int:
    hidden, head = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    attention = 2 * hidden * heads * head + 2 * hidden * kv_heads * head + 2 * head
    block = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    tables = 1 if config["tie_word_embeddings"] else 2
    rows = tables * config["vocab_size"] * hidden
    return int(rows + config["num_hidden_layers"] * block + hidden)


@exercise(
    "explore",
    hints=(
        "Walk through the classes above. A matrix from `a` numbers to `b` numbers has `a * b`.",
        "Queries are `heads * head_dim` wide, keys and values `kv_heads * head_dim`. Four norms.",
        "`tables * vocab * hidden + layers * (attention + 3 * hidden * intermediate + 2 * hidden)`"
        + " and the last norm; `tables` is 1 when the embedding is tied.",
    ),
    solution="""
def count_parameters(config):
    hidden, head = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    attention = 2 * hidden * heads * head  # query and output
    attention += 2 * hidden * kv_heads * head  # key and value
    attention += 2 * head  # the norms of query and key
    mlp = 3 * hidden * config["intermediate_size"]
    block = attention + mlp + 2 * hidden  # two norms
    tables = 1 if config["tie_word_embeddings"] else 2
    embedding = tables * config["vocab_size"] * hidden
    return embedding + config["num_hidden_layers"] * block + hidden  # the last norm
""",
    why="Shapes alone tell the size of a model, so config.json is enough to plan memory.",
)
def count_parameters(answer: Callable[[dict[str, Any]], int]) -> None:
    """The dict of a config.json (Qwen3) -> number of parameters."""

    def change(**values: Any) -> tuple[int, int, dict[str, Any]]:
        changed = _SHAPE | values
        yours = answer(changed) - answer(dict(_SHAPE))
        return yours, _reference_count(changed) - _reference_count(_SHAPE), values

    parts: dict[str, dict[str, Any]] = {
        "one more token adds one row of the embedding": {"vocab_size": 1001},
        "without tied embeddings there is a second vocabulary matrix": {
            "tie_word_embeddings": False
        },
        "a wider MLP widens three matrices in each layer": {"intermediate_size": 161},
        "fewer key/value heads shrink two matrices in each layer": {"num_key_value_heads": 1},
        "more query heads widen two matrices in each layer": {"num_attention_heads": 9},
        "head_dim counts in all four projections and in two norms": {"head_dim": 17},
        "one more layer adds one block with all its norms": {"num_hidden_layers": 4},
    }
    for wanted, values in parts.items():
        yours, reference, given = change(**values)
        expect(yours == reference, wanted, given=given, yours=f"{yours:+,} parameters")
    total = answer(dict(_SHAPE))
    expect(total == _reference_count(_SHAPE), "the last norm counts as well, once")
