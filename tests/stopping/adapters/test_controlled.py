"""Requests that pieces do not support, stopped by llama.cpp's order to close a thought."""

import asyncio
import json
import time

import httpx
import numpy as np
import pytest

import stopping.adapters.proxy.controlled as ordered
from stopping import artifacts
from stopping.adapters.server.client import Upstream
from stopping.policies import AnswerAgreement, CloseTokenThreshold, Kind, ThinkingObservation, TokenBudget
from stopping.policies.recorded_decisions import compare_decisions
from stopping.policies.rows import TakenDecision
from tests.stopping.adapters.live import NEVER, questions, wait_until_idle
from tests.stopping.adapters.llama import needs_llama, running, write_reasoner
from tests.stopping.adapters.proxied import proxied
from tests.stopping.adapters.test_proxy import CHAT, TOOL, asked

QUESTIONS = questions(40)
BUDGET, CAP = 64, 2000  # long enough for an order to reach its request even on a busy machine
GOES_ON = {"extra_body": {"ignore_eos": True}}
STOP = {"stop": ["never written"]}
CLOSE = CloseTokenThreshold(-1.0, -12.0, 96)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    needs_llama()
    path = write_reasoner(tmp_path_factory.mktemp("gguf"), context_tokens=CAP + 200)
    with running(path, context_tokens=CAP + 200) as server:
        yield server.url


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    made = {"budget": TokenBudget(BUDGET), "never": NEVER, "close": CLOSE, "probes": AnswerAgreement(2, 64)}
    return {name: artifacts.save_policy(policy, folder / name) for name, policy in made.items()}


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    (path := tmp_path_factory.mktemp("accounts") / "log.jsonl").touch()
    return path


@pytest.fixture(scope="module")
def proxy(server, policies, accounts):
    with proxied(server, policies, accounts=accounts) as proxy:
        assert proxy.config.capabilities.control
        yield proxy


@pytest.fixture(scope="module")
def long(server):
    """Questions with long thoughts: the thought's length by question."""
    found = {}
    for text in QUESTIONS:
        answer = httpx.post(server + CHAT, json=asked(text, max_tokens=CAP), timeout=60).json()
        if (num_tokens := answer["usage"]["completion_tokens"]) >= 300:
            found[text] = num_tokens
        if len(found) == 3:
            return found
    raise AssertionError("expected three long thoughts")


def ask(proxy, text, policy="budget", **more):
    """Return the chunks of a streamed answer, as the official client reads them."""
    body = asked(text, max_tokens=CAP, stream=True, stream_options={"include_usage": True}) | more
    with proxy.client() as client:
        return list(client.chat.completions.create(**body, extra_headers={"x-stopping-policy": policy}))


