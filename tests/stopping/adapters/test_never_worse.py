"""No client gets less through the proxy than from the server alone, whatever the server's finish reasons, counts and refusals."""

import asyncio
import json
import math

import httpx
import pytest

from stopping import artifacts
from stopping.adapters.server.capabilities import Capabilities
from stopping.adapters.server.client import End, Upstream
from stopping.adapters.server.markup import read_markup, stripped
from stopping.adapters.server.prompts import Prompt
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.recording import Recording, _Recorder
from stopping.adapters.server.room import _limits
from stopping.adapters.server.sampling import Sampler
from stopping.adapters.server.signals import entropy_of, log_close_prob_of, log_probs_of
from stopping.policies import (
    AnswerAgreement,
    CloseTokenThreshold,
    ConfidenceExit,
    FixedSamples,
    TokenBudget,
    WindowedConfidence,
)
from stopping.traces.endings import BROKEN, CALLED, CUT, is_cut, is_natural, is_whole
from tests.stopping.adapters.live import NEVER
from tests.stopping.adapters.proxied import proxied
from tests.stopping.adapters.scripted import SCRIPT, SPLIT, THOUGHT, Scripted
from tests.stopping.adapters.test_proxy import CHAT, TEXT, told

BUDGET, EVERY = 32, 16
WHOLE = ("\n\nSo it is 7", THOUGHT, "stop")
STOPPED = " 7"
NUM_TOKENS = 2 * 80 + 2 + 7 + 1  # of the script: words and blanks, the tag, the answer, and the end token
MARKS = {"candidates": (), "answer_tokens": 16, "answer_of": stripped}


