"""OpenAI's chat completions over HTTP: what is asked, checked; what is answered, in their form.

Fields as in https://platform.openai.com/docs/api-reference/chat, with three that vLLM and
transformers also have: ``top_k``, ``chat_template_kwargs.enable_thinking``, ``reasoning_content``.
A field that would change the answer and is not known here is an error, never ignored.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import traceback
from asyncio import Lock
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ftlab.chat.calls import parse_calls
from ftlab.errors import Error
from ftlab.generate import stream
from ftlab.streaming import Stream, split_thoughts, tail_of

BODY_LIMIT = 4_000_000  # bytes
LENGTH = 1024  # new tokens where a request names no number
LOCAL = ("127.0.0.1", "localhost", "[::1]")
_CALL = "<tool_call>"

# Fields that never change an answer, and values that ask for nothing.
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_NEUTRAL: dict[str, Any] = {
    "n": [1], "presence_penalty": [0], "frequency_penalty": [0], "logprobs": [False],
    "logit_bias": [{}], "response_format": [{"type": "text"}], "tool_choice": ["auto", "none"],
    "parallel_tool_calls": [True], "include_usage": [True, False],
    "include_obfuscation": [True, False], "enable_thinking": [True, False],
}  # fmt: skip


class Ask(BaseModel):
    """The body of a request for a chat completion."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Refused(Exception):
    """An answer in OpenAI's form for errors."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        """The error over HTTP."""
        return JSONResponse(self.body(), self.status)


class Api:
    """The routes around one model. ``voices``: name -> adapter and tokenizer; ``ending()`` is true
    once the server shuts down. ``asgi`` is the application."""

    def __init__(self, model: Any, voices: Mapping[str, Any], ending: Callable[[], bool]) -> None:
        self.model, self.voices, self.ending = model, voices, ending
        self.began, self.turn = int(time.time()), Lock()
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.add_api_route("/health", self.health)
        app.add_api_route("/v1/models", self.models)
        app.add_api_route("/v1/models/{name:path}", self.one_model)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_exception_handler(Refused, _refused)
        app.add_exception_handler(HTTPException, _refused)
        self.asgi = LocalOnly(app)

    async def health(self) -> dict[str, str]:
        """Alive."""
        return {"status": "ok"}

    async def models(self) -> dict[str, Any]:
        """All model names."""
        return {"object": "list", "data": [await self.one_model(name) for name in self.voices]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """One model by its name."""
        self._voice(name)
        return {"id": name, "object": "model", "created": self.began, "owned_by": "ftlab"}

    async def chat(self, request: Request) -> Any:
        """One answer, whole or as server-sent events."""
        ask = _read(await _body(request))
        voice = self._voice(ask.model)
        try:
            prompt = {"messages": _messages(ask.messages), "tools": _tools(ask)}
            options = {**_sampling(ask, self.model), "adapter": voice.adapter}
            begun = await run_in_threadpool(stream, self.model, voice.tokenizer, prompt, **options)
        except Error as error:
            raise Refused(400, str(error)) from error
        answer = Answer(ask, begun, bool(prompt["tools"]))
        deltas = self._deltas(answer, request)
        if ask.stream:
            return StreamingResponse(_events(answer, deltas), media_type="text/event-stream")
        try:
            async for _ in deltas:
                pass
        except Exception as error:
            raise Refused(500, _unexpected(error)) from error
        return answer.whole()

    def _voice(self, name: str) -> Any:
        if name not in self.voices:
            known = ", ".join(self.voices)
            raise Refused(404, f"model {name!r}: not served here. There are: {known}.",
                          "model_not_found")  # fmt: skip
        return self.voices[name]

    async def _deltas(self, answer: Answer, request: Request) -> AsyncIterator[dict[str, Any]]:
        """What each piece adds; ends early when the client is gone or the server shuts down."""
        async with self.turn:
            try:
                while not self.ending() and not await request.is_disconnected():
                    piece = await run_in_threadpool(next, answer.stream, None)
                    if delta := answer.grow(piece):
                        yield delta
                    if piece is None:
                        return
            finally:
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(answer.stream.close)


class Answer:
    """One answer while it grows: what was said so far, and how it looks in OpenAI's form."""

    def __init__(self, ask: Ask, begun: Stream, tools: bool) -> None:
        self.ask, self.stream, self.tools = ask, begun, tools
        self.text, self.calls = "", list[dict[str, Any]]()
        self.said = {"reasoning_content": "", "content": ""}
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()),
            "model": ask.model,
        }  # fmt: skip

    def grow(self, piece: str | None) -> dict[str, Any]:
        """Take in a piece, or the end (None); what clients have to add."""
        self.text += piece or ""
        ended = piece is None
        thoughts, content = split_thoughts(self.text, opened=self.stream.opened, whole=ended)
        if self.tools and ended:
            self.calls = [_call(one) for one in parse_calls(content) or []]
        if self.tools and (self.calls or not ended):
            content = _before_calls(content)
        before, self.said = self.said, {"reasoning_content": thoughts, "content": content}
        delta: dict[str, Any] = {
            key: new for key, text in self.said.items() if (new := text[len(before[key]) :])
        }
        if self.calls:
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(self.calls)]
        return delta

    @property
    def finish_reason(self) -> str | None:
        """Why it ended."""
        return "tool_calls" if self.calls else self.stream.finish_reason

    def usage(self) -> dict[str, int]:
        """Counts of tokens."""
        asked, new = self.stream.prompt_tokens, self.stream.new_tokens
        return {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new}

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", **self.said}
        if self.calls:
            message |= {"content": self.said["content"] or None, "tool_calls": self.calls}
        if not self.said["reasoning_content"]:
            del message["reasoning_content"]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason,
                  "logprobs": None}  # fmt: skip
        return {**self.head, "object": "chat.completion", "choices": [choice],
                "usage": self.usage()}  # fmt: skip

    def event(self, delta: dict[str, Any] | None, **more: Any) -> str:
        """One chunk as a server-sent event; without a delta it has no choices."""
        choices = [] if delta is None else [
            {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        ]  # fmt: skip
        body = {**self.head, "object": "chat.completion.chunk", "choices": choices}
        return _event(body if delta is not None else {**body, **more})


class LocalOnly:
    """Refuses what a web page sends: pages name their own host (also after DNS rebinding) or, in
    requests to others, their origin. Programs do neither."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        headers = {key: value.decode("latin-1") for key, value in scope.get("headers", ())}
        host = headers.get(b"host", "")
        origin = headers.get(b"origin", f"http://{host}")
        fault = None
        if re.sub(r":\d+$", "", host) not in LOCAL:
            fault = f"Host {host!r}: this server answers under {' and '.join(LOCAL[:2])} only."
        elif origin != f"http://{host}":
            fault = f"Origin {origin!r}: this server answers programs, not web pages."
        if scope["type"] == "http" and fault:
            await Refused(403, fault).response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{request.url.path}: {error.detail}.")
    assert isinstance(error, Refused)
    return error.response()


def _unexpected(error: Exception) -> str:
    """One line for the client; the traceback goes to the server's terminal."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


async def _body(request: Request) -> bytes:
    """The body, no larger than BODY_LIMIT."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_LIMIT:
            raise Refused(413, f"the request has more than {BODY_LIMIT:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def _read(body: bytes) -> Ask:
    """The request, if it asks for nothing that is not done here."""
    try:
        ask = Ask.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the request"
        raise Refused(400, f"{place}: {first['msg']}.") from error
    for key, value in [
        *(ask.model_extra or {}).items(),
        *(ask.stream_options or {}).items(),
        *(ask.chat_template_kwargs or {}).items(),
    ]:
        if value is not None and key not in _IGNORED and value not in _NEUTRAL.get(key, []):
            shown = json.dumps(value, ensure_ascii=False)[:80]
            raise Refused(400, f"{key}: {shown} is not supported by ftlab serve. Leave it out.")
    return ask


def _messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as chat templates have them: contents are texts."""
    made = []
    for place, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant", "tool"):
            raise Refused(400, f"messages.{place}.role: {role!r} is no role of a chat.")
        if isinstance(content, list):
            texts = [part.get("text") if isinstance(part, dict) else 0 for part in content]
            good = all(isinstance(text, str) for text in texts)
            content = "\n".join(map(str, texts)) if good else 0
        if content is None and message.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            raise Refused(400, f"messages.{place}.content: expected text, or parts of text.")
        made.append({**message, "role": role, "content": content})
    return made


def _tools(ask: Ask) -> list[dict[str, Any]] | None:
    """The tools that may be called."""
    for place, tool in enumerate(ask.tools or []):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused(400, f"tools.{place}: expected a function with a name.")
    return None if (ask.model_extra or {}).get("tool_choice") == "none" else ask.tools


def _sampling(ask: Ask, model: Any) -> dict[str, Any]:
    """Options of ``generate``: the model's own settings, with those of the request over them."""
    settings = model.generation_config.to_dict()
    names = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
    options = {name: settings[name] for name in names if settings.get(name) is not None}
    given = {name: getattr(ask, name) for name in ("temperature", "top_p", "top_k", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    if "temperature" in given or "top_p" in given:
        options["do_sample"] = given.get("temperature") != 0
    length = ask.max_completion_tokens or ask.max_tokens or LENGTH
    return {
        **options, **given, "max_new_tokens": length, "stop": ask.stop or (),
        "enable_thinking": (ask.chat_template_kwargs or {}).get("enable_thinking"),
    }  # fmt: skip


def _call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _before_calls(text: str) -> str:
    """What an answer says before its tool calls, or before what may become one."""
    if text.lstrip()[:1] in ("{", "["):
        return ""
    text = text.partition(_CALL)[0]
    return text[: len(text) - tail_of(text, [_CALL])].rstrip()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _events(answer: Answer, deltas: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    yield answer.event({"role": "assistant", "content": ""})
    try:
        async for delta in deltas:
            yield answer.event(delta)
    except Exception as error:  # the headers are out, so this is the only way to tell
        yield _event(Refused(500, _unexpected(error)).body())
        return
    yield answer.event({}, finish_reason=answer.finish_reason)
    if (answer.ask.stream_options or {}).get("include_usage"):
        yield answer.event(None, usage=answer.usage())
    yield "data: [DONE]\n\n"
