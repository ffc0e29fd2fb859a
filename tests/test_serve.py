"""The server: OpenAI's client, what is refused, clients that go away, and that nothing else is reached by it."""

import functools
import http.client
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
from gguf_files import small_llama, write_model

import autotx
from autotx.models.cli import main
from autotx.models.formats import open_model, open_reader
from autotx.models.inference.attribution import Line, attribution
from autotx.models.inference.edits import without
from autotx.models.inference.lens import accounts, lens
from autotx.models.inference.pieces import Matrix
from autotx.models.serving import transport
from autotx.models.serving.requests import Request
from autotx.models.serving.server import Service
from autotx.models.serving.transport import Server

pytest.importorskip("jinja2")

FOX = {"model": "small.gguf", "prompt": "the quick brown", "seed": 7, "max_tokens": 8}
CHAT = {"model": "small.gguf", "messages": [{"role": "user", "content": "the quick fox"}], "seed": 3, "max_tokens": 8}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("serve") / "small.gguf", small_llama(block_size=512))


@pytest.fixture(scope="module")
def service(file):
    return Service(open_reader(file, Matrix), "small.gguf", 256)


@pytest.fixture(scope="module")
def server(service):
    with Server(0, service.answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def send(server):
    """send(path, body): (status, headers, JSON or bytes) of the answer. body: JSON, bytes, or None for a GET."""

    def do(path, body=None, method=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, content,
                           {name.replace("_", "-"): text for name, text in headers.items()})  # fmt: skip
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        found = json.loads(content) if answer.headers["Content-Type"] == "application/json" else content
        return answer.status, answer.headers, found

    return do


def events(content):
    """The JSON values of a stream."""
    parts = content.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


# Answers


def written(file, capsys, *flags):
    """What `autotx generate` writes, as JSON."""
    capsys.readouterr()
    assert main(["generate", "--model", str(file), "--prompt", FOX["prompt"], "--json", *map(str, flags)]) == 0
    return json.loads(capsys.readouterr().out)["samples"][0]


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.7}, {"temperature": 1.5, "top_p": 0.5}])
def test_a_completion_is_what_generate_writes(send, file, capsys, settings):
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    expected = written(file, capsys, "--seed", 7, "--max-new-tokens", 8, "--show-choices", 4, *flags)
    status, _, found = send("/v1/completions", {**FOX, "logprobs": 4, **settings})
    assert status == 200
    choice, count = found["choices"][0], len(expected["ids"])
    assert choice["text"] == expected["text"]
    assert found["usage"]["completion_tokens"] == count
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == [c["token"] for c in expected["choices"]]
    # NumPy, in place of the kernels, adds up otherwise for a prompt that is cut elsewhere.
    same = functools.partial(pytest.approx, rel=1e-6 if numba.config.DISABLE_JIT else 0, abs=0)
    assert logprobs["token_logprobs"] == same([math.log(c["probability"]) for c in expected["choices"]])
    for likeliest, c in zip(logprobs["top_logprobs"], expected["choices"]):
        assert likeliest == same({pair["token"]: math.log(pair["probability"]) for pair in c["likeliest"]})
    assert logprobs["text_offset"] == np.cumsum([0, *map(len, logprobs["tokens"])])[:-1].tolist()


