"""Time to first token and tokens a second: the server, and ftlab's stream, against a bare
`model.generate` on the same prompt."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

import ftlab
from ftlab.chat import prompt_ids
from ftlab.generate import stop_ids, stream
from ftlab.serving.server import serve

TOKENS, ROUNDS = 100, 5
QUESTION = "Tell me all about the market and the people who live there."
MESSAGES = [{"role": "user", "content": QUESTION}]


class Clock(BaseStreamer):
    """When each new token came; the prompt comes first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """A token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """The last token has come."""


def bare(model: Any, tokenizer: Any) -> list[float]:
    """Times of each new token with nothing around `model.generate`, the start at 0."""
    began, clock = time.perf_counter(), Clock()
    ids = torch.tensor([prompt_ids(tokenizer, MESSAGES)])
    with torch.no_grad():
        model.generate(ids, max_new_tokens=TOKENS, do_sample=False, streamer=clock)
    return [at - began for at in clock.times[1:]]


def streamed(model: Any, tokenizer: Any) -> list[float]:
    """Times of each piece of `ftlab.generate.stream`."""
    began = time.perf_counter()
    pieces = stream(model, tokenizer, MESSAGES, max_new_tokens=TOKENS)
    return [time.perf_counter() - began for _ in pieces]


def served(port: int) -> list[float]:
    """Times of each event of the server with text in it, over HTTP."""
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": TOKENS, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began, times = time.perf_counter(), []
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    for line in connection.getresponse():
        if b'"content": "' in line and b'"content": ""' not in line:
            times.append(time.perf_counter() - began)
    connection.close()
    return times


def measure() -> dict[str, float]:
    """Medians over interleaved rounds: milliseconds, tokens a second, and their ratios."""
    with serve("tiny", port=0) as server:
        port, (model, tokenizer) = int(server.url.split(":")[2].split("/")[0]), ftlab.load("tiny")
        for one in (model, server.model):  # every answer has the same length
            never_end(one, stop_ids(model, tokenizer))
        ways: dict[str, Callable[[], list[float]]] = {
            "model.generate": lambda: bare(model, tokenizer),
            "stream": lambda: streamed(model, tokenizer),
            "server": lambda: served(port),
        }
        for way in ways.values():
            way()
        rounds = [{name: way() for name, way in ways.items()} for _ in range(ROUNDS)]
    first = {name: [1000 * one[name][0] for one in rounds] for name in ways}
    speed = {name: [TOKENS / one[name][-1] for one in rounds] for name in ways}
    results = {}
    for name in ways:
        results[f"{name}: time to first token, ms"] = statistics.median(first[name])
        results[f"{name}: tokens a second"] = statistics.median(speed[name])
    for name in ("stream", "server"):
        for what, table, turned in (("first token", first, 1), ("time a token", speed, -1)):
            pairs = zip(table[name], table["model.generate"], strict=True)
            ratio = statistics.median((ours / base) ** turned for ours, base in pairs)
            results[f"{name} / model.generate: {what}"] = ratio
    return results


def never_end(model: Any, ends: list[int]) -> None:
    """Make a model write on until it is stopped."""

    def forbid(module: Any, inputs: Any, output: Any) -> None:
        output.logits[..., ends] = -torch.inf

    model.register_forward_hook(forbid)
