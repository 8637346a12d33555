"""Step time of ftlab.train against a bare PyTorch loop on the same work."""

from __future__ import annotations

import statistics
import time

import torch
from peft import get_peft_model
from transformers import get_scheduler

import ftlab
from ftlab import batches
from ftlab.adapters import lora_config

ROWS, LENGTH, STEPS, WARM, ROUNDS = 16, 64, 40, 10, 5


def recipe(method: str) -> ftlab.Recipe:
    """Windows of 64 tokens, 16 a step, one optimizer step each."""
    return ftlab.Recipe(
        stage="pt", finetuning_type=method, cutoff_len=LENGTH, max_steps=STEPS,
        per_device_train_batch_size=ROWS, learning_rate=1e-3,
    )  # fmt: skip


def bare_loop(method: str, rows: ftlab.Data) -> list[float]:
    """Seconds of each step of a loop with nothing in it but the training."""
    settings = recipe(method)
    model, tokenizer = ftlab.load("tiny")
    if method == "lora":
        model = get_peft_model(model, lora_config(settings))
    model.train()
    windows = torch.tensor(batches.dataset(tokenizer, rows, settings)[0]["input_ids"][:-1])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_scheduler("linear", optimizer, 0, STEPS)
    times, mask = [], torch.ones(ROWS, LENGTH, dtype=torch.long)
    for _ in range(STEPS):
        began = time.perf_counter()
        batch = windows[torch.randint(len(windows), (ROWS,))]
        loss = model(input_ids=batch, attention_mask=mask, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
        times.append(time.perf_counter() - began)
    return times[WARM:]


def with_ftlab(method: str, rows: ftlab.Data) -> list[float]:
    """Seconds of each step of ftlab.train, read from the history of the run."""
    model, tokenizer = ftlab.load("tiny")
    run = ftlab.train(
        recipe(method), rows, model=model, tokenizer=tokenizer, save=False, quiet=True
    )
    clock = [record["seconds"] for record in run.history]
    return [after - before for before, after in zip(clock, clock[1:], strict=False)][WARM - 1 :]


def measure() -> dict[str, float]:
    """Medians over interleaved rounds, in milliseconds a step, and their ratios."""
    rows = ftlab.read("world_text").take(2000)
    results: dict[str, float] = {}
    for method in ("full", "lora"):
        pairs = [(bare_loop(method, rows), with_ftlab(method, rows)) for _ in range(ROUNDS)]
        ratios = [statistics.median(ours) / statistics.median(bare) for bare, ours in pairs]
        results[f"{method}: bare loop, ms a step"] = 1000 * statistics.median(
            t for bare, _ in pairs for t in bare
        )
        results[f"{method}: ftlab.train, ms a step"] = 1000 * statistics.median(
            t for _, ours in pairs for t in ours
        )
        results[f"{method}: ftlab.train / bare loop"] = statistics.median(ratios)
    return results
