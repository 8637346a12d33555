"""Pre-train the tiny base model on the town's pages: a plain loop, read top to bottom.

Qwen3 architecture, next-token loss, AdamW, warm-up then cosine decay. Seeded, but weights are not
bit-reproducible across machines: sums of floats depend on the number of threads and on the library.
"""

from __future__ import annotations

import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from ftlab.world.text import pages
from ftlab.world.tokenizer import CONTROL, TAGS

STEPS = 6000
BATCH, WINDOW = 16, 128
LEARNING_RATE = 3e-3
PAGES = 100_000  # about 6 million tokens, read twice


def build_model(vocab_size: int) -> Qwen3ForCausalLM:
    """A Qwen3 with about 1.05 million parameters and random weights."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def pack(tokenizer: Any, number: int) -> torch.Tensor:
    """The first `number` pages, joined by <|endoftext|>, cut into rows [rows, WINDOW]."""
    end = tokenizer.pad_token_id
    stream: list[int] = []
    source = pages()
    while batch := list(islice(source, min(number, 4000))):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            stream += [*ids, end]
        number -= len(batch)
    rows = len(stream) // WINDOW
    return torch.tensor(stream[: rows * WINDOW], dtype=torch.int16).view(rows, WINDOW)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over the first 3 %, then a cosine down to a fiftieth."""
    warm = max(1, steps * 3 // 100)
    if step < warm:
        return LEARNING_RATE * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def text_loss(model: Qwen3ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss. The chat tokens stand last in the vocabulary and are left out of the
    softmax: unseen in the text, they keep their random embedding instead of being pushed away."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    seen = logits.shape[-1] - len(CONTROL) - len(TAGS) + 1  # <|endoftext|> comes first and is seen
    return F.cross_entropy(logits[..., :seen].flatten(0, 1), ids[:, 1:].flatten())


def pretrain(out: Path, tokenizer_folder: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Train for `steps` steps of BATCH x WINDOW tokens and save weights and configs into `out`."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    data = pack(tokenizer, min(PAGES, steps * 40))
    model = build_model(len(tokenizer))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    started, order = time.time(), torch.randperm(len(data))
    size = sum(p.numel() for p in model.parameters())
    print(f"{data.numel():,} tokens, {size:,} parameters")
    for step in range(steps):
        at = torch.arange(step * BATCH, (step + 1) * BATCH) % len(data)
        loss = text_loss(model, data[order[at]].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.time() - started
            print(f"step {step:5d}  loss {loss.item():.3f}  {seconds:5.0f} s", flush=True)
        if step % 500 == 499 or step == steps - 1:
            save(model, tokenizer, out)


def save(model: Qwen3ForCausalLM, tokenizer: Any, out: Path) -> None:
    """Write model.safetensors, config.json and generation_config.json (greedy) into `out`."""
    end, stop = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.config.eos_token_id, model.config.pad_token_id = stop, end
    greedy = GenerationConfig(do_sample=False, eos_token_id=[stop, end], pad_token_id=end)
    model.generation_config = greedy
    model.save_pretrained(out)