def test_a_stream_has_the_parts_of_the_whole(send):
    for path, body, pick in (
        ("/v1/completions", {**FOX, "logprobs": 2}, lambda c: c["text"]),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2},
         lambda c: (c.get("message") or c["delta"]).get("content", "")),
    ):  # fmt: skip
        whole = send(path, body)[2]["choices"][0]
        _, headers, content = send(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        assert headers["Content-Type"].startswith("text/event-stream")
        *parts, usage = events(content)
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 8
        choices = [part["choices"][0] for part in parts]
        assert "".join(map(pick, choices)) == pick(whole)
        assert [c["finish_reason"] for c in choices[-2:]] == [None, whole["finish_reason"]]
        for key in ("tokens", "content", "token_logprobs", "top_logprobs", "text_offset"):
            told = [x for c in choices if c["logprobs"] for x in c["logprobs"].get(key) or []]
            assert told == (whole["logprobs"].get(key) or [])


def test_what_was_read_before_changes_nothing(send, service):
    """The same answer after other requests, and in a conversation that goes on, of which only the end is read."""
    first = send("/v1/chat/completions", CHAT)[2]
    send("/v1/completions", {**FOX, "prompt": "the lazy dog"})
    again = send("/v1/chat/completions", CHAT)[2]
    assert again["choices"] == first["choices"]
    said = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    longer = {**CHAT, "messages": [*CHAT["messages"], said, {"role": "user", "content": "jumps"}]}
    found = send("/v1/chat/completions", longer)[2]
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] >= again["usage"]["prompt_tokens"]
    send("/v1/completions", FOX)
    assert send("/v1/chat/completions", longer)[2]["choices"] == found["choices"]


def test_a_long_prompt_is_read_in_pieces(send, monkeypatch):
    body = {**FOX, "prompt": "the quick brown fox jumps " * 12, "temperature": 0}
    expected = send("/v1/completions", body)[2]["choices"]
    monkeypatch.setattr("autotx.models.serving.writer.PIECE", 7)
    send("/v1/completions", FOX)
    assert send("/v1/completions", body)[2]["choices"] == expected


def test_the_end_of_a_text(send):
    text = send("/v1/completions", {**FOX, "max_tokens": 30})[2]["choices"][0]
    assert text["finish_reason"] == "length"
    stop = text["text"][10:13]
    found = send("/v1/completions", {**FOX, "max_tokens": 30, "stop": ["§", stop]})[2]["choices"][0]
    assert found["text"] == text["text"][: text["text"].index(stop)]
    assert found["finish_reason"] == "stop"
    found = send("/v1/completions", {**FOX, "max_tokens": 10**6})[2]
    assert found["usage"]["total_tokens"] <= 256, "the context"


def test_the_time_that_a_text_may_take(send, service, monkeypatch):
    monkeypatch.setattr(service, "seconds", 0.0)
    found = send("/v1/completions", {**FOX, "max_tokens": 100})[2]
    assert found["usage"]["completion_tokens"] == 1
    assert found["choices"][0]["finish_reason"] == "length"


def test_tokens_are_taken_as_a_prompt(send, service):
    ids = service.tokenizer.encode(FOX["prompt"]).tolist()
    assert send("/v1/completions", {**FOX, "prompt": ids})[2]["choices"] == send("/v1/completions", FOX)[2]["choices"]
    status, _, found = send("/v1/completions", {**FOX, "prompt": [10**7]})
    assert (status, found["error"]["type"]) == (400, "invalid_request_error")
    assert "id 10000000 is out of range" in found["error"]["message"]


def test_models_are_listed(send):
    listed = send("/v1/models")[2]
    assert [model["id"] for model in listed["data"]] == ["small.gguf"]
    assert send("/v1/models/small.gguf")[2] == listed["data"][0]


# What is refused