@pytest.fixture(scope="module")
def server():
    with Scripted().running() as server:
        yield server


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    made = {
        "budget": TokenBudget(BUDGET),
        "never": NEVER,
        "window": WindowedConfidence(-1.0, 16),
        "close": CloseTokenThreshold(-6.0, -1e4, 16),
        "watch": CloseTokenThreshold(0.5, -1e4, 16),  # reads top log-probabilities, and never stops
        "exit": ConfidenceExit(-1.0, 16),
        "agreement": AnswerAgreement(2, 16),
    }
    return {name: artifacts.save_policy(policy, folder / name) for name, policy in made.items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("accounts") / "log.jsonl"


@pytest.fixture(scope="module")
def proxy(server, policies, path):
    server.set()
    with proxied(server.url, policies, marks=MARKS, every_tokens=EVERY, accounts=path, cap_tokens=None) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _plain(server):
    server.set()


def asked(text="how many?", **more):
    return {"model": "scripted", "messages": [{"role": "user", "content": text}]} | more


def by(proxy, policy="budget", where=CHAT, body=None, **more):
    body = (asked() if body is None else body) | more
    return proxy.http.post(where, json=body, headers={"x-stopping-policy": policy})


def faults(proxy):
    return proxy.counts("faults")


# ---- requested lengths


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("policy", ["never", "agreement"])
def test_an_answer_has_all_the_room_there_is(server, proxy, policy, streamed):
    """The client requests no length; the thought closes by itself, and its answer has the rest of the context."""
    server.set(context=400)
    answer = told(by(proxy, policy, stream=streamed))
    assert answer == WHOLE if policy == "never" else answer[2] == "stop" and answer[0]


def worded(limit, said, status=400, key="message"):
    """A server that refuses requests beyond its context, in its own words."""

    def refusal(num_prompt, body):
        total = num_prompt + body.get("max_tokens", 16)
        error = {key: said.format(limit=limit, total=total, prompt=num_prompt, asked=body.get("max_tokens"))}
        return (status, error) if total > limit else None

    return refusal


WORDINGS = [
    "This model's maximum context length is {limit} tokens. However, you requested {asked} output tokens",
    "'max_tokens' is too large: {asked}. The maximum context length is {limit} tokens and your request has {prompt} input tokens",
    "request ({total} tokens) exceeds the available context size ({limit} tokens), try increasing it",
    "`inputs` tokens + `max_new_tokens` must be <= {limit}. Given: {prompt} `inputs` tokens and {asked} `max_new_tokens`",
    "only {limit} tokens in all, and {prompt} are used",
    "Requested token count is too large",
    "no",
]


@pytest.mark.parametrize("said", WORDINGS)
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("policy", ["never", "watch"])
def test_a_refusal_of_a_length_is_met_by_a_smaller_one(server, proxy, said, status, policy):
    before = faults(proxy)
    server.set(refusal=worded(400, said, status))
    assert told(by(proxy, policy, max_tokens=100_000)) == WHOLE
    assert faults(proxy) == before and len(server.asked) < 60


@pytest.mark.parametrize("said", WORDINGS)
@pytest.mark.parametrize("room", [1, 20, 33, 150, 160, 163, NUM_TOKENS])
def test_a_context_is_filled_to_its_last_token(server, proxy, said, room):
    num_prompt = len(server.ids(server.templated(asked()["messages"])))
    whole = server.ids(SCRIPT)[:room]
    server.set(refusal=worded(num_prompt + room, said))
    content, thought, reason = told(by(proxy, "never"))
    got = thought + ("</think>" if room > len(server.ids(THOUGHT)) else "") + content
    assert got == server.text(whole).replace("<end>", "") and reason == ("stop" if room == NUM_TOKENS else "length")
    assert len(server.asked) < 100


@pytest.mark.parametrize("said", WORDINGS)
def test_the_limit_may_be_that_of_an_answer(server, proxy, said):
    """At most 50 tokens per request, whatever the prompt."""

    def refusal(num_prompt, body):
        return (
            (400, {"message": said.format(limit=50, total="", prompt="", asked="")})
            if body["max_tokens"] > 50
            else None
        )

    server.set(refusal=refusal)
    assert told(by(proxy, "never")) == WHOLE and len(server.asked) < 120
    before = faults(proxy)
    server.set(refusal=lambda _, body: (400, {"message": "no"}) if body["max_tokens"] > EVERY else None)
    assert told(by(proxy, "close"))[0] == STOPPED and faults(proxy) == before  # this policy reads one token further


@pytest.mark.parametrize("streamed", [False, True])
def test_a_real_refusal_is_in_the_servers_own_words(server, proxy, streamed):
    before = faults(proxy).get("upstream_refused", 0)
    server.set(refusal=lambda _, body: (400, {"message": f"temperature: {body.get('temperature')} is not 1"}))
    response = by(proxy, "budget", stream=streamed, temperature=3)
    assert response.status_code == 400 and response.json()["error"]["message"] == "temperature: 3 is not 1"
    assert faults(proxy)["upstream_refused"] == before + 1 and len(server.asked) <= 4
    server.set(context=5)
    response = by(proxy, "budget", stream=streamed, max_tokens=7)
    assert response.status_code == 400 and "maximum context length is 5 tokens" in response.text


@pytest.mark.parametrize("status", [413, 431, 500, 503])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_context_may_be_refused_with_another_status(server, proxy, status, streamed):
    said = "the context of {limit} tokens is exceeded"
    server.set(refusal=worded(NUM_TOKENS + 60, said, status))
    assert told(by(proxy, "never", stream=streamed)) == WHOLE


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_proxy_alone_asks_for_may_be_refused(server, proxy, streamed):
    """The client then gets the server's answer to its own request."""
    server.set(refusal=lambda _, body: (400, {"message": "no"}) if "return_token_ids" in body else None)
    content, _, reason = told(by(proxy, "budget", stream=streamed))
    assert content.endswith("So it is 7") and reason == "stop"


def test_a_forced_answer_without_room_puts_the_stop_off(server, proxy, path):
    """The thought just fits; an answer forced at the last decision points does not."""
    for said in WORDINGS[:-1]:
        before, put_off = faults(proxy), proxy.counts("put_off").get("budget", 0)
        num_prompt = len(server.ids(server.templated(asked()["messages"])))
        server.set(refusal=worded(num_prompt + BUDGET + 1, said), forced="It is seven, of course<end>")
        content, thought, reason = told(by(proxy))
        assert reason == "length" and not content and thought == server.text(server.ids(SCRIPT)[: BUDGET + 1])
        assert faults(proxy) == before and proxy.counts("put_off")["budget"] == put_off + 1
    # an answer is forced if there is room for a short one, though not for the longest
    server.set(refusal=worded(num_prompt + BUDGET + 4, WORDINGS[0]))
    assert told(by(proxy))[0] == STOPPED


def test_a_cap_of_the_operator_holds(server, policies):
    with proxied(server.url, policies, marks=MARKS, every_tokens=EVERY, cap_tokens=100) as proxy:
        assert told(by(proxy, "never"))[2] == "length"


REFUSED_LATE = [{"code": 400}, {"code": 422}, {"code": "context_length_exceeded", "type": "invalid_request_error"}]


@pytest.mark.parametrize("error", REFUSED_LATE)
def test_a_refusal_may_come_in_the_stream(server, proxy, error):
    """The answer's status was a success."""
    before = faults(proxy)

    def edit(document):
        is_too_long = server.asked[-1].get("max_tokens", 0) > 50
        return {"error": {"message": "too many", **error}} if is_too_long else document

    server.set(edit=edit)
    assert told(by(proxy, "never")) == WHOLE and faults(proxy) == before


@pytest.mark.parametrize("said", WORDINGS[:4])
def test_limits_are_read_from_refusals(said):
    limits = _limits(said.format(limit="4,096", total=5000, prompt=13, asked=4987))
    assert limits[0] == 4096


# ---- opening tags

PLAIN = "It marks a thought, and is plain text here: a reader of this long answer has no further use for it, but it goes on."
QUOTED = ["What does <think> mean?", "<think>", "a <think>\n", "</think>", "<think> and </think> and <think>?"]


@pytest.mark.parametrize("text", QUOTED)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tag_in_the_users_text_opens_no_thought(server, proxy, text, streamed):
    server.set(opening="", script=PLAIN + "<end>")
    assert told(by(proxy, body=asked(text), stream=streamed)) == (PLAIN, "", "stop")
    body = {"model": "scripted", "prompt": f"{text}\nbot:", "stream": streamed}
    assert told(by(proxy, where=TEXT, body=body)) == (PLAIN, "", "stop")


@pytest.mark.parametrize("text", QUOTED)
@pytest.mark.parametrize("opening", ["<think>", "<think>\n", "<think>\n\n", "<think> "])
def test_nor_does_it_close_one(server, proxy, text, opening):
    server.set(opening=opening)
    assert told(by(proxy, body=asked(text)))[0] == STOPPED
    assert told(by(proxy, "never", body=asked(text))) == WHOLE
    body = {"model": "scripted", "prompt": f"{text}\nbot:{opening}"}
    assert told(by(proxy, where=TEXT, body=body))[0].endswith(f"</think>{STOPPED}")


@pytest.mark.parametrize("blanks", ["", "\n", " \n\n"])
def test_a_thought_may_begin_with_the_answer(server, proxy, blanks):
    server.set(opening="", script=f"{blanks}<think>{SCRIPT}")
    assert told(by(proxy))[0] == STOPPED
    assert told(by(proxy, "never")) == WHOLE


@pytest.mark.parametrize(
    "script", ["\n\nAn answer<end>", "\n <end>", f"The tag <think> {PLAIN}<end>", f"</think>{PLAIN}<end>"]
)
def test_an_answer_without_a_thought_is_whole(server, proxy, script):
    server.set(opening="", script=script)
    assert told(by(proxy)) == (script.removesuffix("<end>"), "", "stop")


# ---- finish reasons


@pytest.mark.parametrize(
    "word", ["stop", "eos_token", "eos", "end", "stop_sequence", "end_turn", "STOP", "something else"]
)
def test_every_other_end_is_a_natural_one(server, proxy, path, word):
    server.set(words={"stop": word})
    content, _, reason = told(by(proxy))
    assert (content, reason) == (STOPPED, word) and proxy.counts("put_off").get("x", 0) == 0
    row = json.loads(path.read_text().splitlines()[-1])
    assert row["answer"] == "7" and not row["censored"] and row["stopped"]
    assert told(by(proxy, "agreement"))[0] == STOPPED


@pytest.mark.parametrize("word", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_cut_by_another_name_is_one(server, proxy, path, word):
    server.set(words={"length": word})
    assert told(by(proxy, "never")) == WHOLE
    assert told(by(proxy, "never", max_tokens=20))[2] == word
    assert json.loads(path.read_text().splitlines()[-1])["censored"]
    server.set(words={"length": word}, forced="It is seven " * 9 + "<end>")
    assert told(by(proxy)) == WHOLE, "an answer that was cut is none"


@pytest.mark.parametrize("word", ["incomplete", "truncated", "some new word"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_cut_by_a_word_that_nobody_knows_ends_nothing(server, proxy, word, streamed):
    """As many tokens arrived as were requested; whether there are more is found by another request."""
    server.set(words={"length": word})
    assert told(by(proxy, "never", stream=streamed)) == WHOLE
    assert told(by(proxy, stream=streamed))[0] == STOPPED


@pytest.mark.parametrize("word", ["content_filter", "abort", "error"])
def test_an_answer_that_broke_off_is_none(server, proxy, word):
    server.set(words={"stop": word})
    assert told(by(proxy)) == (*WHOLE[:2], word)


def test_words_for_ends():
    assert not any(is_natural(word) for word in (*CUT, *BROKEN, *CALLED, "", " "))
    assert all(is_cut(word) for word in (*CUT, "Length", "max-tokens")) and all(is_whole(word) for word in CALLED)
    assert not CUT & BROKEN and not (CUT | BROKEN) & CALLED


async def _sampled(word, usage):
    async def stream(index):
        yield Token("7")
        yield Token("!")
        yield End(word, usage)

    return await Sampler(FixedSamples(2), 2, stripped).run(stream)


def test_a_vote_counts_natural_ends():
    for word, counted, total in (("eos", True, 2), ("length", False, 2), ("abort", False, 3)):
        run = asyncio.run(_sampled(word, {2: 2, 3: 3}[total]))
        assert all((trace.key == "7!") == counted and trace.num_tokens == total for trace in run.traces)
        assert all(row["censored"] != counted for row in run.rows("p"))
    assert asyncio.run(_sampled("eos", 0)).total_tokens == 4, "what came counts"


# ---- frames

FRAMES = {
    "empty": lambda data: f"data:\n\ndata: {data}\n\n",
    "blank": lambda data: f"data: \n\ndata:   \n\ndata: {data}\n\n",
    "comment": lambda data: f": ping\n\n:\n\ndata: {data}\n\n",
    "event": lambda data: f"event: message\nid: 7\nretry: 10\ndata: {data}\n\n",
    "unknown": lambda data: (
        f'event: ping\ndata: {{"type": "ping"}}\n\nevent: keepalive\ndata: still here\n\ndata: {data}\n\n'
    ),
    "crlf": lambda data: f": ping\r\n\r\ndata:\r\n\r\ndata: {data}\r\n\r\n",
    "tight": lambda data: f"data:{data}\n\n",
    "one line": lambda data: f"data: {data}\n",
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("streamed", [False, True])
def test_frames_are_read_leniently(server, proxy, name, streamed):
    before = faults(proxy)
    server.set(frame=FRAMES[name])
    assert told(by(proxy, stream=streamed))[0] == STOPPED and told(by(proxy, "never")) == WHOLE
    assert faults(proxy) == before


def test_a_server_that_speaks_so_from_the_start_can_be_served(server, policies):
    """The server is examined, too."""
    for name in FRAMES:
        server.set(frame=FRAMES[name])
        with proxied(server.url, policies, marks=MARKS, every_tokens=EVERY) as proxy:
            assert told(by(proxy))[0] == STOPPED


def _more(**more):
    return lambda document: document | more


def _choice(**more):
    return lambda document: document | {"choices": [choice | more for choice in document["choices"]]}


@pytest.mark.parametrize("edit", [
    _more(id=7), _more(id=None), _more(usage=None), _more(usage=[]), _more(error=None), _more(error={}), _more(x=[1, {}]),
    _more(created=1.5, object=3), _choice(index="0", stop_reason=9),
    lambda document: document | {"choices": document["choices"] or None},
    lambda document: document | {"choices": [*document["choices"], None]},
])  # fmt: skip
def test_documents_are_read_leniently(server, proxy, edit):
    before = faults(proxy)
    server.set(edit=edit)
    assert (
        told(by(proxy))[0] == STOPPED and told(by(proxy, "never")) == WHOLE and told(by(proxy, "close"))[0] == STOPPED
    )
    assert faults(proxy) == before


# ---- counts


def counts(number):
    return lambda prompt, came: {
        "prompt_tokens": prompt,
        "completion_tokens": number(came),
        "prompt_tokens_details": None,
    }


USAGES = {
    "zero": counts(lambda came: 0), "negative": counts(lambda came: -came), "one too few": counts(lambda came: came - 1),
    "one too many": counts(lambda came: came + 1), "null": counts(lambda came: None), "float": counts(float),
    "half": counts(lambda came: came / 2 + 0.25), "far too many": counts(lambda came: 10**12), "text": counts(str),
    "none": lambda prompt, came: None, "empty": lambda prompt, came: {}, "true": counts(lambda came: True),
    "odd prompt": lambda prompt, came: {"prompt_tokens": "many", "completion_tokens": came, "prompt_tokens_details": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", USAGES)
@pytest.mark.parametrize("num_at_once", [1, 3])
def test_what_came_counts_and_not_what_the_server_says(server, proxy, path, name, num_at_once):
    before = faults(proxy)
    server.set(usage=USAGES[name], num_at_once=num_at_once)
    for policy in ("never", "agreement", "budget", "close"):
        response = by(proxy, policy)
        assert told(response) == WHOLE if policy == "never" else told(response)[0] == STOPPED
        used, row = response.json()["usage"], json.loads(path.read_text().splitlines()[-1])
        assert (
            row["length_tokens"] == len(server.ids(SCRIPT))
            if policy == "never"
            else row["thought_tokens"] <= 2 * BUDGET
        )
        assert 0 <= row["probe_tokens"] < 40 and 0 < used["completion_tokens"] < 200
    assert told(by(proxy, "never", max_tokens=40))[2] == "length"
    assert faults(proxy) == before


@pytest.mark.parametrize("name", USAGES)
def test_a_context_that_is_full_is_seen_all_the_same(server, proxy, name):
    server.set(usage=USAGES[name], context=100)
    _, thought, reason = told(by(proxy, "never"))
    num_prompt = len(server.ids(server.templated(asked()["messages"])))
    assert reason == "length" and thought == server.text(server.ids(SCRIPT)[: 100 - num_prompt])


# ---- unknown log-probabilities

UNKNOWN = [-9999.0, -1e4, -65504.0, -3.4028235e38, -math.inf, math.nan, math.inf, None]


@pytest.mark.parametrize("value", UNKNOWN)
@pytest.mark.parametrize("every", [1, 16])
def test_a_stand_in_stops_no_thought(server, proxy, path, value, every):
    """It does not count in means, neither by its value nor by its absence."""
    before = faults(proxy).get("policy_failed", 0)
    server.set(log_prob=lambda place, text: value if place % every == every // 2 else -0.5)
    assert told(by(proxy, "window")) == WHOLE
    assert faults(proxy)["policy_failed"] == before + 1
    assert "mean_log_prob" in json.loads(path.read_text().splitlines()[-1])["failure"]


@pytest.mark.parametrize("value", UNKNOWN)
def test_nor_does_one_among_the_likeliest_tokens(server, proxy, value):
    before = faults(proxy).get("policy_failed", 0)
    server.set(likeliest=lambda place, text: {"</think>": value, "b": -4.0})
    assert told(by(proxy, "close")) == WHOLE and faults(proxy)["policy_failed"] == before + 1
    server.set(likeliest=lambda place, text: {"b": value, "c": -4.0})  # this one bounds the tag's probability
    assert told(by(proxy, "close")) == WHOLE and faults(proxy)["policy_failed"] == before + 2
    server.set(likeliest=lambda place, text: {"</think>": -5.0, "b": value})  # and this one does not
    assert told(by(proxy, "close"))[0] == STOPPED and faults(proxy)["policy_failed"] == before + 2


@pytest.mark.parametrize("value", UNKNOWN)
def test_nor_does_one_in_a_forced_answer(server, proxy, value):
    before = faults(proxy).get("policy_failed", 0)
    server.set(log_prob=lambda place, text: value if text == "7" else -0.5)
    assert told(by(proxy, "exit")) == WHOLE and faults(proxy)["policy_failed"] == before + 1
    assert told(by(proxy, "agreement"))[0] == STOPPED, "which does not read it"


def test_signals_of_what_is_not_known(server):
    markup = asyncio.run(_markup(server))
    close = markup.close_ids[0]
    assert entropy_of(Token("a", 9, None, ((9, "a", None), (8, "b", -1.0)))) is None
    assert (
        entropy_of(Token("a", 9, 0.0, ((9, "a", 0.0), (8, "b", None)))) == 0.0
    )  # the known ones are the whole distribution
    other = close + 1
    assert log_close_prob_of(Token("a", other, 0.0, ((other, "a", 0.0), (close, "", None))), markup) is None
    assert log_probs_of(type("Forced", (), {"tokens": [Token("a", 1, -1.0), Token("b", 2, None)]})) == (None, None)


async def _markup(server):
    async with Upstream(server.url) as upstream:
        return await read_markup(upstream, Capabilities("scripted", tokenizer="vllm"))


# ---- recording


def recorded(server, **plan):
    async def ask():
        async with Upstream(server.url) as upstream:
            found = Capabilities("scripted", True, 4, 4, False, True, True, "vllm", usage=True)
            markup = await read_markup(upstream, found, answer_tokens=16)
            recorder = _Recorder(upstream, Recording(1, **plan), found, markup, "</think>")
            return await recorder.trace(Prompt("p", None, ({"role": "user", "content": "What is <think>?"},)), 0)

    return asyncio.run(ask())


PLAN = {"max_tokens": 200, "probe_every_tokens": 16, "token_signals": True}


def test_a_recording_leaves_unknown_what_is_not_known(server):
    server.set(log_prob=lambda place, text: -9999.0 if place == 20 else -0.5)
    trace = recorded(server, **PLAN)
    means = {probe["position_tokens"]: probe["mean_log_prob"] for probe in trace.probes}
    assert means[16] == -0.5 and means[32] is None and means[48] == -0.5
    assert [at for at, value in enumerate(trace.tokens["log_prob"]) if value is None] == [20]


@pytest.mark.parametrize("name", ["zero", "negative", "one too few", "null", "float", "far too many", "none"])
def test_a_recording_counts_what_came(server, name):
    server.set(usage=USAGES[name], words={"stop": "eos"})
    trace = recorded(server, **PLAN)
    assert trace.length_tokens == len(server.ids(SCRIPT)) and trace.answer == "\n\nSo it is 7" and not trace.censored
    assert all(probe["text"] == " 7" and 0 < probe["probe_cost_tokens"] < 8 for probe in trace.probes)


def test_a_recording_of_a_context_that_fills_up(server):
    """There is no forced answer without room for one; one with less room than wanted is forced."""
    num_prompt = len(server.ids(server.templated([{"role": "user", "content": "What is <think>?"}])))
    server.set(context=num_prompt + 64 + 1)
    trace = recorded(server, **PLAN | {"max_tokens": 65})
    assert trace.censored and {probe["position_tokens"]: probe["text"] for probe in trace.probes} == {
        0: " 7", 16: " 7", 32: " 7", 48: " 7", 64: None,
    }  # fmt: skip


def test_a_recording_of_an_answer_without_a_thought(server):
    server.set(opening="", script=PLAIN + "<end>")
    trace = recorded(server, max_tokens=200)
    assert trace.answer == PLAIN and trace.thought_tokens == 0


# ---- shadow mode, and thoughts closed by orders


@pytest.mark.parametrize("streamed", [False, True])
def test_the_shadow_of_a_server_that_refuses_what_it_adds(server, policies, streamed):
    server.set()
    with proxied(server.url, policies, marks=MARKS, every_tokens=EVERY, shadow=True) as proxy:
        for name in ("logprobs", "return_token_ids"):
            server.set(refusal=lambda _, body, name=name: (400, {"message": "unknown"}) if name in body else None)
            direct = httpx.post(server.url + CHAT, json=asked(stream=streamed))
            assert by(proxy, stream=streamed).content == direct.content


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("where", [CHAT, TEXT])
def test_the_shadow_adds_nothing_and_takes_nothing(server, policies, streamed, where):
    """Except for JSON formatting; vLLM has null for fields that were not requested."""
    body = asked(stream=streamed) if where == CHAT else {"model": "scripted", "prompt": "x\nbot:", "max_tokens": 40}
    with proxied(server.url, policies, marks=MARKS, every_tokens=EVERY, shadow=True) as proxy:
        for frame in (FRAMES["crlf"], FRAMES["event"], FRAMES["comment"]):
            server.set(frame=frame)
            found = [url_asked(url, where, body) for url in (server.url, proxy.url)]
            assert found[0] == found[1]
        assert "policy_failed" not in faults(proxy)


def url_asked(url, where, body):
    """Return the lines of an answer, with JSON parsed."""
    lines = httpx.post(url + where, json=body).content.split(b"\n")
    return [json.loads(line.removeprefix(b"data: ")) if b"{" in line else line for line in lines]


# ---- tags of several tokens

MERGED = r"<end>|</|<|think|>\n\n|>\n|n\d+" + SPLIT


@pytest.mark.parametrize("behind", ["\n\nSo it is 7", "\nSo it is 7", "So it is 7", "</x> 7"])
@pytest.mark.parametrize("opening", ["<think>", "<think>\n", "<think>\n\n"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tag_is_known_by_its_text_where_its_tokens_merge(policies, behind, opening, streamed):
    """The tag's last token merges with the text after it, mostly blanks."""
    plain = {name: policies[name] for name in ("budget", "never")}
    with Scripted().running() as server:
        manner = {"pieces": MERGED, "script": f"{THOUGHT} </th {THOUGHT}</think>{behind}<end>", "opening": opening}
        server.set(**manner)
        with proxied(server.url, plain, marks=MARKS, every_tokens=EVERY) as proxy:
            whole = (behind, f"{THOUGHT} </th {THOUGHT}", "stop")
            assert told(by(proxy, "never", stream=streamed)) == whole
            assert told(by(proxy, stream=streamed))[0] == STOPPED
            server.set(**manner | {"opening": "", "script": f"{opening}{manner['script']}"})  # the model opens it
            content, thought, reason = told(by(proxy, "never", stream=streamed))
            assert (content, thought.lstrip(), reason) == whole
            assert told(by(proxy, stream=streamed))[0] == STOPPED
        server.set(**manner)
        trace = recorded(server, max_tokens=600)
        assert trace.answer == behind and trace.thought_tokens == len(server.ids(whole[1]))