def told(chunks):
    """Return the thought, content, finish reason and usage."""
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    thought = "".join((delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas)
    content = "".join(delta.content or "" for delta in deltas)
    reason = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    return thought, content, reason, chunks[-1].usage


def eventually(holds):
    """Requests are counted after the client has its answer."""
    deadline = time.monotonic() + 5
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def rows(accounts, number):
    """Return the log's lines, once it has at least `number`."""
    assert eventually(lambda: len(accounts.read_text().splitlines()) >= number)
    return [json.loads(line) for line in accounts.read_text().splitlines()]


@pytest.mark.parametrize(
    "more", [STOP, {"frequency_penalty": 1e-6}, {"logprobs": True, "top_logprobs": 2}, {"tools": [TOOL]}]
)
def test_a_budget_closes_thoughts_by_order(proxy, accounts, long, more):
    before = proxy.counts("requests").get("policed", 0)
    lag_tokens = 0
    for text in long:
        number = len(rows(accounts, 0))
        chunks = ask(proxy, text, **more, **GOES_ON)
        thought, content, reason, usage = told(chunks)
        done, row = usage.model_extra["stopping"], rows(accounts, number + 1)[-1]
        assert content and reason == ["length"] and thought, "an answer is never empty because we stopped"
        assert done["stopped"] and done["would_stop_at"] == BUDGET and row["by_order"] and row["treatment"] == "policed"
        assert row["thought_tokens"] == BUDGET + done["lag_tokens"] and row["lag_tokens"] == done["lag_tokens"] >= 0
        assert abs(usage.completion_tokens - row["length_tokens"]) <= 8  # the end token, and tokens without text
        lag_tokens += done["lag_tokens"]
        entries = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
        assert bool(entries) == ("logprobs" in more)
        assert all(len(each.top_logprobs) == 2 for entry in entries for each in entry.content)
    assert proxy.counts("requests")["policed"] == before + len(long)
    assert sum(long.values()) > len(long) * BUDGET + lag_tokens + 100


def test_a_policy_that_never_stops_changes_nothing(server, proxy):
    def lines(url, **more):
        body = asked(QUESTIONS[0], max_tokens=200, stream=True) | STOP
        with httpx.stream("POST", url + CHAT, json=body, timeout=60, **more) as response:
            found = [line for line in response.iter_lines() if line]
        assert found.pop() == "data: [DONE]"
        documents = [json.loads(line[5:]) for line in found]
        for document in documents:
            for name in ("id", "created", "timings"):
                document.pop(name, None)
        return documents

    assert lines(proxy.url, headers={"x-stopping-policy": "never"}) == lines(server)


def test_decisions_are_the_policys_on_what_it_saw(proxy, accounts):
    """Signals are read from the stream, and the log has observations and decisions."""
    number = len(rows(accounts, 0))
    for text, more in zip(QUESTIONS[:6], [STOP, {"tools": [TOOL]}] * 3, strict=True):
        ask(proxy, text, "close", **more | {"max_tokens": 400})
    found = [row for row in rows(accounts, number + 6) if row["policy_id"].startswith("close")]
    asked_of = [[_decision(each) for each in row["decisions"]] for row in found]
    assert len(found) == 6 and any(row["stopped"] for row in found) and all(asked_of)
    assert compare_decisions(CLOSE, asked_of).num_different == 0
    saw = [each.observation.log_close_prob for each in asked_of[0]]
    assert np.isfinite(saw).all() and min(saw) < -1.0


@pytest.mark.parametrize(
    ("policy", "more", "reason"),
    [
        ("probes", STOP, "stop"),
        ("budget", STOP | {"n": 2}, "n"),
        ("budget", STOP | {"logit_bias": {"9": -100}}, "logit_bias"),
    ],
)
def test_what_no_order_helps_is_left_alone(proxy, policy, more, reason):
    before = proxy.counts("unpoliced").get(reason, 0)
    ask(proxy, QUESTIONS[0], policy, **more | {"max_tokens": 20})
    assert proxy.counts("unpoliced")[reason] == before + 1


def test_a_stop_without_room_for_an_answer_is_put_off(proxy, accounts):
    number = len(rows(accounts, 0))
    thought, _, _, usage = told(ask(proxy, QUESTIONS[0], **STOP | {"max_tokens": BUDGET + 20}))
    assert thought and not usage.model_extra["stopping"]["stopped"]
    assert rows(accounts, number + 1)[-1]["decisions"][-1]["put_off"]


def test_an_order_that_is_not_taken_leaves_the_thought_alone(proxy, monkeypatch):
    monkeypatch.setattr(ordered, "CONTROL", "/nothing")
    before = proxy.counts("faults").get("order_failed", 0)
    thought, _, _, usage = told(ask(proxy, QUESTIONS[0], **STOP))
    assert thought and not usage.model_extra["stopping"]["stopped"]
    assert eventually(lambda: proxy.counts("faults").get("order_failed", 0) == before + 1)


def test_a_client_that_goes_frees_the_slot(server, proxy):
    before = proxy.counts("faults").get("client_gone", 0)
    body = asked(QUESTIONS[0], stream=True, max_tokens=CAP, ignore_eos=True) | STOP
    with httpx.stream("POST", proxy.url + CHAT, json=body, headers={"x-stopping-policy": "never"}) as response:
        next(response.iter_bytes())

    async def idle():
        async with Upstream(server) as upstream:
            await wait_until_idle(upstream, 10.0)

    asyncio.run(idle())
    assert eventually(lambda: proxy.counts("faults").get("client_gone", 0) == before + 1)


def test_a_share_is_left_alone(server, policies):
    with proxied(server, policies, holdout=1.0) as proxy:
        *_, usage = told(ask(proxy, QUESTIONS[0], **STOP))
        assert "stopping" not in (usage.model_extra or {}) and proxy.counts("requests") == {"holdout": 1}


def _decision(row):
    return TakenDecision(ThinkingObservation(**row["saw"]), Kind[row["asked"]], 0, row["put_off"])


def test_the_shadow_asks_and_closes_nothing(server, policies, tmp_path):
    """The policy is asked while tokens arrive, and the client gets the server's own answer."""
    with proxied(server, policies, shadow=True, accounts=(path := tmp_path / "log.jsonl")) as proxy:
        path.touch()
        thought, _, _, usage = told(ask(proxy, QUESTIONS[0], **STOP | {"max_tokens": 300}))
        (row,) = rows(path, 1)
        assert "stopping" not in (usage.model_extra or {}) and proxy.counts("requests") == {"shadow": 1}
    assert thought and row["by_order"] and row["treatment"] == "shadow" and not row["stopped"]
    assert row["would_stop_at"] == BUDGET and row["thought_tokens"] > BUDGET and not row["lag_tokens"]
