"""Servers with a small context, or whose tokeniser refuses texts, are examined and used as far as possible."""

import httpx
import pytest

from stopping import artifacts
from stopping.adapters.server import examination
from stopping.policies import TokenBudget, WindowedConfidence
from stopping.reasoner.vocabulary import WORDS
from tests.stopping.adapters.live import questions
from tests.stopping.adapters.proxied import proxied
from tests.stopping.adapters.strict import Strict
from tests.stopping.adapters.test_capabilities import doctor, found_at
from tests.stopping.adapters.test_proxy import CHAT, asked
from tests.stopping.cli.test_commands import written
from tests.stopping.cli.test_serve import serving

CHARACTERS = "0123456789+-*/()=,> \n"  # that the shipped tokeniser knows
QUESTION = questions(1)[0]


@pytest.fixture(scope="module")
def budget(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies") / "budget"
    return artifacts.save_policy(TokenBudget(64), folder, decision_points={"on": "token", "interval_tokens": 32})


def test_room_is_found(llama_server):
    assert found_at(llama_server, measure=False).context_tokens == 512


@pytest.mark.parametrize("tells", ["models", "tokenize", ""])
def test_no_more_is_asked_for_than_there_is_room(llama_server, tells):
    """It is read if the server reports it; otherwise fewer tokens are requested until they fit. No capability is missed."""
    with Strict(llama_server, context_tokens=200, tells=tells).running() as server:
        found = found_at(server.url)
    assert found.context_tokens == (200 if tells else None)
    assert found.continues and found.log_probs and found.usage and found.prefix_cache and found.num_choices
    assert found.tokens_per_second and found.log_probs_share and found.idle_seconds is not None
    if tells:
        assert not server.refused


def test_very_little_room(llama_server):
    with Strict(llama_server, context_tokens=24).running() as server:
        found = found_at(server.url)
    assert found.continues and found.log_probs and found.tokens_per_second


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("known", [CHARACTERS, "thequickbrownfox "])
def test_a_refused_text_is_not_a_missing_tokeniser(llama_server, status, known):
    with Strict(llama_server, known=known, status=status).running() as server:
        found = found_at(server.url, measure=False)
    assert found.continues and found.tokenizer == "llama.cpp" and found.log_probs and found.prefix_cache


def test_a_text_is_learnt_from_the_server(llama_server, monkeypatch):
    """The tokeniser knows what the model itself writes."""
    monkeypatch.setattr(examination, "TEXTS", ("The quick brown fox",))
    with Strict(llama_server, known=CHARACTERS + "".join(WORDS)).running() as server:
        found = found_at(server.url, measure=False)
    assert found.continues and found.log_probs and server.refused


def test_a_server_that_refuses_every_text_says_so(llama_server):
    with Strict(llama_server, known="").running() as server:
        assert "cannot encode 'The quick brown fox'" in doctor(server.url, code=1).stderr


def test_doctor(llama_server, tmp_path):
    with Strict(llama_server, context_tokens=200, tells="models", known=CHARACTERS).running() as server:
        shown = doctor(server.url, "--json", tmp_path / "doctor.json").stdout
    assert "Each has room for 200 tokens" in shown and "can be stopped, by continuing it" in shown
    assert written("doctor", tmp_path / "doctor.json")["capabilities"]["context_tokens"] == 200


def test_tags_that_the_tokeniser_refuses(llama_server, tmp_path):
    """The other capabilities are reported; policies cannot run, and the reason is given."""
    policy = artifacts.save_policy(WindowedConfidence(-0.5, 64), tmp_path / "policy")
    with Strict(llama_server, known=CHARACTERS).running() as server:
        shown = doctor(server.url, "--close-tag", "[/THINK]").stdout
        assert "Votes over several answers, and restarts: can run" in shown and "tokeniser refuses" in shown
        said = doctor(server.url, "--close-tag", "[/THINK]", "--policy", policy, code=1).stderr
        assert "cannot run here: --open-tag '<think>', --close-tag '[/THINK]'" in said and "refuses" in said


@pytest.mark.parametrize("tells", ["models", "tokenize"])
def test_a_thought_asks_for_what_there_is_room_for(llama_server, budget, tells, tmp_path):
    """Through `stopping serve`, whose default cap exceeds the context."""
    with (
        Strict(llama_server, context_tokens=200, tells=tells, known=CHARACTERS).running() as server,
        serving(budget, "--upstream", server.url, "--holdout", 0, log=tmp_path / "log") as (_, url, _),
    ):
        server.refused.clear()
        body = {name: value for name, value in asked(QUESTION).items() if name != "max_tokens"}
        for text in questions(4):
            answer = httpx.post(url + CHAT, json=body | {"messages": [{"role": "user", "content": text}]}, timeout=60)
            assert answer.status_code == 200 and answer.json()["usage"]["total_tokens"] <= 200, answer.text
        assert not server.refused
        long = httpx.post(url + CHAT, json=asked("1 " * 150), timeout=60)  # in the server's own words
        assert long.status_code == 400 and "the most is 200 tokens" in long.text


def test_a_thought_ends_where_the_room_does(llama_server, budget):
    """With as many tokens as the server itself would generate."""
    body = asked(QUESTION, ignore_eos=True, max_tokens=10_000, temperature=1, seed=1)
    with proxied(llama_server, {"budget": budget}, cap_tokens=10_000, every_tokens=10_000) as proxy:
        usage = proxy.http.post(CHAT, json=body).json()["usage"]
    assert usage["total_tokens"] == 512
    assert httpx.post(llama_server + CHAT, json=body, timeout=60).json()["usage"]["total_tokens"] == 512
