"""The server, asked with OpenAI's own client over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")

import ftlab  # noqa: E402
from ftlab.errors import EnvironmentProblem, ModelError  # noqa: E402
from ftlab.generate import generate, turn  # noqa: E402
from ftlab.serving.api import BODY_LIMIT  # noqa: E402
from ftlab.serving.server import Server, Voice, _listener, load_voices, serve  # noqa: E402
from tests.test_generate import Steps, saying  # noqa: E402
from tests.throwaway import small_model, small_tokenizer  # noqa: E402

QUESTION = [{"role": "user", "content": "Where does Ada Quill live?"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A LoRA run whose answers differ from the base's."""
    folder = tmp_path_factory.mktemp("runs") / "style"
    recipe = ftlab.Recipe(
        max_steps=12, learning_rate=5e-3, per_device_train_batch_size=8, output_dir=str(folder)
    )
    return ftlab.train(recipe, ftlab.read("world_qa").take(96), quiet=True)


@pytest.fixture(scope="module")
def server(run: Any) -> Iterator[Server]:
    with serve(run.folder, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return client_of(server)


def client_of(server: Server) -> Any:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def scripted() -> Iterator[Any]:
    """A server whose model answers what the test says: `model, client = scripted(text)`."""
    opened = []

    def make(text: str) -> Any:
        tokenizer = small_tokenizer()
        tokenizer.chat_template = "{{ tools | tojson if tools }}" + tokenizer.chat_template
        model = saying(small_model(), tokenizer, text)
        opened.append(Server(model, {"small": Voice(None, tokenizer)}, _listener(0)))
        return model, client_of(opened[-1])

    yield make
    for server in opened:
        server.close()


def ask(client: Any, **options: Any) -> Any:
    options = {"model": "small", "messages": QUESTION, "max_tokens": 99, **options}
    return client.chat.completions.create(**options)


def raw(server: Server, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Status and JSON of a request by hand."""
    port = int(server.url.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


# --- answers -------------------------------------------------------------------------------------


def test_base_and_adapter_answer_as_generate_does(run: Any, server: Server, client: Any) -> None:
    assert server.names == ["tiny", "tiny:style"]
    assert [model.id for model in client.models.list()] == server.names
    assert client.models.retrieve("tiny:style").owned_by == "ftlab"
    for name, adapter in (("tiny", "base"), ("tiny:style", None)):
        answer = ask(client, model=name, max_tokens=24)
        expected = generate(
            run.model, run.tokenizer, [QUESTION], max_new_tokens=24, adapter=adapter
        )[0]
        choice = answer.choices[0]
        assert choice.message.content == expected and choice.message.role == "assistant"
        assert answer.model == name and answer.object == "chat.completion"
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        pieces = [c.choices[0].delta.content for c in ask(client, model=name, max_tokens=24,
                                                          stream=True)]  # fmt: skip
        assert "".join(piece or "" for piece in pieces) == expected and len(pieces) > 3


def test_chinese_and_emoji_come_whole_in_every_chunk(scripted: Any) -> None:
    text = "你好，世界！👍🏽 café"
    _, client = scripted(text)
    assert ask(client).choices[0].message.content == text
    chunks = list(ask(client, stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(piece or "" for piece in pieces) == text and len(pieces) > 10
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_length_and_usage(scripted: Any) -> None:
    _, client = scripted("one two three")
    for stop in ("two", [" three", "tw"]):
        answer = ask(client, stop=stop)
        assert answer.choices[0].message.content == "one"
        assert answer.choices[0].finish_reason == "stop"
        streamed = ask(client, stop=stop, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == "one"
    for key in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, **{"max_tokens": openai.omit, key: 5})
        assert answer.choices[0].finish_reason == "length"
        assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("one t", 5)
    last = list(ask(client, max_tokens=5, stream=True, stream_options={"include_usage": True}))[-1]
    assert last.choices == [] and last.usage == answer.usage


def test_sampling_follows_the_request_and_the_seed(client: Any) -> None:
    def said(**options: Any) -> str:
        return str(ask(client, model="tiny", max_tokens=16, **options).choices[0].message.content)

    greedy = said()
    assert said(temperature=0) == greedy
    assert said(temperature=1.9, seed=1) == said(temperature=1.9, seed=1) != greedy
    assert len({said(temperature=1.9, seed=seed) for seed in range(4)}) > 1
    assert said(temperature=1.9, seed=1, top_p=1e-6) == greedy


def test_thoughts_come_apart_from_the_answer(scripted: Any) -> None:
    _, client = scripted("<think>\n1 + 1\n</think>\n\nTwo.")
    message = ask(client).choices[0].message
    assert (message.reasoning_content, message.content) == ("1 + 1", "Two.")
    deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True)]
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert (thoughts, "".join(d.content or "" for d in deltas)) == ("1 + 1", "Two.")


def test_tool_calls_are_read_from_the_text(scripted: Any) -> None:
    _, client = scripted('Wait.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    answer = ask(client, tools=TOOLS).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", "Wait.")
    call = answer.message.tool_calls[0]
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function", "add", {"a": 1},
    )  # fmt: skip
    chunks = [chunk.choices[0] for chunk in ask(client, tools=TOOLS, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Wait."
    found = [one for chunk in chunks for one in chunk.delta.tool_calls or []]
    assert [one.function.name for one in found] == ["add"]
    assert chunks[-1].finish_reason == "tool_calls"
    for options in ({"tools": TOOLS, "tool_choice": "none"}, {}):
        assert "<tool_call>" in ask(client, **options).choices[0].message.content
    _, client = scripted("<tool_call>add(1)</tool_call>")
    broken = [chunk.choices[0] for chunk in ask(client, tools=TOOLS, stream=True)]
    assert "".join(c.delta.content or "" for c in broken) == "<tool_call>add(1)</tool_call>"
    assert broken[-1].finish_reason == "stop"


def test_a_conversation_with_tools_goes_through_the_template(client: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    long = ask(client, model="tiny", messages=messages, tools=TOOLS, max_tokens=4)
    short = ask(client, model="tiny", messages=messages[:2], max_tokens=4)
    assert long.usage.prompt_tokens > short.usage.prompt_tokens + 40


# --- many clients --------------------------------------------------------------------------------


def test_two_requests_at_once_get_their_own_answers(client: Any) -> None:
    alone = {
        name: ask(client, model=name, max_tokens=40).choices[0].message.content
        for name in ("tiny", "tiny:style")
    }
    assert len(set(alone.values())) == 2
    found: list[tuple[str, str]] = []

    def work(name: str) -> None:
        chunks = ask(client, model=name, max_tokens=40, stream=True)
        found.append((name, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)))

    threads = [threading.Thread(target=work, args=(name,)) for name in [*alone, *alone]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([*alone.items(), *alone.items()])


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_its_answer(scripted: Any, streamed: bool) -> None:
    model, client = scripted("a" * 230)
    steps = Steps(model, pause=0.01)
    port = client.base_url.port
    body = json.dumps({"model": "small", "messages": QUESTION, "stream": streamed,
                       "max_tokens": 200}).encode()  # fmt: skip
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while steps.count < 5:
            time.sleep(0.005)
    assert ask(client, max_tokens=2).choices[0].message.content == "aa"
    assert steps.count < 150 and not turn.locked()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "'wizard' is no role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of text"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n: 2 is not supported"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "the model reads 1,024"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_gets_one_clear_sentence(client: Any, changes: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"model": "tiny", "max_tokens": 4, **changes})
    body = caught.value.body
    assert words in body["message"] and body["type"] == "invalid_request_error"
    assert "Traceback" not in body["message"]


def test_harmless_fields_and_neutral_values_are_taken(client: Any) -> None:
    answer = ask(client, model="tiny", max_tokens=2, n=1, user="me", presence_penalty=0,
                 response_format={"type": "text"}, logit_bias={}, tool_choice="auto")  # fmt: skip
    assert answer.usage.completion_tokens <= 2


def test_unknown_models_and_paths_are_not_found(server: Server, client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-4")
    assert caught.value.body["code"] == "model_not_found"
    assert "There are: tiny, tiny:style" in caught.value.body["message"]
    assert raw(server, "GET", "/v1/engines")[1]["error"]["type"] == "invalid_request_error"
    assert raw(server, "GET", "/docs")[0] == 404
    assert raw(server, "GET", "/v1/chat/completions")[0] == 405
    assert raw(server, "GET", "/health") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b"[" * 100_000, b'{"model": "tiny"}', b"\xff\xfe"],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_a_body_that_is_no_request_is_said_so(server: Server, body: bytes) -> None:
    status, answer = raw(server, "POST", "/v1/chat/completions", body)
    assert status == 400 and answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    status, answer = raw(server, "POST", "/v1/chat/completions", b" " * (BODY_LIMIT + 1))
    assert status == 413 and "4,000,000 bytes" in answer["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"},
    ],
    ids=str,
)  # fmt: skip
def test_a_web_page_cannot_use_the_server(server: Server, headers: dict[str, str]) -> None:
    """Its name may lead to 127.0.0.1 (DNS rebinding), or it sends a form to this address."""
    body = json.dumps({"model": "tiny", "messages": QUESTION, "max_tokens": 1})
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
        status, answer = raw(server, method, path, body, **headers)
        assert status == 403 and "error" in answer


def test_it_listens_on_this_machine_only(server: Server) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    assert server.url.startswith("http://127.0.0.1:")
    other = socket.gethostbyname(socket.gethostname())
    if not other.startswith("127."):
        with socket.socket() as probe:
            assert probe.connect_ex((other, port)) != 0


def test_an_error_inside_the_model_is_an_error_of_the_server(scripted: Any) -> None:
    model, client = scripted("abc")
    model.model.forward = lambda **_: 1 / 0
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert "ZeroDivisionError" in caught.value.body["message"]
    with pytest.raises(openai.APIError, match="ZeroDivisionError"):
        list(ask(client, stream=True))
    del model.model.forward
    assert ask(client).choices[0].message.content == "abc"


# --- start and end -------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_error(server: Server) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(EnvironmentProblem, match=f"port {port} of 127.0.0.1"):
        serve("tiny", port=port)
    with pytest.raises(EnvironmentProblem, match="port 70000"):
        serve("tiny", port=70000)


def test_closing_ends_an_answer_that_is_being_written() -> None:
    tokenizer = small_tokenizer()
    model = saying(small_model(), tokenizer, "a" * 230)
    steps = Steps(model, pause=0.01)
    with Server(model, {"small": Voice(None, tokenizer)}, _listener(0)) as server:
        chunks = iter(ask(client_of(server), stream=True, max_tokens=200))
        next(chunks)
        while steps.count < 3:
            time.sleep(0.005)
    assert steps.count < 100 and not turn.locked()
    with pytest.raises(openai.APIConnectionError):
        ask(client_of(server))


def test_adapters_have_names_of_their_own(run: Any, tmp_path: Any) -> None:
    model, voices = load_voices("tiny", [f"a={run.folder}", f"b={run.folder}"])
    assert list(voices) == ["tiny", "tiny:a", "tiny:b"]
    assert [voice.adapter for voice in voices.values()] == ["base", "a", "b"]
    with pytest.raises(ModelError, match="two adapters called 'style'"):
        load_voices(str(run.folder), [str(run.folder)])
    with pytest.raises(ModelError, match="nowhere"):
        load_voices("tiny", [str(tmp_path / "nowhere")])


def test_a_full_run_and_a_run_with_rope_scaling(tmp_path: Any) -> None:
    """An adapter trained with RoPE scaling answers with it, and not beside others."""
    rows = ftlab.read("world_qa").take(8)
    for name, keys in (("full", {}), ("long", {"rope_scaling": "linear", "cutoff_len": 2048})):
        recipe = ftlab.Recipe(max_steps=1, output_dir=str(tmp_path / name), learning_rate=1e-3,
                              finetuning_type="lora" if keys else "full", **keys)  # fmt: skip
        ftlab.train(recipe, rows, quiet=True)
    assert list(load_voices(str(tmp_path / "full"), [])[1]) == ["full"]
    model, voices = load_voices(str(tmp_path / "long"), [])
    assert list(voices) == ["tiny", "tiny:long"]
    assert model.config.max_position_embeddings == 2048
    with pytest.raises(ModelError, match="RoPE scaling"):
        load_voices(str(tmp_path / "long"), [f"two={tmp_path / 'long'}"])
    record = tmp_path / "long" / "base.json"
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(ModelError, match="not the base of"):
        load_voices(str(tmp_path / "long"), [])


def test_without_the_extra_the_package_to_install_is_named() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from ftlab.cli import main; sys.exit(main(['serve', 'tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'ftlab[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
