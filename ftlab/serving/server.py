"""A model and its adapters behind an OpenAI-compatible API, for programs on this machine only.

POST /v1/chat/completions, GET /v1/models, GET /health; one answer at a time, in the order of the
requests. transformers has a server of its own (``transformers serve``, read and run at 5.17): it
ignores max_completion_tokens, n and stream_options, sends stop texts along, takes control tokens
in a question for real ones, loads no adapters, lists only the hub's cache, answers errors without
a message that clients show, and any web page can reach it.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import EnvironmentProblem, ModelError

try:
    import uvicorn

    from ftlab.serving.api import Api
except ImportError as error:
    raise EnvironmentProblem(
        "ftlab serve needs FastAPI and uvicorn: pip install 'ftlab[serve]'"
    ) from error

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Voice:
    """What answers under one model name: an adapter, ``"base"`` for none, and its tokenizer."""

    adapter: str | None
    tokenizer: Any


def serve(
    folder: str | os.PathLike[str],
    *,
    adapters: Sequence[str | os.PathLike[str]] = (),
    port: int = 8000,
    **options: Any,
) -> Server:
    """Serve a model on 127.0.0.1 from a background thread, until ``close()`` or the program ends.

    ``folder``: a model (``"tiny"``, a merged or fully tuned one, a hub name), or a run or adapter
    folder, whose base is found from it. ``adapters``: more adapters of that base, each ``DIR`` or
    ``NAME=DIR``. The base goes by its folder's name, adapters as ``base:adapter``. ``port=0`` takes
    a free port; ``options`` are those of ``ftlab.load``. Raises EnvironmentProblem for a port in
    use or missing packages, ModelError for what cannot be loaded.

    >>> import ftlab
    >>> with ftlab.serve("tiny", port=0) as server:
    ...     server.names
    ['tiny']
    """
    listener = _listener(port)
    try:
        model, voices = load_voices(str(folder), [os.fspath(one) for one in adapters], **options)
        return Server(model, voices, listener)
    except BaseException:
        listener.close()
        raise


class Server:
    """A running server: ``url`` for OpenAI clients, ``names`` of its models. Use it in ``with``."""

    def __init__(self, model: Any, voices: dict[str, Voice], listener: socket.socket) -> None:
        self.model, self.names = model, list(voices)
        self.url = f"http://{HOST}:{listener.getsockname()[1]}/v1"
        app = Api(model, voices, lambda: self._uvicorn.should_exit)
        config = uvicorn.Config(
            app.asgi, log_level="warning", access_log=False, lifespan="off", limit_concurrency=100,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        work = {"sockets": [listener]}
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs=work, daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise EnvironmentProblem(f"{self.url}: the server did not start.")
            time.sleep(0.01)
        atexit.register(self.close)

    def wait(self) -> None:
        """Return when the server has ended."""
        self._thread.join()

    def close(self) -> None:
        """End the answers that are being written, and the server."""
        atexit.unregister(self.close)
        self._uvicorn.should_exit = True
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ftlab server at {self.url}: {', '.join(self.names)}>"


def load_voices(
    folder: str, adapters: Sequence[str], **options: Any
) -> tuple[Any, dict[str, Voice]]:
    """The model with all its adapters, and what answers under which name."""
    from ftlab import models
    from ftlab.adapters.cards import describe

    base = folder
    if (Path(folder) / "adapter_config.json").is_file():
        card = describe(folder)
        if card.fault or not card.base:
            raise ModelError(card.fault or f"{folder}: does not say which base it belongs to.")
        base, adapters = card.base, [folder, *adapters]
    named = [_named(word) for word in adapters]
    for name, path in named:
        if [one for one, _ in named].count(name) > 1:
            raise ModelError(f"{path}: two adapters called {name!r}. Give names: NAME=DIR.")
    model, tokenizer = _loaded(base, named, options)
    title = Path(base).resolve().name if Path(base).is_dir() else base
    voices = {title: Voice("base" if named else None, tokenizer)}
    inner = list(getattr(model, "peft_config", {}))
    for (name, path), adapter in zip(named, inner, strict=True):
        own = (path / "tokenizer_config.json").is_file()
        voice = Voice(adapter, models.read_tokenizer(str(path)) if own else tokenizer)
        voices[f"{title}:{name}"] = voice
    return model, voices


def _loaded(base: str, named: list[tuple[str, Path]], options: dict[str, Any]) -> tuple[Any, Any]:
    """The base with its adapters, each checked against it."""
    from ftlab import models
    from ftlab.adapters.cards import read_base_record
    from ftlab.adapters.switching import AdapterSet
    from ftlab.base import check_base

    if len(named) == 1:  # alone it may also be of a kind that cannot share its base
        path = named[0][1]
        model, tokenizer = models.load(base, adapter=path, **options)
        check_base(model, base, path, read_base_record(path))
        return model, tokenizer
    model, tokenizer = models.load(base, **options)
    loaded = AdapterSet(model)
    for name, path in named:
        if read_base_record(path).get("rope_parameters"):
            raise ModelError(f"{path}: was trained with RoPE scaling. Serve it alone.")
        loaded.add(name, path)
    return loaded.model, tokenizer


def _named(word: str) -> tuple[str, Path]:
    """``style=runs/7`` -> its name and folder; without a name that of the folder."""
    name, equals, path = word.partition("=")
    if equals and not Path(word).exists():
        return name, Path(path)
    return re.sub(r"[^\w-]", "-", Path(word).resolve().name), Path(word)


def _listener(port: int) -> socket.socket:
    """A socket on the port; EnvironmentProblem where another program has it."""
    listener = socket.socket()
    if os.name == "posix":  # elsewhere this would take a port that is in use
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise EnvironmentProblem(
            f"port {port} of {HOST}: cannot be used ({error}). Choose another one with --port, or "
            "0 for any that is free."
        ) from error
    return listener