WRONG = [
    ({"model": None}, "model should be a text", "model"),
    ({"model": "gpt-5"}, "the model 'gpt-5' does not exist; this server has 'small.gguf'", "model"),
    ({"messages": None}, "messages should be a list that is not empty", "messages"),
    ({"messages": [1]}, r"messages\[0\] should be an object", "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].role should be one of", "messages[0].role"),
    ({"messages": [{"role": [], "content": "x"}]}, r"messages\[0\].role should be one of", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "content should be a text", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "parts of the type text", "messages[0].content"),
    ({"temperature": "hot"}, "temperature should be a number from 0 to 2", "temperature"),
    ({"temperature": 2.1}, "temperature should be a number from 0 to 2", "temperature"),
    ({"temperature": float("nan")}, "temperature should be a number from 0 to 2", "temperature"),
    ({"top_p": -1}, "top_p should be a number from 0 to 1", "top_p"),
    ({"seed": 1.5}, "seed should be a whole number", "seed"),
    ({"max_tokens": 0}, "max_tokens should be a whole number from 1", "max_tokens"),
    ({"max_tokens": True}, "max_tokens should be a whole number from 1", "max_tokens"),
    ({"stop": ["a"] * 5}, "stop should be a text, or at most 4 of them", "stop"),
    ({"stop": ""}, "stop should be a text, or at most 4 of them, none empty", "stop"),
    ({"stream": "yes"}, "stream should be true or false", "stream"),
    ({"stream_options": {"x": 1}}, "stream_options should be", "stream_options"),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs: true", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs should be a whole number from 0 to 20", "top_logprobs"),
    ({"n": 2}, "n other than 1 is not computed here", "n"),
    ({"presence_penalty": 0.5}, "presence_penalty other than 0 is not computed here", "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias other than {} is not computed here", "logit_bias"),
    ({"tools": [{"type": "function"}]}, r"tools other than \[\] is not computed here", "tools"),
    ({"temprature": 1}, "'temprature' is no setting of this API", "temprature"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message", "param"), WRONG)
def test_a_wrong_setting_is_named(send, change, message, param):
    status, _, found = send("/v1/chat/completions", {**CHAT, **change})
    assert status == (404 if change == {"model": "gpt-5"} else 400)
    assert re.search(message, found["error"]["message"])
    assert found["error"]["param"] == param
    assert found["error"]["type"] == "invalid_request_error"


def test_settings_that_change_nothing_are_taken(send):
    same = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": None, "user": "me", "tools": None,
            "response_format": {"type": "text"}, "metadata": {"a": "b"}, "stop": None}  # fmt: skip
    assert (
        send("/v1/chat/completions", {**CHAT, **same})[2]["choices"] == send("/v1/chat/completions", CHAT)[2]["choices"]
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b"\xff", b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", b'"\\ud800"']
)
def test_a_body_that_is_no_json_object(send, body):
    status, _, found = send("/v1/completions", body)
    assert status == 400
    assert found["error"]["message"].startswith("the body ")
    assert "\n" not in found["error"]["message"]


@pytest.mark.parametrize("prompt", [5, [], "", ["a", "b"], [[1], [2]], [1, "a"], [True], {}])
def test_a_prompt_that_is_none(send, prompt):
    status, _, found = send("/v1/completions", {**FOX, "prompt": prompt})
    assert status == 400
    assert "prompt" in found["error"]["message"]


def test_a_prompt_that_fills_the_context(send):
    for path, body in (
        ("/v1/completions", {**FOX, "prompt": "fox " * 500}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "fox " * 500}]}),
    ):
        status, _, found = send(path, {**body, "stream": True})
        assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
        assert re.search(
            r"the prompt has [\d,]+ tokens; the context of 256 has no room for more", found["error"]["message"]
        )


def test_a_model_without_a_template_has_completions_alone(tmp_path, send, monkeypatch):
    path = write_model(tmp_path / "small.gguf", small_llama(), tokenizer__chat_template=None)
    service = Service(open_reader(path, Matrix), "small.gguf", 64)
    with Server(0, service.answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
        answer = connection.getresponse()
        assert answer.status == 400
        assert "has no chat template" in json.load(answer)["error"]["message"]
        server.shutdown()


def test_paths_and_methods(send):
    for path in (
        "/v1",
        "/inside",
        "/inside/page.html",
        "/inside/../server.py",
        "/etc/passwd",
        "/../../etc/passwd",
        "/v1/models/../../x",
        "/page.html",
        "/v1/completions/",
    ):
        status, _, found = send(path)
        assert (status, found["error"]["code"]) == (404, "unknown_url")
    status, _, found = send("/v1/completions")
    assert (status, found["error"]["message"]) == (405, "GET /v1/completions: give it by POST")
    for method in ("PUT", "DELETE", "OPTIONS", "BREW"):
        assert send("/v1/models", method=method)[0] == 405


# Who is answered


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:{port}.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/models", None), ("/v1/completions", FOX), ("/", None), ("/inside/write", {"prompt": "the"})],
)
def test_a_page_of_another_origin_is_refused(send, server, headers, path, body):
    headers = {name: text.replace("{port}", str(server.port)) for name, text in headers.items()}
    status, answered, found = send(path, body, **headers)
    assert status == 403
    assert found["error"]["code"] in ("forbidden_host", "forbidden_origin")
    assert not any(name.lower().startswith("access-control") for name in answered)


