"""Faults of clients and servers: nothing hangs or leaks, no client gets less than without the proxy, all are counted."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

from stopping import artifacts
from stopping.adapters.llamacpp import LlamaServer
from stopping.adapters.server import thought
from stopping.adapters.server.client import Upstream
from stopping.policies import AnswerAgreement, CloseTokenThreshold, TokenBudget
from tests.helpers import sized
from tests.stopping.adapters.faulty import GARBAGE, Faulty
from tests.stopping.adapters.live import NEVER, counter, questions, wait_until_idle
from tests.stopping.adapters.llama import needs_llama, write_reasoner
from tests.stopping.adapters.proxied import proxied
from tests.stopping.adapters.test_proxy import CHAT, asked, told

QUESTIONS = questions(8)
SECONDS = 1.0  # the proxy's timeout for the server
NUM_SLOTS, CONTEXT_TOKENS = 8, 4096


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of eight slots, with room for thoughts that take seconds."""
    needs_llama()
    path = write_reasoner(tmp_path_factory.mktemp("gguf"), context_tokens=CONTEXT_TOKENS)
    with LlamaServer(path, num_slots=NUM_SLOTS, context_tokens=CONTEXT_TOKENS, num_threads=1) as server:
        yield server.url


@pytest.fixture(scope="module")
def faulty(server):
    with Faulty(server).running() as faulty:
        yield faulty


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    made = {
        "never": NEVER,
        "budget": TokenBudget(64),
        "close": CloseTokenThreshold(0.5, -1e4, 32),  # reads log-probabilities, and never stops
        "agreement": AnswerAgreement(2, 32),
    }
    return {name: artifacts.save_policy(policy, folder / name) for name, policy in made.items()}


@pytest.fixture(scope="module")
def proxy(server, faulty, policies):
    with proxied(faulty.url, policies, marks_from=server, timeout_seconds=SECONDS) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def near(server, policies):
    """A proxy directly in front of the real server."""
    with proxied(server, policies) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _nothing_leaks(request, server):
    """After each test the server is idle, and the proxy has no request under way."""

    async def idle():
        async with Upstream(server) as upstream:
            await wait_until_idle(upstream, 30.0)

    yield
    asyncio.run(idle())
    for name in {"proxy", "near"} & {*request.fixturenames}:
        proxy = request.getfixturevalue(name)
        deadline = time.monotonic() + 5
        while "stopping_running 0.0" not in proxy.http.get("/metrics").text:
            assert time.monotonic() < deadline, "a request is still counted as under way"
            time.sleep(0.01)


@contextmanager
def counting(proxy, **wanted):
    """Check that exactly these faults are counted."""
    before = proxy.counts("faults")
    yield
    deadline = time.monotonic() + 5
    while (found := {kind: count - before.get(kind, 0) for kind, count in proxy.counts("faults").items()}) and (
        {kind: count for kind, count in found.items() if count} != wanted
    ):
        assert time.monotonic() < deadline, f"expected {wanted}, got {found}"
        time.sleep(0.01)


def by(policy):
    return {"x-stopping-policy": policy}


def direct(server, body):
    return told(httpx.post(server + CHAT, json=body, timeout=60))


@pytest.mark.parametrize("kind", ["kill", "end", "429", "500", "503", *GARBAGE])
@pytest.mark.parametrize("policy", ["never", "close"])
def test_a_fault_amid_a_thought_is_gone_on_from(server, faulty, proxy, kind, policy):
    """The third piece fails after three tokens, and the answer is the same as without the fault."""
    body = asked(QUESTIONS[0], stream=True)
    faulty.set(kind, 3, (2,))
    with counting(proxy, upstream_resumed=1):
        assert told(proxy.http.post(CHAT, json=body, headers=by(policy))) == direct(server, body)


@pytest.mark.parametrize("kind", ["kill", "end", *GARBAGE[:1]])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_goes_on_failing_is_an_error(faulty, proxy, kind, streamed, monkeypatch):
    waits = tuple(sized(0.1, 1.0) * seconds for seconds in thought.RESUME_SECONDS)
    monkeypatch.setattr(thought, "RESUME_SECONDS", waits)
    faulty.set(kind, 3, tuple(range(2, 99)))
    start = time.monotonic()
    with (
        counting(proxy, upstream_failed=1, upstream_resumed=len(waits)),
        proxy.client() as client,
        pytest.raises(openai.APIError),
    ):
        answer = client.chat.completions.create(**asked(QUESTIONS[0], stream=streamed), extra_headers=by("never"))
        assert streamed and list(answer)
    assert time.monotonic() - start < sum(waits) + 20


