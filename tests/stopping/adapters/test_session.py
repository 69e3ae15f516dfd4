"""A policy on the real server of llama.cpp, connected in one call."""

import asyncio

import pytest

from stopping import artifacts
from stopping.adapters.server import connect
from stopping.adapters.server.client import UpstreamError
from stopping.adapters.server.thinking import think
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.policies import CandidateStop, CloseTokenThreshold, Margin, TokenBudget
from stopping.policies.decisions import MissingSignal
from stopping.reasoner.countdown import vote_key
from tests.stopping.adapters.live import CAP_TOKENS, EVERY_TOKENS, prompt_of, questions, with_settings

QUESTIONS = questions(3)
GREEDY = {"temperature": 0.0}
MARKUP = {"candidates": [" yes"], "answer_tokens": 20, "answer_of": vote_key}


def connected(url, policy, ask, **options):
    async def run():
        async with connect(url, policy, **{"cap_tokens": CAP_TOKENS, "num_top": 32} | options) as session:
            return await ask(session)

    return asyncio.run(run())


@pytest.mark.parametrize("policy", [TokenBudget(96), CloseTokenThreshold(-1.0, -12.0, 128)], ids=str)
def test_a_session_thinks_as_its_parts_do(llama_server, tmp_path, policy):
    """Whether it is given the policy, its artifact or its directory."""
    artifacts.save_policy(policy, tmp_path / "policy")

    async def by_parts(settings):
        return [await think(settings, await prompt_of(settings, text), GREEDY) for text in QUESTIONS]

    async def by_session(session):
        assert session.capabilities.continues
        return [await session.think(f"{text}<think>", **GREEDY) for text in QUESTIONS]

    expected = with_settings(llama_server, policy, by_parts)
    assert any(run.stopped for run in expected)
    for given in (policy, artifacts.load_policy(tmp_path / "policy"), tmp_path / "policy"):
        found = connected(llama_server, given, by_session, every_tokens=EVERY_TOKENS, **MARKUP)
        for run, other in zip(found, expected, strict=True):
            assert (run.ids, run.stopped, run.answer) == (other.ids, other.stopped, other.answer)
            assert run.total_tokens == other.total_tokens


def test_prompts_of_any_form_are_one_prompt(llama_server):
    """A text, its token ids, and a chat whose template begins the thought; streamed or not."""

    async def ask(session):
        text = QUESTIONS[0]
        ids = await prompt_of(session.settings, text)
        found = [await session.think(prompt, **GREEDY) for prompt in (f"{text}<think>", ids)]
        found.append(await session.think([{"role": "user", "content": text}], **GREEDY))
        streamed = ThoughtResult()
        tokens = [token async for _, token in session.stream(f"{text}<think>", streamed, **GREEDY)]
        assert "".join(token.text for token in tokens) == streamed.text
        return [*found, streamed]

    first, *others = connected(llama_server, TokenBudget(96), ask, every_tokens=EVERY_TOKENS, **MARKUP)
    assert first.stopped and all(run.ids == first.ids for run in others)


def test_what_does_not_fit_is_refused_on_connecting(llama_server):
    async def never(session):
        raise AssertionError

    with pytest.raises(MissingSignal, match="CandidateStop reads num_candidates"):
        connected(llama_server, CandidateStop(2), never, every_tokens=EVERY_TOKENS)
    with pytest.raises(ValueError, match=r"Margin reads .* stopping\.adapters\.server\.sampling\.Sampler"):
        connected(llama_server, Margin(2), never, every_tokens=EVERY_TOKENS)
    with pytest.raises(ValueError, match="every_tokens: TokenBudget does not say how many tokens lie between"):
        connected(llama_server, TokenBudget(96), never)
    with pytest.raises(UpstreamError, match="ConnectError"):
        connected("http://127.0.0.1:9", TokenBudget(96), never, every_tokens=EVERY_TOKENS)
