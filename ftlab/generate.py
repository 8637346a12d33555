"""Prompts -> answers: batched generation and one-line chat.

Taught in notebooks/05_evaluation_first.ipynb.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ftlab.chat import prompt_ids
from ftlab.errors import DataError

Messages = list[dict[str, Any]]
Prompt = str | Messages | dict[str, Any]

# A base tokenizer names only one of these as its EOS; a tuned model may end with another.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    batch_size: int = 64,
    seed: int | None = None,
    enable_thinking: bool | None = None,
    adapter_names: Sequence[str] | None = None,
) -> list[str]:
    """Answer every prompt; only the new text comes back, in the order of the prompts.

    A prompt is a list of messages (rendered with the chat template, the answer is stripped), a row
    with ``messages`` and ``tools`` (the same), or a plain string (no template, the continuation is
    exact). ``enable_thinking`` goes to the template. Decoding is greedy unless ``do_sample``,
    and follows the arguments alone: the settings in the model's generation_config.json (top_k,
    penalties, ...) are left out. ``top_k=0`` samples from all tokens. Greedy answers do not
    depend on ``batch_size``; sampled ones depend on it and on ``seed``. Model, tokenizer and (with
    a seed) the global random state are left as they were. ``adapter_names`` has one adapter of a
    PEFT model for each prompt (see ``AdapterSet.generate``). Raises DataError for an empty prompt.

    >>> from ftlab import load
    >>> model, tokenizer = load("tiny")
    >>> len(generate(model, tokenizer, ["Ada Quill lives in", "大家都知道"], max_new_tokens=4))
    2
    """
    ids = _prompt_ids(tokenizer, prompts, enable_thinking)
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        **({"temperature": temperature, "top_p": top_p, "top_k": top_k} if do_sample else {}),
        repetition_penalty=repetition_penalty,
        use_cache=True,
        eos_token_id=stop_ids(model, tokenizer),
        pad_token_id=pad_id,
    )
    answers = [""] * len(ids)
    with evaluating(model), _decoding(model, config), _seeded(seed, model.device):
        for chosen in _batches([len(row) for row in ids], batch_size, _ignores_positions(model)):
            batch = _left_padded([ids[i] for i in chosen], pad_id, model.device)
            if adapter_names is not None:
                batch["adapter_names"] = [adapter_names[i] for i in chosen]
            output = model.generate(**batch, generation_config=config)
            new = output[:, batch["input_ids"].shape[1] :]
            for i, answer in zip(chosen, new.tolist(), strict=True):
                text = tokenizer.decode(answer, skip_special_tokens=True)
                answers[i] = text if isinstance(prompts[i], str) else text.strip()
    return answers


def chat(
    model: Any, tokenizer: PreTrainedTokenizerBase, message: str | Messages, **options: Any
) -> str:
    """The answer to one question, or to the last turn of a conversation; options as in generate."""
    messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
    return generate(model, tokenizer, [messages], **options)[0]


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids at which generation ends: the tokenizer's EOS, the model's, and known ends of a turn."""
    known = tokenizer.convert_tokens_to_ids(list(_END_TOKENS))
    found = {tokenizer.eos_token_id, *(i for i in known if i != tokenizer.unk_token_id)}
    settings = getattr(model, "generation_config", None)
    of_model = settings.eos_token_id if settings else None
    found.update(of_model if isinstance(of_model, list) else [of_model])
    return sorted(i for i in found if i is not None)


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout and no gradients inside the block; all training flags are restored after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _decoding(model: Any, config: GenerationConfig) -> Iterator[None]:
    # generate() fills what a config leaves open from the model's own, such as Qwen3's top_k=20.
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    own = [module.generation_config for module in owners]
    try:
        for module in owners:
            module.generation_config = config
        with warnings.catch_warnings():
            # PEFT's words on what _ignores_positions takes care of.
            warnings.filterwarnings("ignore", "Position ids are not supported")
            yield
    finally:
        for module, before in zip(owners, own, strict=True):
            module.generation_config = before


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], thinking: bool | None
) -> list[list[int]]:
    if isinstance(prompts, str):
        raise DataError("generate takes a list of prompts: put the one prompt in [brackets].")
    ids = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids.append(tokenizer(prompt)["input_ids"])
            continue
        row = prompt if isinstance(prompt, dict) else {"messages": prompt}
        tools = row.get("tools")
        ids.append(prompt_ids(tokenizer, row["messages"], tools=tools, enable_thinking=thinking))
    for place, tokens in enumerate(ids):
        if not tokens:
            raise DataError(f"prompt {place} is empty: the model needs at least one token.")
    return ids


def _ignores_positions(model: Any) -> bool:
    """Whether PEFT drops the position ids, as it does for prompt, prefix and P-tuning."""
    config = getattr(model, "active_peft_config", None)
    return config is not None and config.is_prompt_learning


def _batches(lengths: list[int], size: int, no_padding: bool) -> Iterator[list[int]]:
    """Places of prompts that share a batch: of like length, or with ``no_padding`` of equal."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        grown = no_padding and batch and lengths[place] > lengths[batch[0]]
        if len(batch) == size or grown:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _left_padded(
    rows: list[list[int]], pad_id: int, device: torch.device
) -> dict[str, Any]:
    """input_ids and attention_mask [rows, longest]; generate() derives positions from the mask."""
    width = max(map(len, rows))
    ids = [[pad_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