@pytest.mark.parametrize(("kind", "error", "fault"), [
    ("429", openai.RateLimitError, "upstream_refused"), ("500", openai.InternalServerError, "upstream_failed"),
    ("kill", openai.InternalServerError, "upstream_failed"), ("{not json", openai.InternalServerError, "upstream_failed"),
])  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_before_the_first_token_is_the_servers(faulty, proxy, kind, error, fault, streamed):
    """An error with a status on which clients retry."""
    faulty.set(kind, 0)
    with counting(proxy, **{fault: 1}), proxy.client() as client, pytest.raises(error) as caught:
        client.chat.completions.create(**asked(QUESTIONS[0], stream=streamed), extra_headers=by("never"))
    if kind.isdigit():
        assert caught.value.body["message"] == "on purpose"
    faulty.set(kind, 0, (0,))
    with proxy.client(max_retries=1) as client:  # the client retries
        answer = client.chat.completions.create(**asked(QUESTIONS[0]), extra_headers=by("never"))
    assert answer.choices[0].message.reasoning_content


@pytest.mark.parametrize("which", [(0,), (2,)])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_says_nothing_is_not_waited_for(faulty, proxy, which, streamed):
    faulty.set("slow", 3, which)
    start = time.monotonic()
    with counting(proxy, upstream_failed=1), proxy.client() as client, pytest.raises(openai.APIError):
        answer = client.chat.completions.create(**asked(QUESTIONS[0], stream=streamed), extra_headers=by("never"))
        assert streamed and list(answer)
    assert SECONDS <= time.monotonic() - start < SECONDS + 10


@pytest.mark.parametrize("streamed", [False, True])
def test_signals_that_stop_to_come_leave_the_thought_alone(server, faulty, proxy, streamed):
    """The answer is not empty if the server gives one; the policy is no longer asked, and that is counted."""
    for text in QUESTIONS[:3]:
        body = asked(text, stream=streamed)
        faulty.set("drop", 3)
        with counting(proxy, policy_failed=1):
            assert told(proxy.http.post(CHAT, json=body, headers=by("close"))) == direct(server, body)


def test_an_answer_that_cannot_be_forced_leaves_the_thought_alone(server, faulty, proxy):
    """The second completion is the first probe."""
    body = asked(QUESTIONS[0], stream=True)
    for kind in ("kill", "500", "{not json", "slow"):
        faulty.set(kind, 0, (1,))
        with counting(proxy, policy_failed=1):
            assert told(proxy.http.post(CHAT, json=body, headers=by("agreement"))) == direct(server, body)


def test_what_is_handed_on_breaks_as_the_server_does(faulty, proxy):
    faulty.set("kill", 3)
    with counting(proxy, upstream_failed=1), proxy.client() as client, pytest.raises(openai.APIConnectionError):
        try:
            list(client.chat.completions.create(**asked(QUESTIONS[0], stream=True), extra_headers=by("none")))
        except httpx.RemoteProtocolError as error:  # the client does not translate it within a stream
            raise openai.APIConnectionError(request=None) from error
    faulty.set("503")
    with counting(proxy), proxy.client() as client, pytest.raises(openai.InternalServerError, match="on purpose"):
        client.chat.completions.create(**asked(QUESTIONS[0]), extra_headers=by("none"))


BY_ORDER = {"stop": ["never written"], "stream": True}  # pieces do not support it, so the thought is closed by an order


@pytest.mark.parametrize("kind", ["drop", "{not json", '{"choices":3}'])
def test_signals_that_stop_to_come_leave_a_thought_alone_that_an_order_could_close(server, faulty, proxy, kind):
    """The client gets what the server sends, without log-probabilities; the policy is no longer asked."""
    body = asked(QUESTIONS[0]) | BY_ORDER
    faulty.set(kind, 3)
    with counting(proxy, **({"policy_failed": 1} if kind == "drop" else {})):
        response = proxy.http.post(CHAT, json=body, headers=by("close"))
    lines = [line for line in response.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]" and (kind == "drop" or f"data: {kind}" in lines)
    if kind == "drop":
        assert told(response) == direct(server, body)


@pytest.mark.parametrize("kind", ["kill", "slow"])
def test_a_thought_that_an_order_could_close_breaks_as_the_server_does(faulty, proxy, kind):
    faulty.set(kind, 3)
    with counting(proxy, upstream_failed=1), pytest.raises(httpx.RemoteProtocolError):
        proxy.http.post(CHAT, json=asked(QUESTIONS[0]) | BY_ORDER, headers=by("close"), timeout=20)


def test_a_refusal_of_what_an_order_could_close_is_the_servers(faulty, proxy):
    faulty.set("429", 0)
    with proxy.client() as client, pytest.raises(openai.RateLimitError, match="on purpose"):
        client.chat.completions.create(**asked(QUESTIONS[0]) | BY_ORDER, extra_headers=by("close"))


