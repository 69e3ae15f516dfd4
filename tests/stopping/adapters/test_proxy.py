"""The proxy with the real server of llama.cpp and the official client: thoughts are stopped, or forwarded and counted."""

import asyncio
import json
import random
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

import stopping
from stopping import artifacts
from stopping.adapters.proxy.config import BY_ORDER, ProxyConfig
from stopping.adapters.server.thinking import think
from stopping.policies import CloseTokenThreshold, TokenBudget
from tests.stopping.adapters.live import NEVER, prompt_of, questions, settings_of
from tests.stopping.adapters.proxied import proxied

QUESTIONS = questions(40)
BUDGET = 64
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Directories of policies by name: one that stops, and one that never does."""
    folder = tmp_path_factory.mktemp("policies")
    lengths = {"length_tokens": [40, 80, 120, 200, 300, 480]}
    made = {
        "budget": artifacts.save_policy(TokenBudget(BUDGET), folder / "budget", traffic=lengths),
        "never": artifacts.save_policy(NEVER, folder / "never"),
        "close": artifacts.save_policy(CloseTokenThreshold(-1.0, -12.0, 96), folder / "close"),
    }
    return made


@pytest.fixture(scope="module")
def proxy(llama_server, policies):
    with proxied(llama_server, policies, models={"small": "never"}) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy):
    with proxy.client() as client:
        yield client


def asked(text, **more):
    return {
        "model": "reasoner",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 200,
    } | more


def as_text(body):
    """Return the same request as a completion of a text that opens the thought."""
    more = {name: value for name, value in body.items() if name != "messages"}
    return {**more, "prompt": body["messages"][0]["content"] + "<think>"}


def told(response):
    """Return content, reasoning and finish reason of an answer, streamed or not, to a chat or a text."""
    parts, reason = {"content": "", "reasoning_content": ""}, ""
    if response.headers["content-type"].startswith("text/event-stream"):
        lines = [line[5:].strip() for line in response.text.splitlines() if line.startswith("data:")]
        assert lines.pop() == "[DONE]"
        documents = [json.loads(line) for line in lines]
    else:
        documents = [response.json()]
    for document in documents:
        for choice in document["choices"]:
            message = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            for name in parts:
                parts[name] += message.get(name) or ""
            reason = choice["finish_reason"] or reason
    return *parts.values(), reason


def test_a_policy_that_never_stops_changes_not_a_byte(llama_server, proxy):
    """Greedily, on 40 problems, one at a time: a thought in pieces equals the thought in one request.

    Concurrent requests would not do: llama.cpp's own answers then differ between runs, about one in 60, because it rounds
    differently in batches of another size.
    """
    answered = 0
    for number, text in enumerate(QUESTIONS):
        chat = asked(text, max_tokens=160)
        for where, body, streamed in ((CHAT, chat, number % 2), (TEXT, as_text(chat), 1 - number % 2)):
            body = body | {"stream": bool(streamed)}
            direct = told(httpx.post(llama_server + where, json=body, timeout=60))
            assert told(proxy.http.post(where, json=body, headers={"x-stopping-policy": "never"})) == direct
            answered += direct[2] == "stop"
    assert answered


def test_a_budget_stops_thoughts(client):
    before = [0, 0]
    for text in QUESTIONS[:6]:
        answer = client.chat.completions.create(**asked(text))
        said = answer.usage.stopping
        details = answer.usage.completion_tokens_details
        assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
        assert details.reasoning_tokens <= BUDGET and said["policy"].startswith("budget@")
        assert said["stopped"] == (details.reasoning_tokens == BUDGET)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        if said["stopped"]:
            assert said["expected_tokens_saved"] == pytest.approx(236 - answer.usage.completion_tokens)
        before[said["stopped"]] += 1
    assert before[1]


def test_answers_that_are_too_long_are_told(llama_server, policies, caplog):
    """Counted by reason, and logged once with the option that may help."""
    with proxied(llama_server, {"budget": policies["budget"]}, marks={"answer_tokens": 2}) as proxy:
        for text in QUESTIONS[:3]:
            response = proxy.http.post(CHAT, json=asked(text))
            assert not response.json()["usage"]["stopping"]["stopped"]
        metrics = proxy.http.get("/metrics").text
    assert re.search(r'stopping_put_off_total{policy="budget",reason="answer too long"} [1-9]', metrics)
    assert 'stopping_put_off_total{policy="budget",reason="no answer"} 0.0' in metrics
    told = [record.getMessage() for record in caplog.records if "--answer-tokens" in record.getMessage()]
    assert len(told) == 1 and "policy budget@" in told[0] and "did not end within 2 tokens" in told[0]


def test_streams(client):
    whole = client.chat.completions.create(**asked(QUESTIONS[0]))
    with client.chat.completions.create(
        **asked(QUESTIONS[0]), stream=True, stream_options={"include_usage": True}
    ) as chunks:
        chunks = list(chunks)
    assert chunks[0].choices[0].delta.role == "assistant" and not chunks[-1].choices
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert "".join(delta.model_extra.get("reasoning_content") or "" for delta in deltas) == (
        whole.choices[0].message.reasoning_content
    )
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.stopping == whole.usage.stopping
    assert len({chunk.id for chunk in chunks}) == 1
    with client.chat.completions.create(**asked(QUESTIONS[0]), stream=True) as chunks:
        assert all(chunk.usage is None for chunk in chunks)


def test_texts(client):
    whole = client.completions.create(**as_text(asked(QUESTIONS[0])))
    with client.completions.create(**as_text(asked(QUESTIONS[0])), stream=True) as chunks:
        text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == whole.choices[0].text and "</think>" in text and whole.usage.stopping["stopped"]
    ids = client.completions.create(**as_text(asked("")) | {"prompt": [1, 13, 30, 14, 30, 15, 29, 13, 15, 3]})
    assert ids.choices[0].text and "stopping" in ids.usage.model_extra


def test_the_asynchronous_client(proxy):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="x") as client:
            whole = await client.chat.completions.create(**asked(QUESTIONS[1]))
            async with await client.chat.completions.create(**asked(QUESTIONS[1]), stream=True) as chunks:
                streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
            return whole.choices[0].message.content, streamed

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


def test_the_policy_of_a_request(proxy, client):
    def policy_of(**more):
        usage = client.chat.completions.create(**asked(QUESTIONS[0], max_tokens=8) | more).usage
        return (usage.model_extra.get("stopping") or {"policy": "none"})["policy"].partition("@")[0]

    before = proxy.counts("unpoliced")
    assert policy_of() == "budget" and policy_of(model="small") == "never" and policy_of(model="unheard of") == "budget"
    assert policy_of(model="small", extra_headers={"x-stopping-policy": "close"}) == "close"
    assert policy_of(extra_headers={"x-stopping-policy": "none"}) == "none"
    assert proxy.counts("unpoliced")["asked"] == before.get("asked", 0) + 1


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
HANDED_ON = {
    "n": {"n": 2, "temperature": 1.0},
    "tools": {"tools": [TOOL], "tool_choice": "auto"},
    "response_format": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    },
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "stop": {"stop": ["wait"]},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logit_bias": {"logit_bias": {"9": -100}},
    "other": {"extra_body": {"mirostat": 2}},
    "enable_thinking": {"extra_body": {"enable_thinking": False}},
    "prefill": {"messages": [{"role": "user", "content": "2 3 4>24"}, {"role": "assistant", "content": "2"}]},
}


@pytest.mark.parametrize("reason", HANDED_ON)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_policy_cannot_keep_to_is_handed_on_and_counted(llama_server, proxy, client, reason, streamed):
    by_order = streamed and BY_ORDER.issuperset(
        HANDED_ON[reason]
    )  # the same answer, as no order is given within these tokens
    before = proxy.counts("unpoliced").get(reason, 0)
    body = asked(QUESTIONS[2], max_tokens=40, stream=streamed, seed=1) | HANDED_ON[reason]
    direct = openai.OpenAI(base_url=f"{llama_server}/v1", api_key="x", max_retries=0)

    def outcome(client):
        try:
            answer = client.chat.completions.create(**body)
        except openai.APIStatusError as error:
            return error.status_code, error.message
        found = [choice.model_dump() for each in (answer if streamed else [answer]) for choice in each.choices]
        found = json.loads(json.dumps(found), parse_float=lambda _: 0.0)  # log-probabilities depend on the cache
        return sorted(map(json.dumps, found)) if reason == "n" else found

    assert outcome(client) == outcome(direct)
    assert proxy.counts("unpoliced").get(reason, 0) == before + (not by_order)
    direct.close()


def test_what_asks_for_nothing_is_policed(client):
    body = asked(QUESTIONS[0]) | {
        "n": 1, "tools": [], "stop": None, "logprobs": False, "presence_penalty": 0.0, "user": "someone", "top_p": 1.0,
        "response_format": {"type": "text"}, "seed": None, "metadata": {"a": "b"}, "max_completion_tokens": 100,
    }  # fmt: skip
    assert client.chat.completions.create(**body).usage.stopping["stopped"]


def test_several_turns(llama_server, proxy):
    """With the reasoning of an earlier answer, which the template writes between the tags."""

    messages = [
        {"role": "user", "content": "2 3 4>24"},
        {"role": "assistant", "content": "(2*3)*4", "reasoning_content": "2*3=6,6*4=24 yes\n"},
        {"role": "user", "content": [{"type": "text", "text": "1 2 3>6"}]},
    ]
    body = asked("", max_tokens=60) | {"messages": messages}
    direct = told(httpx.post(llama_server + CHAT, json=body))
    response = proxy.http.post(CHAT, json=body, headers={"x-stopping-policy": "never"})
    assert told(response) == direct and "stopping" in response.json()["usage"]


def test_other_paths_are_handed_on(llama_server, proxy, client):
    assert [model.id for model in client.models.list()] == [proxy.config.upstream.model]
    assert proxy.http.post("/tokenize", json={"content": "2 3"}).json() == {"tokens": [13, 30, 14]}
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)


@pytest.mark.parametrize(
    ("path", "odd"),
    [
        (CHAT, {"max_tokens": "ten"}),
        (CHAT, {"max_tokens": 12.0}),
        (CHAT, {"max_tokens": 0}),
        (CHAT, {"messages": 3}),
        (TEXT, {"prompt": {"a": 1}, "max_tokens": 8}),
        (TEXT, {"prompt": ["1 2>3"], "max_tokens": 8}),
        (TEXT, {"prompt": ["1 2>3", "1 2>4"], "max_tokens": 8}),
    ],
)
def test_a_request_of_another_form_is_the_servers_to_answer(llama_server, proxy, path, odd):
    """Or to refuse in its own words: the proxy forwards and counts what it does not understand."""
    before = proxy.counts("unpoliced").get("form", 0)
    body = {"temperature": 0, **(asked("1 2>3", max_tokens=8) if path == CHAT else {}), **odd}

    def answer(url):
        response = httpx.post(url + path, json=body, timeout=60)
        document = response.json()
        texts = [each.get("text") or each.get("message") for each in document.get("choices", ())]
        return response.status_code, document.get("error"), texts

    assert answer(proxy.url) == answer(llama_server)
    assert proxy.counts("unpoliced")["form"] == before + 1


def test_refusals(llama_server, policies):

    with proxied(llama_server, policies, api_key="secret", max_body_bytes=10_000, max_streams=1) as proxy:
        with proxy.client(api_key="wrong") as client, pytest.raises(openai.AuthenticationError, match="API key"):
            client.chat.completions.create(**asked("1 2>3"))
        assert proxy.http.get("/healthz").status_code == 200  # for monitoring, without a key
        headers = {"authorization": "Bearer secret"}
        with proxy.client(api_key="secret") as client:
            with pytest.raises(openai.BadRequestError, match="no policy 'nobody'; there are: budget, never, close"):
                client.chat.completions.create(**asked("1 2>3"), extra_headers={"x-stopping-policy": "nobody"})
            with pytest.raises(openai.APIStatusError, match=r"at most 10,000 bytes") as caught:
                client.chat.completions.create(**asked("1 " * 10_000))
            assert caught.value.status_code == 413
        for content, said in (
            (b"{", "the body: "),
            (b"[]", "expected an object, got list"),
        ):
            response = proxy.http.post(CHAT, content=content, headers=headers)
            assert response.status_code == 400 and said in response.json()["error"]["message"]
        long = asked(QUESTIONS[0], stream=True, ignore_eos=True, max_tokens=400)
        refused = None
        with proxy.client(api_key="secret") as client:
            for _ in range(50):  # the first may end before the second begins
                with httpx.stream("POST", proxy.url + CHAT, json=long, headers=headers) as first:
                    next(first.iter_bytes())
                    try:
                        client.chat.completions.create(**asked("1 2>3", max_tokens=1))
                    except openai.RateLimitError as error:
                        refused = error
                        break
        assert refused and "1 requests are under way, the most allowed" in refused.message
        while (
            "stopping_running 0.0" not in proxy.http.get("/metrics").text
        ):  # until the proxy notices that the first has left
            time.sleep(0.01)
        faults = proxy.counts("faults")
        assert faults["bad_request"] == 5 and faults["too_many"] == 1
        # the server's own refusal, in its own words
        response = proxy.http.post(CHAT, json=asked("1 " * 600), headers=headers)
        assert (
            response.status_code == 400 and "exceeds the available context size" in response.json()["error"]["message"]
        )
        assert proxy.counts("faults")["upstream_refused"] == 1


def without_names(raw):
    """Return a raw answer without the fields that differ between requests."""
    raw = re.sub(rb'"(id|system_fingerprint)":"[^"]*"', rb'"\1":""', raw)
    raw = re.sub(rb'"timings":\{[^}]*\}', b'"timings":{}', raw)
    return re.sub(rb'"created":\d+', b'"created":0', re.sub(rb'"cached_tokens":\d+', b'"cached_tokens":0', raw))


def test_the_shadow_changes_not_a_byte_and_notes_what_would_have_been(llama_server, policies, tmp_path):

    path, wanted = tmp_path / "accounts.jsonl", {}
    budget = {"close": policies["close"]}
    bodies = [
        (where, asked(text, stream=streamed, **({"stream_options": {"include_usage": True}} if streamed else {})))
        for text in QUESTIONS[:3]
        for where in (CHAT, TEXT)
        for streamed in (False, True)
    ]

    async def replayed(text):
        async with settings_of(llama_server, artifacts.load_policy(policies["close"]).policy) as settings:
            return await think(replace(settings, cap_tokens=200), await prompt_of(settings, text), {"temperature": 0})

    with proxied(llama_server, budget, accounts=path, shadow=True, holdout=0.5) as proxy:
        for where, body in bodies:
            body = body if where == CHAT else as_text(body)
            direct, shadowed = (httpx.post(url + where, json=body, timeout=60) for url in (llama_server, proxy.url))
            assert without_names(shadowed.content) == without_names(direct.content)
        proxy.stop()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(bodies)
    runs = [asyncio.run(replayed(text)) for text in QUESTIONS[:3]]
    for run in runs:
        wanted[run.would_stop_at] = wanted.get(run.would_stop_at, 0) + 4
    found = [row["would_stop_at"] for row in rows]
    assert {(-1 if at is None else at): count for at, count in wanted.items()} == {at: found.count(at) for at in found}
    assert any(at > 0 for at in found)
    for row in rows:
        assert row["treatment"] == "shadow" and row["propensity"] == 1.0 and not row["stopped"] and not row["failure"]
        assert row["policy_id"].startswith("close@") and row["length_tokens"] > 0
    log = stopping.load_log(path)
    assert sorted(log.length_tokens[log.present].tolist()) == sorted(row["length_tokens"] for row in rows)
    assert set(log.live.policy_id.ravel()) >= {rows[0]["policy_id"]}
    assert sorted(log.live.would_stop_at[log.present].tolist()) == sorted(found)
    assert log.live.propensity[log.present].tolist() == [1.0] * len(rows)


def test_a_holdout_is_left_alone(llama_server, policies, tmp_path):

    path, rng = tmp_path / "accounts.jsonl", random.Random(3)
    expected = [random.Random(3).random() < 0.3] and [drawn < 0.3 for drawn in (rng.random() for _ in range(12))]
    budget = {"budget": policies["budget"]}
    with proxied(llama_server, budget, accounts=path, holdout=0.3, rng=random.Random(3)) as proxy:
        for held, text in zip(expected, QUESTIONS, strict=False):
            body = asked(text)
            direct, got = (httpx.post(url + CHAT, json=body, timeout=60) for url in (llama_server, proxy.url))
            if held:
                assert without_names(got.content) == without_names(direct.content)
            assert ("stopping" in got.json()["usage"]) != held
        requests = proxy.counts("requests")
        proxy.stop()
    assert 0 < sum(expected) < 12 and requests == {"holdout": sum(expected), "policed": 12 - sum(expected)}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 12 and sum(row["treatment"] == "holdout" for row in rows) == sum(expected)
    for row in rows:
        assert row["propensity"] == pytest.approx(0.3 if row["treatment"] == "holdout" else 0.7)
        assert not (row["treatment"] == "holdout" and row["stopped"])
    log = stopping.load_log(path)
    assert set(log.live.propensity[log.present].round(6).tolist()) == {0.3, 0.7}


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_holdouts_share(share):
    """Within five standard deviations of the binomial, by a seeded generator."""
    config = ProxyConfig(
        None, None, None, holdout=share, default="a", policies={"a": SimpleNamespace(watch=None)}, rng=random.Random(0)
    )
    drawn = [config.choose({"messages": []}, None)[1] for _ in range(20_000)]
    assert set(drawn) == {"", "holdout"}
    assert abs(drawn.count("holdout") - 20_000 * share) <= 5 * (20_000 * share * (1 - share)) ** 0.5
    with pytest.raises(ValueError, match=r"holdout: expected a share from 0 to 1, got 1\.5"):
        ProxyConfig(None, None, None, holdout=1.5)


def test_metrics_and_health(proxy):
    families = list(text_string_to_metric_families(proxy.http.get("/metrics").text))
    assert families and all(family.name.startswith("stopping_") and family.documentation for family in families)
    names = {family.name for family in families}
    assert {
        f"stopping_{name}" for name in ("requests", "unpoliced", "stops", "faults", "tokens", "thought_tokens")
    } <= names
    health = proxy.http.get("/healthz").json()
    assert health["status"] == "ok" and set(health["policies"]) == {"budget", "never", "close"}
    assert "policy_failed" not in proxy.counts("faults") and "upstream_failed" not in proxy.counts("faults")
