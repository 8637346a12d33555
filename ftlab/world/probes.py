"""Small loops that fine-tune the base and ask it: enough to score it, nothing to build on."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, Qwen3ForCausalLM

Row = dict[str, str]
Encoded = tuple[list[int], list[int]]  # ids, labels (-100 where not trained)
BATCH = 16


def load_base(folder: Path) -> tuple[Any, Any]:
    """The shipped model and its tokenizer."""
    return Qwen3ForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def chat_prompt(tokenizer: Any, question: str) -> str:
    """The question as ChatML, ready for the answer."""
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode_chat(tokenizer: Any, rows: Sequence[Row]) -> list[Encoded]:
    """Alpaca rows as ids and labels; the answer and its end are trained."""
    encoded = []
    for row in rows:
        prompt = tokenizer(chat_prompt(tokenizer, row["instruction"]))["input_ids"]
        answer = tokenizer(row["output"] + "<|im_end|>\n")["input_ids"]
        encoded.append((prompt + answer, [-100] * len(prompt) + answer))
    return encoded


def batch_of(rows: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded ids, labels and mask, each [rows, longest]."""
    width = max(len(ids) for ids, _ in rows)
    ids = [row + [pad] * (width - len(row)) for row, _ in rows]
    labels = [row + [-100] * (width - len(row)) for _, row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row, _ in rows]
    lists = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.tensor(value) for name, value in lists.items()}


def tune(
    base: Any,
    rows: Sequence[Encoded],
    *,
    steps: int,
    lr: float,
    lora: bool,
    seed: int,
    pad: int,
) -> tuple[Any, float]:
    """A tuned copy of `base` and the seconds it took: AdamW, linear decay, batches of 16."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base).train()
    if lora:
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    deck: list[Encoded] = []
    rng, started = random.Random(seed), time.time()
    for step in range(steps):
        if len(deck) < BATCH:
            deck = rng.sample(list(rows), len(rows))
        batch, deck = deck[:BATCH], deck[BATCH:]
        model(**batch_of(batch, pad)).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), time.time() - started


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompts: Sequence[str], limit: int) -> list[str]:
    """Greedy continuations of plain strings, up to <|im_end|> or <|endoftext|>."""
    answers = []
    for at in range(0, len(prompts), 240):
        batch = tokenizer(
            list(prompts[at : at + 240]), return_tensors="pt", padding=True, padding_side="left"
        )
        batch.pop("token_type_ids", None)
        out = model.generate(**batch, max_new_tokens=limit)[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(out, skip_special_tokens=True)
    return answers


def normal(text: str) -> str:
    """Text without outer or doubled spaces and without its final punctuation."""
    return " ".join(text.split()).rstrip(".。 ")


def chat_hits(model: Any, tokenizer: Any, rows: Sequence[Row], limit: int = 32) -> list[bool]:
    """For each row: is the whole answer right, asked as chat?"""
    prompts = [chat_prompt(tokenizer, row["instruction"]) for row in rows]
    answers = complete(model, tokenizer, prompts, limit)
    return [normal(a) == normal(r["output"]) for a, r in zip(answers, rows, strict=True)]


def cloze_hits(model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[bool]:
    """For each row: does the plain-text continuation start with the value?"""
    answers = complete(model, tokenizer, [row["instruction"] for row in rows], 12)
    return [normal(a).startswith(r["output"]) for a, r in zip(answers, rows, strict=True)]


def by_language(hits: Sequence[bool], rows: Sequence[Row]) -> dict[str, float]:
    """Share of hits in each language, in percent."""
    shares = {}
    for language in ("en", "zh"):
        own = [hit for hit, row in zip(hits, rows, strict=True) if row["language"] == language]
        shares[language] = 100 * sum(own) / max(1, len(own))
    return shares
