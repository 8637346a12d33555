"""Prompts -> answers: in batches, piece by piece, and one-line chat.

Taught in notebooks/05_evaluation_first.ipynb.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria

from ftlab.chat import prompt_ids
from ftlab.errors import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from ftlab.streaming import Stream

Messages = list[dict[str, Any]]
Prompt = str | Messages | dict[str, Any]

BASE = "base"  # as an adapter's name: the model without any

# A base tokenizer names only one of these as its EOS; a tuned model may end with another.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")

# A model's settings change while it answers, so threads (a panel, a server) take turns.
turn = threading.Lock()


@dataclass(frozen=True)
class Decoding:
    """How answers are chosen: the options of ``generate``, ``stream`` and ``chat``.

    Greedy unless ``do_sample`` (``temperature=0`` is greedy too); ``top_k=0`` samples from all
    tokens. ``stop``: texts that end an answer and are no part of it. ``enable_thinking`` goes to
    the chat template. ``adapter``: which adapter of a PEFT model answers, ``"base"`` for none of
    them; without it the one that is active. Raises RecipeError for a value that means nothing.
    """

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    enable_thinking: bool | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        for name, good, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, and 1 at most"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("stop", all(s and isinstance(s, str) for s in stop), "texts, none empty"),
        ):
            if not good:
                raise RecipeError(f"{name}={getattr(self, name)!r}: must be {wanted}.")

    def config(self, end_ids: list[int], pad_id: int) -> GenerationConfig:
        """These options as transformers has them."""
        sampling = self.do_sample and self.temperature > 0
        knobs = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=sampling,
            **(knobs if sampling else {}),
            repetition_penalty=self.repetition_penalty,
            use_cache=True,
            eos_token_id=end_ids,
            pad_token_id=pad_id,
        )


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 64,
    adapter_names: Sequence[str] | None = None,
    **options: Any,
) -> list[str]:
    """Answer every prompt; only the new text comes back, in the order of the prompts.

    A prompt is a list of messages (rendered with the chat template, the answer is stripped), a row
    with ``messages`` and ``tools`` (the same), or a plain string (no template, the continuation is
    exact). ``options`` are the fields of ``Decoding``: ``max_new_tokens=64``, ``do_sample``,
    ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``stop``,
    ``enable_thinking``, ``adapter``. They alone count: the settings in the model's
    generation_config.json (top_k, penalties, ...) are left out. Greedy answers do not depend on
    ``batch_size``; sampled ones depend on it and on ``seed``. Half a character at the end of the
    last token is left out. Model, tokenizer and (with a seed) the global random state are left as
    they were. ``adapter_names`` has one adapter of a PEFT model for each prompt (see
    ``AdapterSet.generate``). Raises DataError for an empty prompt, RecipeError for a wrong option.

    >>> from ftlab import load
    >>> model, tokenizer = load("tiny")
    >>> len(generate(model, tokenizer, ["Ada Quill lives in", "大家都知道"], max_new_tokens=4))
    2
    """
    decoding = Decoding(**options)
    ids = ids_of(tokenizer, prompts, decoding.enable_thinking)
    answers = [""] * len(ids)
    with turn, ready(model, tokenizer, decoding) as write:
        for chosen in _batches([len(row) for row in ids], batch_size, _ignores_positions(model)):
            names = {"adapter_names": [adapter_names[i] for i in chosen]} if adapter_names else {}
            new = write([ids[i] for i in chosen], **names)
            for i, answer in zip(chosen, new.tolist(), strict=True):
                text = tokenizer.decode(answer, skip_special_tokens=True).rstrip("\ufffd")
                text = text[: first_of(text, decoding.stop)]
                answers[i] = text if isinstance(prompts[i], str) else text.strip()
    return answers


def chat(
    model: Any, tokenizer: PreTrainedTokenizerBase, message: str | Messages, **options: Any
) -> str:
    """The answer to one question, or to the last turn of a conversation; options as in generate."""
    messages = [{"role": "user", "content": message}] if isinstance(message, str) else message
    return generate(model, tokenizer, [messages], **options)[0]


def stream(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, **options: Any
) -> Stream:
    """The answer of ``generate`` to one prompt, piece by piece while the model writes it.

    The pieces joined are that answer: whole characters only, and nothing of a stop text, also
    where it comes in parts. ``options`` as in ``generate``. Raises DataError for a prompt that
    leaves no room in the model's context; an error of the model is raised where you iterate.

    >>> from ftlab import load
    >>> "".join(stream(*load("tiny"), "大家都知道", max_new_tokens=4)) != ""
    True
    """
    from ftlab.streaming import Stream

    return Stream(model, tokenizer, prompt, Decoding(**options))


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
def ready(
    model: Any, tokenizer: PreTrainedTokenizerBase, decoding: Decoding
) -> Iterator[Callable[..., torch.Tensor]]:
    """A function from prompts' ids to the new ids [rows, longest]; all is put back after it."""
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = decoding.config(stop_ids(model, tokenizer), pad_id)

    def write(rows: list[list[int]], **more: Any) -> torch.Tensor:
        batch = _left_padded(rows, pad_id, model.device)
        width = batch["input_ids"].shape[1]
        if decoding.stop:
            more["stopping_criteria"] = [_StopTexts(tokenizer, decoding.stop, width)]
        output: torch.Tensor = model.generate(**batch, generation_config=config, **more)
        return output[:, width:]

    with (
        evaluating(model),
        _answering(model, decoding.adapter),
        _decoding(model, config),
        _seeded(decoding.seed, model.device),
    ):
        yield write


class _StopTexts(StoppingCriteria):
    """A row is done once its new text holds a stop text. transformers' own criterion first lays
    the whole vocabulary out in tables, which takes seconds for a large one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        # A token has a byte at least; a few more for tokens that decode to nothing.
        self.width = max(len(text.encode()) for text in stop) + 4

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.width) :]
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=True)
        done = [first_of(text, self.stop) is not None for text in texts]
        return torch.tensor(done, device=input_ids.device)


def first_of(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    return min((at for s in stop if (at := text.find(s)) >= 0), default=None)


@contextlib.contextmanager
def _answering(model: Any, adapter: str | None) -> Iterator[None]:
    """The model with that adapter, or with none of them, inside the block."""
    if adapter is None:
        yield
        return
    there = getattr(model, "peft_config", {})
    if adapter not in there and adapter != BASE:
        raise ModelError(f"adapter={adapter!r}: the model has {', '.join([BASE, *there])}.")
    if not there:
        yield
        return
    trained, active = [(p, p.requires_grad) for p in model.parameters()], model.active_adapter
    try:
        if adapter == BASE:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(adapter)
            yield
    finally:
        model.set_adapter(active)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)


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


def ids_of(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], thinking: bool | None
) -> list[list[int]]:
    """The ids of each prompt, rendered where it is a conversation; DataError for an empty one."""
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


def _left_padded(rows: list[list[int]], pad_id: int, device: torch.device) -> dict[str, Any]:
    """input_ids and attention_mask [rows, longest]; generate() derives positions from the mask."""
    width = max(map(len, rows))
    ids = [[pad_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
