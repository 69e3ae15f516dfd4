"""Clients that may delay others: slow bodies, wrong keys, unread answers; and files that fail."""

import asyncio
import contextlib
import io
import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from stopping import artifacts
from stopping.adapters.proxy import ProxyConfig
from stopping.adapters.proxy.accounts import Account, Accounts
from stopping.adapters.proxy.clients import PART_BYTES, limited
from stopping.adapters.server.thought_result import ThoughtResult
from tests.stopping.adapters.live import NEVER, questions
from tests.stopping.adapters.proxied import proxied
from tests.stopping.adapters.test_proxy import CHAT, asked

NUM_SLOTS = 4  # of the shared server
QUESTION = questions(1)[0]
SOON = 20.0
TEXT = "x" * 5000
DOCUMENT_BYTES = 20_000_000
ENDLESS = 10**6
KEY = {"authorization": "Bearer secret"}


class Flood:
    """A server with large tokens, whose streams have the maximum length.

    Attributes:
        url: its address.
        under_way: the number of streams under way.
    """

    def __init__(self):
        self.url, self.under_way = "", 0

    async def _lines(self, most):
        self.under_way += 1
        try:
            for number in range(1, most + 1):
                said = {"content": [{"token": TEXT, "id": 7, "logprob": -0.1}]}
                choice = {"text": TEXT, "logprobs": said, "finish_reason": "length" if number == most else None}
                yield "data: " + json.dumps({"id": "1", "choices": [choice]}) + "\n\n"
                await asyncio.sleep(0)
            yield "data: [DONE]\n\n"
        finally:
            self.under_way -= 1

    async def complete(self, request):
        body = await request.json()
        if not body.get("stream"):
            return JSONResponse({"choices": [{"text": "x" * DOCUMENT_BYTES, "finish_reason": "stop"}]})
        return StreamingResponse(self._lines(body["max_tokens"]), media_type="text/event-stream")

    async def template(self, _):
        return JSONResponse({"prompt": "<think>"})

    async def tokenize(self, _):
        return JSONResponse({"tokens": [3]})

    @contextlib.contextmanager
    def running(self):
        routes = [
            Route("/apply-template", self.template, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/{path:path}", self.complete, methods=["POST"]),
        ]
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    return {"never": artifacts.save_policy(NEVER, tmp_path_factory.mktemp("policies") / "never")}


@pytest.fixture(scope="module")
def flood():
    with Flood().running() as flood:
        yield flood


@contextlib.contextmanager
def flooded(llama_server, flood, policies, **settings):
    """A proxy for the flood, without the context limit of the server that was examined in its place."""
    with proxied(flood.url, policies, marks_from=llama_server, cap_tokens=ENDLESS, **settings) as proxy:
        proxy.config.capabilities = replace(proxy.config.capabilities, context_tokens=None)
        yield proxy


def connected(proxy):
    """A connection whose client has a small buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    url = httpx.URL(proxy.url)
    client.connect((url.host, url.port))
    return client


def head(size, path=CHAT, **headers):
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {size}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def until(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_idle(proxy):
    return "stopping_running 0.0" in proxy.http.get("/metrics").text


def test_a_slow_body_keeps_nobody_waiting(llama_server, policies):
    """There are more of them than slots; others are answered meanwhile, and they are answered once their bodies are complete."""
    body = json.dumps(asked(QUESTION, max_tokens=20)).encode()
    with proxied(llama_server, policies) as proxy, contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(connected(proxy)) for _ in range(2 * NUM_SLOTS)]
        for client in slow:
            client.sendall(head(len(body)) + body[:10])
        start = time.monotonic()
        assert proxy.http.post(CHAT, content=body).status_code == 200
        assert time.monotonic() - start < SOON
        for client in slow:
            client.sendall(body[10:])
        for client in slow:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert not proxy.counts("faults")


def test_a_body_that_does_not_come_is_an_error(llama_server, policies):
    with proxied(llama_server, policies, body_seconds=0.3) as proxy:
        with connected(proxy) as client:
            client.sendall(head(1000) + b'{"model"')
            said = b"".join(iter(lambda: client.recv(1000), b""))  # to the end: the connection is closed
        status, _, content = said.partition(b"\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 408")
        error = json.loads(content)["error"]
        assert error["type"] == "body_late" and "whole body within 0.3 s" in error["message"]
        with connected(proxy) as client:  # sending single bytes does not help
            client.sendall(head(1000))
            start = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - start < SOON:
                    client.sendall(b" ")
                    time.sleep(0.05)
            assert time.monotonic() - start < SOON
        until(lambda: proxy.counts("faults") == {"body_late": 2}, "it is counted")
        with connected(proxy) as client:  # that leaves while sending its body
            client.sendall(head(1000) + b" ")
        until(lambda: proxy.counts("faults") == {"body_late": 2, "client_gone": 1}, "it is counted")
        until(lambda: is_idle(proxy), "a request is still counted as under way")


def test_a_wrong_key_does_not_wait_nor_keep_waiting(llama_server, flood, policies):
    """It is refused at once while all turns are taken; a client that stops waiting takes no turn."""
    endless = asked(QUESTION, stream=True, max_tokens=ENDLESS)

    def begun(streams):
        """Begin as many streams as there are slots."""
        for _ in range(NUM_SLOTS):
            stream = httpx.stream("POST", proxy.url + CHAT, json=endless, headers=KEY, timeout=SOON)
            parts = streams.enter_context(stream).iter_bytes()
            streams.push(lambda *_, parts=parts: None)  # otherwise garbage collection would end the stream
            assert next(parts)

    with flooded(llama_server, flood, policies, api_key="secret") as proxy:
        with contextlib.ExitStack() as streams:
            begun(streams)
            start = time.monotonic()
            wrong = proxy.http.post(CHAT, json=asked(QUESTION), headers={"authorization": "Bearer x"})
            assert wrong.status_code == 401 and time.monotonic() - start < SOON
            for number in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(proxy.url + CHAT, json=asked(QUESTION), headers=KEY, timeout=0.3)
                until(lambda n=number: proxy.counts("faults").get("client_gone") == n + 1, "it is counted")
        until(lambda: is_idle(proxy) and not flood.under_way, "the streams end with their clients")
        with contextlib.ExitStack() as streams:
            begun(streams)  # all turns are free again


@pytest.mark.parametrize(("policy", "streamed"), [("never", True), ("none", True), ("none", False)])
def test_an_answer_that_nobody_reads_is_cut(llama_server, flood, policies, policy, streamed):
    """Its turns and its streams on the server are released, one fault is counted, and its connection is closed."""
    body = json.dumps(asked(QUESTION, stream=streamed, max_tokens=ENDLESS)).encode()
    with (
        flooded(llama_server, flood, policies, stall_seconds=0.5) as proxy,
        contextlib.ExitStack() as open_ones,
    ):
        stalled = [open_ones.enter_context(connected(proxy)) for _ in range(NUM_SLOTS)]
        for client in stalled:
            client.sendall(head(len(body), **{"x-stopping-policy": policy}) + body)
        until(lambda: proxy.counts("faults") == {"client_stalled": NUM_SLOTS}, "they are counted, once each")
        until(lambda: is_idle(proxy) and not flood.under_way, "their streams end")
        for client in stalled:
            with contextlib.suppress(ConnectionResetError):  # data in flight may still arrive, then the end or a reset
                while client.recv(2**20):
                    pass
        stream = httpx.stream("POST", proxy.url + CHAT, json=asked(QUESTION, stream=True, max_tokens=9), timeout=5)
        assert next(open_ones.enter_context(stream).iter_bytes())


def test_a_slow_reader_gets_all_of_it(llama_server, flood, policies):
    """A slow client is not stalled: the limit applies to each part of an answer."""
    with proxied(flood.url, policies, marks_from=llama_server, stall_seconds=0.5) as proxy:
        read = 0
        with httpx.stream(
            "POST", proxy.url + CHAT, json=asked(QUESTION), headers={"x-stopping-policy": "none"}
        ) as response:
            for part in response.iter_raw(2**20):
                read += len(part)
                time.sleep(0.03)
        assert read > DOCUMENT_BYTES and not proxy.counts("faults")


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 5])
@pytest.mark.parametrize("more", [True, False])
def test_parts_are_the_whole(size, more):
    body, sent = bytes(range(251)) * (size // 251 + 1), []
    message = {"type": "http.response.body", "body": body[:size], "more_body": more}

    async def send(part):
        sent.append(part)

    asyncio.run(limited(send, 1.0)(message))
    assert b"".join(part["body"] for part in sent) == body[:size]
    assert [part["more_body"] for part in sent] == [True] * (len(sent) - 1) + [more]
    assert all(len(part["body"]) <= PART_BYTES for part in sent)


def test_times_are_above_zero():
    for name in ("body_seconds", "stall_seconds", "answer_seconds"):
        with pytest.raises(ValueError, match=f"{name}: expected a time above 0, got 0"):
            ProxyConfig(None, None, None, **{name: 0})


FULL = Path("/dev/full")


def run_of(number):
    return Account(None, 0.0, "policed", [number]), ThoughtResult(ids=[1], text="a", answer="3", reason="stop")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no file that is always full")
def test_a_full_disk_costs_no_answer(llama_server, policies, caplog):
    with proxied(llama_server, policies, accounts=FULL) as proxy:
        for streamed in (True, False, True):
            response = proxy.http.post(CHAT, json=asked(QUESTION, max_tokens=20, stream=streamed))
            assert response.status_code == 200
            assert response.text.endswith("[DONE]\n\n") if streamed else response.json()["choices"]
        until(lambda: proxy.counts("faults") == {"account_lost": 3}, "lost lines are counted")
    told = [record.getMessage() for record in caplog.records if "a line could not be written" in record.getMessage()]
    assert len(told) == 1 and "No space left on device" in told[0]


class Failing(io.RawIOBase):
    """A file on which some writes fail, or write only some bytes."""

    def __init__(self, path, takes):
        self.file, self.takes = path.open("ab", buffering=0), list(takes)

    def write(self, data):
        most = self.takes.pop(0) if self.takes else None
        if most == "full":
            raise OSError(28, "No space left on device")
        return self.file.write(data[:most])

    def truncate(self, size=None):
        return self.file.truncate(size)

    def fileno(self):
        return self.file.fileno()

    def close(self):
        super().close()
        self.file.close()


@pytest.mark.parametrize("can_truncate", [True, False])
def test_lines_after_a_failure_are_whole(tmp_path, caplog, can_truncate):
    """A part of a failed line is removed, or ended; short writes are continued."""
    path = tmp_path / "accounts.jsonl"
    accounts = Accounts(path)
    accounts.close()
    accounts._file = Failing(path, [None, "full", 5, "full", 7, None])
    if not can_truncate:
        accounts._file.truncate = lambda size: os.truncate(tmp_path / "none", size)
    kept = [accounts.write(*run_of(number), str) for number in range(5)]
    accounts.close()
    assert kept == [True, False, False, True, True]
    lines = path.read_text().splitlines()
    assert len(lines) == 3 + (not can_truncate)
    assert [json.loads(line)["answer"] for line in lines if line.endswith("}")] == ["3"] * 3
    told = [record.getMessage() for record in caplog.records]
    assert sum("a line could not be written" in each for each in told) == 1
    assert sum("2 were lost" in each for each in told) == 1


def test_half_a_character_is_written_as_json_has_it(tmp_path):
    account, run = run_of(0)
    run.answer = "\ud83d"
    accounts = Accounts(tmp_path / "accounts.jsonl")
    assert accounts.write(account, run, str)
    accounts.close()
    assert json.loads((tmp_path / "accounts.jsonl").read_text())["answer"] == "\ud83d"