def test_its_own_origin_is_answered(send, server):
    for name in ("localhost", "127.0.0.1"):
        host = f"{name}:{server.port}"
        own = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert send("/v1/completions", FOX, **own)[0] == 200


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


# Limits


def raw(server, content, wait=30):
    """What is answered to bytes, until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def head(server, **headers):
    lines = [f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}"]
    return "\r\n".join([*lines, *(f"{n.replace('_', '-')}: {t}" for n, t in headers.items()), "", ""]).encode()


def test_a_large_body_is_refused_and_not_read(server):
    answer = raw(server, head(server, Content_Length=10**8) + b"x" * 10**6)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body has 100000000 bytes; at most 1,048,576 are taken" in answer
    answer = raw(server, head(server, Content_Length=10**8, Expect="100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 "), "before it is sent"


def test_a_body_is_asked_for_when_it_is_wanted(server):
    body = json.dumps(FOX).encode()
    answer = raw(server, head(server, Content_Length=len(body), Expect="100-continue") + body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize("headers", [{}, {"Content_Length": "-1"}, {"Content_Length": "1e3"}, {"Content_Length": "²"},
                                     {"Transfer_Encoding": "chunked"}])  # fmt: skip
def test_a_body_of_unknown_length_is_refused(server, headers):
    assert raw(server, head(server, **headers)).startswith(b"HTTP/1.1 411 ")


def test_what_is_no_http_is_answered_by_an_error(server):
    many = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"
    few = b"\r\n\r\n", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"
    for content in (*few, *many):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda c=connection: c.recv(1 << 16), b""))
        assert not answer or b'"error"' in answer


def test_a_request_that_is_slow_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.5)
    begun = time.monotonic()
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head(server, Content_Length=100))
        for _ in range(20):  # one byte at a time
            time.sleep(0.1)
            try:
                connection.sendall(b"{")
            except OSError:
                break
        answer = connection.recv(1 << 16)
    assert b"the body ended, or stopped, before its Content-Length" in answer
    assert time.monotonic() - begun < 10


# Several clients, and clients that go away


class Slow:
    """Makes every token wait for `go`."""

    def __init__(self, service, monkeypatch):
        self.go, self.made = threading.Semaphore(0), 0
        write = service.writer.write

        def slowly(*args, **settings):
            for piece in write(*args, **settings):
                self.made += 1
                self.go.acquire(timeout=20)
                yield piece

        monkeypatch.setattr(service.writer, "write", slowly)


def begin(server, body, path="/v1/completions"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("POST", path, json.dumps(body))
    return connection


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_text_is_written_at_a_time_and_the_queue_tells_its_length(server, service, send, monkeypatch):
    slow = Slow(service, monkeypatch)
    first = begin(server, FOX)
    until(lambda: slow.made == 1)
    others = []
    for i in range(transport.WAITING):
        others.append(begin(server, FOX))
        until(lambda i=i: len(service.turns._line) == i + 2)
    status, headers, found = send("/v1/completions", FOX)
    assert (status, headers["X-Queue-Length"], headers["Retry-After"]) == (503, "9", "5")
    assert found["error"]["message"] == "8 requests are waiting; try again later"
    assert found["error"]["type"] == "server_error"
    others.pop().close()  # one that waits goes away
    until(lambda: len(service.turns._line) == transport.WAITING)
    assert slow.made == 1, "nobody else has begun"
    slow.go.release(10**6)
    answers = [connection.getresponse() for connection in (first, *others)]
    assert [answer.headers["X-Queue-Length"] for answer in answers] == [str(i) for i in range(transport.WAITING)]
    assert len({json.load(answer)["choices"][0]["text"] for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_its_text(server, service, send, monkeypatch, stream):
    expected = send("/v1/completions", FOX)[2]["choices"]
    with monkeypatch.context() as patch:
        slow = Slow(service, patch)
        connection = begin(server, {**FOX, "max_tokens": 200, "stream": stream, "stop": None})
        until(lambda: slow.made == 1)
        slow.go.release(3)
        until(lambda: slow.made >= 4)
        if stream:
            connection.getresponse().close()
        connection.close()
        made = slow.made
        slow.go.release(3)
        until(lambda: not service.turns._line)
        assert slow.made <= made + 4
    assert send("/v1/completions", FOX)[2]["choices"] == expected


def test_an_error_in_the_middle_of_a_stream_is_told(server, service, send, monkeypatch):
    write = service.writer.write

    def broken(*args, **settings):
        yield next(write(*args, **settings))
        raise ValueError("generate: the model's scores have a NaN")

    monkeypatch.setattr(service.writer, "write", broken)
    content = send("/v1/completions", {**FOX, "stream": True})[2].decode()
    assert '"message": "generate: the model\'s scores have a NaN"' in content.split("\n\n")[-2]
    assert "[DONE]" not in content


# What the page asks for


def told(send, path, body):
    """The values of an answer of /inside/."""
    status, _, content = send(path, body)
    assert status == 200, content
    return events(content)


def looked_at(send, service, off=()):
    """The tokens of a text that the page lets write: (ids of the prompt, the new ones, as they are told)."""
    first, *new, end = told(send, "/inside/write", {"prompt": FOX["prompt"], "tokens": 6, "off": list(off)})
    assert first["ids"] == service.tokenizer.encode(FOX["prompt"]).tolist()
    assert end == {"ended": "length"}
    return first["ids"], [part["token"] for part in new]


def test_the_page_loads_from_this_server_alone(send):
    status, headers, content = send("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["Content-Security-Policy"]
    assert not re.search(rb"https?://|style=|onclick|<script>", content)
    for file in re.findall(r'(?:href|src)="(/[^"]*)"', content.decode()):
        status, headers, _ = send(file)
        assert (status, headers["Content-Type"].partition("/")[0]) in [(200, "text"), (200, "image")]
    facts = send("/inside/model")[2]
    assert facts == {"name": "small.gguf", "chats": True, "layers": 2, "heads": 4, "size": 256, "vocab": facts["vocab"]}


def test_the_page_s_tokens_are_those_of_show_choices(send, service, file, capsys):
    expected = written(file, capsys, "--temperature", 0, "--max-new-tokens", 6, "--show-choices", 6)["choices"]
    _, new = looked_at(send, service)
    same = functools.partial(pytest.approx, rel=1e-6 if numba.config.DISABLE_JIT else 0, abs=0)
    assert [token["probability"] for token in new] == same([c["probability"] for c in expected])
    for token, c in zip(new, expected):
        assert [p for _, p, _ in token["likeliest"]] == same([pair["probability"] for pair in c["likeliest"]])
        assert token["rank"] == c["rank"]
    messages = {"messages": CHAT["messages"], "tokens": 2}
    first = told(send, "/inside/write", messages)[0]
    assert first["ids"] == service.ids(Request(messages=CHAT["messages"]))


@pytest.mark.parametrize("off", [[], [[1, 2], [0, 0]]])
def test_the_inside_of_a_token_is_that_of_lens_and_of_the_model(send, service, off):
    prompt, new = looked_at(send, service, off)
    ids, place = np.array([*prompt, *(token["id"] for token in new)]), len(prompt) + 2
    (found,) = told(send, "/inside/token", {"ids": ids[: place + 1].tolist(), "off": off})
    model = service.opened.model
    with model.edit(without(off, 4)), model.edit({"blocks.*.attention.weights": None}) as seen:
        expected = lens(model, ids, 6)
        of = accounts(model, ids[:place], int(ids[place]))
    same = functools.partial(pytest.approx, rel=1e-5 if numba.config.DISABLE_JIT else 0, abs=0)
    assert [cell["probability"] for cell in found["lens"]] == same(expected.probability[:, place - 1].tolist())
    assert [cell["rank"] for cell in found["lens"]] == expected.rank[:, place - 1].tolist()
    if numba.config.DISABLE_JIT:
        assert found["lens"][-1]["probability"] == same(new[2]["probability"])
    else:
        assert found["lens"][-1] == new[2], "what the model itself said"
    weights = np.array([value[0, :, -1] for value in seen.values()])
    np.testing.assert_allclose(found["attention"], weights, rtol=1e-5)
    np.testing.assert_allclose(found["heads"], of.heads, rtol=1e-5, atol=1e-9)
    assert (np.array(found["heads"])[tuple(np.array(off).T)] == 0).all() or not off


def test_a_head_that_is_off_changes_the_text_alone_that_is_without_it(send, service):
    before = looked_at(send, service)
    changed = looked_at(send, service, [[0, h] for h in range(4)])
    assert [t["probability"] for t in changed[1]] != [t["probability"] for t in before[1]]
    assert looked_at(send, service) == before


def test_the_page_s_attribution_is_that_of_explain(send, service, file):
    prompt, new = looked_at(send, service)
    ids, target, against = np.array(prompt), new[0]["id"], new[0]["likeliest"][1][2]
    *points, found = told(send, "/inside/attribution", {"ids": [*prompt, target], "against": against})
    expected = attribution(open_model(file).model, ids, target, against)
    assert [part["points"] for part in points] == sorted(part["points"] for part in points)
    assert found["shares"] == pytest.approx(expected.integrated.tolist(), rel=1e-6)
    assert (found["points"], found["adds_up"]) == (expected.points, expected.adds_up())
    assert found["missed"] == pytest.approx(expected.error)


INSIDE_WRONG = [
    ("write", {"prompt": ""}, "the prompt is empty"),
    ("write", {"prompt": "the", "tokens": 0}, "tokens should be a whole number from 1"),
    ("write", {"prompt": "the", "off": [[2, 0]]}, "off should be of layers below 2 and heads below 4"),
    ("write", {"prompt": "the", "off": [[0]]}, "off should be a list of at most 8 pairs"),
    ("write", {"prompt": "the", "top_p": 1}, "'top_p' is no setting here"),
    ("write", {"prompt": "fox " * 500}, "the context of 256 has no room for more"),
    ("token", {"ids": [1]}, "ids should be 2 to 256 tokens"),
    ("token", {"ids": [1] * 257}, "ids should be 2 to 256 tokens"),
    ("token", {"ids": [1, 10**7]}, "ids should be 2 to 256 tokens, each from 0 to"),
    ("token", {"ids": "the"}, "ids should be 2 to 256 tokens"),
    ("attribution", {"ids": [1, 2]}, "one token is before this one"),
    ("attribution", {"ids": [1, 2, 3], "against": 3}, "a token cannot be compared with itself"),
    ("attribution", {"ids": [1, 2, 3], "against": -1}, "against should be a whole number from 0"),
]


@pytest.mark.parametrize(("path", "body", "message"), INSIDE_WRONG)
def test_what_the_page_may_not_ask(send, path, body, message):
    status, _, found = send(f"/inside/{path}", body)
    assert status == 400
    assert message in found["error"]["message"]
    assert "\n" not in found["error"]["message"]


def test_an_attribution_stops_when_its_client_goes_away(server, service, send, monkeypatch):
    computed, go = [], threading.Semaphore(0)
    compute = Line.compute

    def slowly(line, places):
        computed.append(places)
        go.acquire(timeout=20)
        compute(line, places)

    monkeypatch.setattr(Line, "compute", slowly)
    connection = begin(server, {"ids": [1, 2, 3, 4]}, "/inside/attribution")
    until(lambda: computed)
    connection.close()
    go.release(100)
    until(lambda: not service.turns._line)
    assert len(computed) == 1


def test_the_page_is_told_how_many_are_before_it(server, service, monkeypatch):
    slow = Slow(service, monkeypatch)
    first = begin(server, FOX)
    until(lambda: slow.made == 1)
    second = begin(server, {"prompt": "the", "tokens": 1}, "/inside/write")
    until(lambda: len(service.turns._line) == 2)
    answer = second.getresponse()
    assert answer.readline() == b'data: {"waiting": 1}\n'
    slow.go.release(10**6)
    assert events(answer.read().lstrip())[-1] == {"ended": "length"}
    first.getresponse().read()


# OpenAI's client


@pytest.fixture
def client(server):
    openai = pytest.importorskip("openai", reason="pip install openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_converses(client, send):
    settings = {"temperature": 0.7, "top_p": 0.9, "logprobs": True, "top_logprobs": 3, "stop": ["§"]}
    found = client.chat.completions.create(**CHAT, **settings)
    expected = send("/v1/chat/completions", {**CHAT, **settings})[2]
    assert found.choices[0].message.content == expected["choices"][0]["message"]["content"]
    assert [len(token.top_logprobs) for token in found.choices[0].logprobs.content] == [3] * 8
    assert found.usage.completion_tokens == 8
    parts = client.chat.completions.create(**CHAT, **settings, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == found.choices[0].message.content


def test_openais_client_completes(client):
    found = client.completions.create(**FOX, logprobs=2)
    assert len(found.choices[0].logprobs.tokens) == 8
    parts = client.completions.create(**FOX, stream=True, stream_options={"include_usage": True})
    texts = [part.choices[0].text if part.choices else part.usage.total_tokens for part in parts]
    assert "".join(texts[:-1]) == found.choices[0].text
    assert texts[-1] == found.usage.total_tokens
    assert [model.id for model in client.models.list()] == ["small.gguf"]
    assert client.models.retrieve("small.gguf").owned_by == "autotx"


def test_openais_client_raises_its_own_errors(client):
    import openai

    with pytest.raises(openai.NotFoundError, match="the model 'x' does not exist"):
        client.completions.create(**{**FOX, "model": "x"})
    with pytest.raises(openai.BadRequestError, match="n other than 1 is not computed here") as error:
        client.completions.create(**FOX, n=3)
    assert (error.value.param, error.value.code) == ("n", "unsupported_parameter")


# The command


@pytest.mark.fuzz
def test_a_soak(server, service, send):
    """2,000 requests, 50 of them cut off: memory stays within 20 MB of what it was after the first 200."""
    page, sizes = os.sysconf("SC_PAGE_SIZE"), []
    for i in range(2000):
        if i % 40 == 20:
            connection = begin(server, {**FOX, "max_tokens": 200, "stream": i % 80 == 20})
            time.sleep(0.01)
            connection.close()
        else:
            body = {**FOX, "prompt": f"the fox {i} jumps", "max_tokens": 1 + i % 5, "stream": i % 3 == 0}
            assert send("/v1/completions", body)[0] == 200
        if i >= 200 and i % 100 == 0:
            with open("/proc/self/statm", encoding="ascii") as file:
                sizes.append(int(file.read().split()[1]) * page / 1e6)
    until(lambda: not service.turns._line)
    print("memory in MB:", [round(size) for size in sizes])
    assert max(sizes) - sizes[0] < 20
    assert threading.active_count() < 20


def test_the_command_ends_at_once(file, tmp_path):
    """Ctrl-C in the middle of a text."""
    flags = ["--model", str(file), "--port", "0", "--context", "512"]
    command = [sys.executable, "-P", "-m", "autotx", "serve", *flags]
    root = os.path.dirname(os.path.dirname(autotx.__file__))
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) as process:
        lines = io.TextIOWrapper(process.stderr)
        next(line for line in lines if line.startswith("small.gguf: ready after "))  # before the port is open
        line = next(line for line in lines if "the API" in line)
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/v1", line)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps({**FOX, "max_tokens": 500, "stream": True}))
        connection.getresponse().read(20)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - begun < 5
        assert "Traceback" not in lines.read()


def test_a_port_that_is_taken(server, file, fails):
    fails(
        ["serve", "--model", file, "--port", server.port], f"--port {server.port}: Address already in use; give another"
    )
    fails(["serve", "--model", file, "--port", "70000"], "--port 70000 should be at most 65535")
