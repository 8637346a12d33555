"""An answer piece by piece, while the model writes it.

``ftlab.generate.stream`` makes a ``Stream``; chat, panel and server read it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from ftlab.errors import DataError
from ftlab.generate import Decoding, Prompt, first_of, ids_of, ready, stop_ids, turn

_THINK, _THOUGHT = "<think>", "</think>"


class Stream(Iterator[str]):
    """The pieces of one answer; the model begins when the first one is asked for. ``close()``,
    from any thread, ends it at the next token.

    ``prompt_tokens`` and ``new_tokens`` are counts; ``finish_reason`` is "stop" (the model ended
    its turn, or a stop text came), "length", or None before the end. ``opened``: the prompt leaves
    a <think> tag open, so the answer begins inside it.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, decoding: Decoding
    ) -> None:
        self._closed = threading.Event()
        ids = ids_of(tokenizer, [prompt], decoding.enable_thinking)[0]
        limit = min(decoding.max_new_tokens, _room(model, len(ids)))
        decoding = replace(decoding, max_new_tokens=limit)
        self.prompt_tokens, self.new_tokens = len(ids), 0
        self.finish_reason: str | None = None
        self.opened = tokenizer.decode(ids[-8:]).rstrip().endswith(_THINK)
        self._stop, self._ends = decoding.stop, stop_ids(model, tokenizer)
        self._tokenizer, self._strip = tokenizer, not isinstance(prompt, str)
        self._ids: list[int] = []
        self._start = self._end = 0  # ids[start:end] are said; the next token's text may need them
        self._held, self._began, self._over = "", False, False
        self._queue: SimpleQueue[Any] = SimpleQueue()
        # The thread does not know the Stream: one that nobody holds any more ends its thread.
        work = (model, tokenizer, ids, decoding, self._queue, self._closed)
        self._thread = threading.Thread(target=_produce, args=work, daemon=True)

    def __next__(self) -> str:
        if self._thread.ident is None:
            self._thread.start()
        while not self._over:
            piece = self._grown(self._queue.get())
            if self._strip and not self._began:
                piece = piece.lstrip()
            if piece:
                self._began = True
                return piece
        raise StopIteration

    def close(self) -> None:
        """End the answer; returns when the model is at rest again."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._closed.set()

    def _grown(self, new: Any) -> str:
        """The text that new ids (None: there are no more) make ready to be said."""
        if new is None or isinstance(new, BaseException):
            return self._ended(new)
        self._ids += new
        self.new_tokens += len(new)
        text = self._unsaid()
        if not text or text.endswith("\ufffd"):  # half a character, until the next token comes
            return ""
        self._held += text
        self._start, self._end = self._end, len(self._ids)
        found = first_of(self._held, self._stop)
        if found is not None:
            self.close()
            self._held, self.finish_reason = self._held[:found], "stop"
            return self._ended()
        said = self._held[: len(self._held) - tail_of(self._held, self._stop)]
        said = said.rstrip() if self._strip else said
        self._held = self._held[len(said) :]
        return said

    def _ended(self, error: BaseException | None = None) -> str:
        """The last piece."""
        self._over = True
        if error is not None:
            raise error
        if not self._closed.is_set():
            self.finish_reason = "stop" if self._ids[-1] in self._ends else "length"
            self._held += self._unsaid().rstrip("\ufffd")
        return self._held.rstrip() if self._strip else self._held

    def _unsaid(self) -> str:
        before, all_of = self._ids[self._start : self._end], self._ids[self._start :]
        decode = partial(self._tokenizer.decode, skip_special_tokens=True)
        return str(decode(all_of))[len(decode(before)) :]


def split_thoughts(text: str, *, opened: bool = False, whole: bool = True) -> tuple[str, str]:
    """What an answer thinks and what it says: the text inside <think> tags, the text after them.

    ``opened``: the prompt wrote <think> already (``Stream.opened``). ``whole=False``: more text
    may follow, so what could be the beginning of a tag is in neither part yet.

    >>> split_thoughts("<think>\\n1 + 1\\n</think>\\n\\nTwo."), split_thoughts("Two.")
    (('1 + 1', 'Two.'), ('', 'Two.'))
    >>> split_thoughts("<think>1 + 1</th", whole=False)
    ('1 + 1', '')
    """
    begun = text.lstrip()
    if not opened and not begun.startswith(_THINK):
        waits = not whole and _THINK.startswith(begun)
        return "", "" if waits else text
    thoughts, _, answer = begun.removeprefix(_THINK).partition(_THOUGHT)
    if not whole and not answer:
        thoughts = thoughts[: len(thoughts) - tail_of(thoughts, [_THOUGHT])]
    return thoughts.strip(), answer.lstrip()


def tail_of(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop text."""
    sizes = (n for s in stop for n in range(1, len(s)) if text.endswith(s[:n]))
    return max(sizes, default=0)


def _produce(
    model: Any, tokenizer: PreTrainedTokenizerBase, ids: list[int], decoding: Decoding,
    queue: SimpleQueue[Any], closed: threading.Event,
) -> None:  # fmt: skip
    """Put each new id into the queue, then None, or the error that ended it."""
    last: BaseException | None = None
    try:
        while not turn.acquire(timeout=0.05):
            if closed.is_set():
                return
        try:
            with ready(model, tokenizer, decoding) as write:
                write([ids], streamer=_Tap(queue, closed))
        finally:
            turn.release()
    except _Closed:
        pass
    except BaseException as error:  # a thread's exception is silent: the reader raises it
        last = error
    finally:
        queue.put(last)
        queue.put(None)


class _Closed(Exception):
    """Nobody reads on."""


class _Tap(BaseStreamer):
    """What model.generate hands each new token to; the prompt comes first."""

    def __init__(self, queue: SimpleQueue[Any], closed: threading.Event) -> None:
        self.queue, self.closed, self.begun = queue, closed, False

    def put(self, value: torch.Tensor) -> None:
        if self.closed.is_set():
            raise _Closed
        if self.begun:
            self.queue.put(value.tolist())
        self.begun = True

    def end(self) -> None:
        pass


def _room(model: Any, tokens: int) -> int:
    """How many tokens a model can still write after a prompt; DataError for none."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is None:
        return 2**31
    if tokens >= longest:
        raise DataError(
            f"the conversation has {tokens:,} tokens, and the model reads {longest:,}: begin a "
            "new one, or shorten it."
        )
    return longest - tokens