LONG = {"max_tokens": CONTEXT_TOKENS - 100, "ignore_eos": True}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("policy", ["never", "close", "none"])
def test_a_client_that_goes_frees_the_slot(server, near, policy, streamed):
    """The client leaves a long thought early, and the server stops working on it.

    The exception is one that is forwarded and not streamed: llama.cpp completes it even for a direct client that has left.
    """
    goes_on = policy == "none" and not streamed
    body = asked(QUESTIONS[0], stream=streamed, **LONG) | ({"max_tokens": 1500} if goes_on else {})
    before = counter(server, "n_decode_total")
    with counting(near, client_gone=1):
        if streamed:
            with httpx.stream("POST", near.url + CHAT, json=body, headers=by(policy)) as response:
                next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(near.url + CHAT, json=body, headers=by(policy), timeout=0.3)

        async def idle():
            async with Upstream(server) as upstream:
                await wait_until_idle(upstream, 30.0)

        asyncio.run(idle())
    assert goes_on or counter(server, "n_decode_total") - before < 0.75 * LONG["max_tokens"]


def test_a_client_that_goes_before_the_first_token_frees_the_slot(server, faulty, proxy):
    faulty.set("slow", 0)
    with counting(proxy, client_gone=1), pytest.raises(httpx.ReadTimeout):
        httpx.post(proxy.url + CHAT, json=asked(QUESTIONS[0], stream=True), headers=by("never"), timeout=0.3)


def test_a_server_that_is_gone(server, policies):
    with (
        proxied("http://127.0.0.1:9", policies, marks_from=server, timeout_seconds=SECONDS) as proxy,
        proxy.client() as client,
    ):
        for settings in ({}, {"stream": True}, {"n": 2}, {"extra_headers": by("none")}):
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(**asked(QUESTIONS[0]) | settings)
            assert caught.value.status_code == 502 and caught.value.body["type"] == "upstream_failed"
        health = proxy.http.get("/healthz")
        assert health.status_code == 503 and health.json()["status"] == "upstream failed"
        assert proxy.counts("faults") == {"upstream_failed": 4}


def test_it_ends_in_order(server, policies):
    """A stream that runs when the proxy is told to end is completed."""
    with proxied(server, policies) as proxy:
        body = asked(QUESTIONS[0], stream=True, max_tokens=250, ignore_eos=True)
        with httpx.stream("POST", proxy.url + CHAT, json=body, headers=by("never"), timeout=60) as response:
            parts = response.iter_bytes()
            first = next(parts)
            ending = threading.Thread(target=proxy.stop)
            ending.start()
            raw = first + b"".join(parts)
        ending.join()
        assert raw.endswith(b"data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError):
            httpx.get(proxy.url + "/healthz")


def test_two_hundred_streams_at_once(server, policies, tmp_path):
    """On eight slots: all are complete and logged, tokens agree with the server's counts, and none waits there."""
    path, texts, deferred = tmp_path / "accounts.jsonl", questions(200), []

    async def one(client, index):
        body = asked(texts[index], stream=True, stream_options={"include_usage": True}, max_tokens=100)
        async with client.stream("POST", CHAT, json=body) as response:
            assert response.status_code == 200
            lines = [line[5:].strip() async for line in response.aiter_lines() if line.startswith("data:")]
        assert lines.pop() == "[DONE]"
        usage = json.loads(lines[-1])["usage"]
        chunks = [json.loads(line)["choices"] for line in lines[:-1]]
        assert chunks[-1][0]["finish_reason"] in ("stop", "length")
        return usage

    async def all_of_them(url):
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
            every = asyncio.gather(*(one(client, index) for index in range(200)))
            while not every.done():
                deferred.append(await asyncio.to_thread(counter, server, "requests_deferred"))
                await asyncio.sleep(0.2)
            return await every

    with proxied(server, {"budget": policies["budget"]}, accounts=path, timeout_seconds=300.0) as proxy:
        before = counter(server, "tokens_predicted_total")
        usages = asyncio.run(all_of_them(proxy.url))
        proxy_tokens, faults = proxy.counts("tokens"), proxy.counts("faults")
        assert proxy.counts("requests") == {"policed": 200}
    assert len(deferred) > 3 and not any(deferred)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert not faults and len(rows) == 200 and not any(row["failure"] for row in rows)
    paid = sum(usage["completion_tokens"] for usage in usages)
    assert sum(proxy_tokens.values()) == paid
    assert sum(row["length_tokens"] + row["probe_tokens"] + row["discarded_tokens"] for row in rows) == paid
    tags = sum(row["stopped"] + sum(each["put_off"] for each in row["decisions"]) for row in rows)
    assert counter(server, "tokens_predicted_total") - before == paid - tags
    assert sum(row["stopped"] for row in rows) > 50
