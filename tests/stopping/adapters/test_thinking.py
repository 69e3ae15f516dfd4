"""One thought on the real server of llama.cpp, stopped by a policy."""

import asyncio
import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest

from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thinking import replay, stream, think
from stopping.adapters.server.thought import ANSWER, CLOSE, OPEN, THOUGHT
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.policies import AnswerAgreement, CloseTokenThreshold, Kind, TokenBudget, bind
from stopping.reasoner.countdown import vote_key
from tests.helpers import name_of
from tests.stopping.adapters.live import (
    CAP_TOKENS,
    EVERY_TOKENS,
    NEVER,
    POLICIES,
    counter,
    prompt_of,
    questions,
    settings_of,
    wait_until_idle,
    with_settings,
)
from tests.stopping.adapters.llama import FULL_DISTRIBUTION

QUESTIONS = questions(6)
DRAWN = {"temperature": 1.0, **FULL_DISTRIBUTION}
GREEDY = {"temperature": 0.0}


async def runs_of(settings, texts=QUESTIONS, sampling=DRAWN):
    """Return a run of each problem, all concurrent, with different seeds."""

    async def one(index, text):
        return await think(settings, await prompt_of(settings, text), {**sampling, "seed": index})

    return await asyncio.gather(*(one(*each) for each in enumerate(texts)))


async def parts_of(settings, text, sampling=GREEDY):
    run = ThoughtResult()
    parts = [part async for part in stream(settings, await prompt_of(settings, text), sampling, run)]
    return parts, run


def num_forced(run):
    """Return the number of forced answers: one for each probe, and for each stop without a probe before it."""
    kinds = [decision.kind for decision in run.decisions]
    after_probe = [now == Kind.STOP and before == Kind.PROBE for before, now in itertools.pairwise([None, *kinds])]
    return kinds.count(Kind.PROBE) + kinds.count(Kind.STOP) - sum(after_probe)


@pytest.fixture(scope="module")
def counted(llama_server):
    """By policy: runs, and the server's counts of tokens generated and read for them."""

    async def ask(settings):
        names = ("tokens_predicted_total", "prompt_tokens_total")
        await wait_until_idle(settings.upstream)
        before = [counter(llama_server, name) for name in names]
        runs = await runs_of(settings)
        await wait_until_idle(settings.upstream)
        return runs, *(counter(llama_server, name) - count for name, count in zip(names, before, strict=True))

    @functools.cache
    def of(place):
        return with_settings(llama_server, (None, NEVER, *POLICIES)[place], ask)

    return of


@pytest.mark.parametrize("policy", [None, NEVER, *POLICIES], ids=name_of)
def test_it_adds_up_against_the_servers_own_counters(counted, policy):
    runs, predicted, read = counted((None, NEVER, *POLICIES).index(policy))
    assert not any(run.failure or run.num_resumed for run in runs)
    # a tag that forces an answer is read rather than generated, but counts as a cost
    assert sum(run.total_tokens - num_forced(run) for run in runs) == predicted
    assert sum(run.prompt_tokens for run in runs) == read
    peeks = policy is not None and "log_close_prob" in policy.signals
    for run in runs:
        assert len(run.ids) <= CAP_TOKENS and run.reason in ("stop", "length")
        assert run.discarded_tokens == (1 if peeks and run.stopped else 0)
        assert (run.probe_tokens > 0) == (num_forced(run) > run.stopped)
        if run.stopped:
            assert run.would_stop_at == run.thought_tokens and run.thought_tokens % EVERY_TOKENS == 0
            assert run.answer and run.ids[run.thought_tokens] == 4  # the closing tag
        for decision in run.decisions:
            assert decision.observation.elapsed_tokens % EVERY_TOKENS == 0
    if policy in POLICIES:
        assert any(run.stopped for run in runs)
    if policy is NEVER:
        for run in runs:
            num_points = (run.thought_tokens - (run.thought_tokens == CAP_TOKENS)) // EVERY_TOKENS
            assert len(run.decisions) == num_points


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
def test_decisions_are_those_of_jax(counted, policy):
    """On the same observations, except where the margin is within rounding."""
    runs, *_ = counted(POLICIES.index(policy) + 2)
    bound, compared, ties = bind(policy, "jax"), 0, 0
    for run in runs:
        state = bound.init(())
        for decision in run.decisions:
            seen = type(decision.observation)(*(np.asarray(value) for value in decision.observation))
            seen = seen._replace(**{
                name: np.float32(value) for name, value in seen._asdict().items() if value.dtype == np.float64
            })  # fmt: skip
            margin = float(policy.score(np, state, seen)) if hasattr(policy, "score") else np.inf
            state, action = bound.step(state, seen)
            if abs(margin) <= 1e-5:
                ties += 1
                continue
            assert (int(action.kind), int(action.amount)) == (decision.kind, decision.amount)
            compared += 1
    assert compared >= len(runs) and ties <= 0.01 * compared


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
def test_a_replay_decides_as_the_live_run_did(llama_server, policy):
    """On the tokens of a trace that was not stopped; the live policy saw only its beginning."""

    async def ask(settings):
        async def one(text):
            prompt = await prompt_of(settings, text)
            live, whole = await think(settings, prompt, GREEDY), ThoughtResult()
            async with settings_of(llama_server, None) as untouched:
                requested, more = untouched.upstream.stream, {"num_top": settings.asked_top}
                untouched.upstream.stream = lambda *asked, **sampling: requested(*asked, **sampling | more)
                tokens = [token async for _, token in stream(untouched, prompt, GREEDY, whole)]
            return live, whole, await replay(settings, prompt, tokens, whole.reason)

        return await asyncio.gather(*map(one, QUESTIONS))

    for live, whole, again in with_settings(llama_server, policy, ask):
        assert not again.stopped and again.ids == whole.ids and again.answer == whole.answer
        assert again.would_stop_at == live.would_stop_at
        assert [each.kind for each in again.decisions] == [each.kind for each in live.decisions]
        for one, other in zip(again.decisions, live.decisions, strict=True):
            assert np.allclose(
                one.observation, other.observation, rtol=2e-3, atol=2e-3
            )  # float16, and batches of another size
        assert (again.probe_tokens > 0) == (again.would_stop_at is not None or live.probe_tokens > 0)


def test_a_cap(llama_server):
    async def ask(settings):
        return await runs_of(replace(settings, cap_tokens=50), QUESTIONS[:4])

    for policy in (None, NEVER, TokenBudget(32)):
        for run in with_settings(llama_server, policy, ask):
            assert len(run.ids) <= 50 and (run.reason == "length") == (len(run.ids) == 50)
            if policy == TokenBudget(32):  # without room for an answer the stop is put off, and the cap holds
                assert run.stopped or run.decisions[0].put_off


@pytest.mark.parametrize("policy", [None, TokenBudget(2)], ids=name_of)
@pytest.mark.parametrize(
    "text", ["<bos>2 3 4>24<think></think>", "<bos>2 3 4>24<think>4*3=12</think>4*", "<bos>2 3 4>24 "]
)
def test_a_thought_that_never_opens_is_all_answer(llama_server, text, policy):
    def ask(settings):
        return parts_of(replace(settings, cap_tokens=60), text)

    parts, run = with_settings(llama_server, policy, ask, every_tokens=2)
    assert not any(part == THOUGHT for part, _ in parts) and not run.decisions and not run.stopped
    assert run.thought_tokens == 0 and not run.thought and run.answer and run.reason


def test_a_thought_that_the_model_opens(llama_server):
    """With tags that the model writes: `yes` opens a thought, and `wait` closes it."""

    def ask(settings):
        return parts_of(replace(settings, cap_tokens=60), "<bos>2 3 4>24<think>4*3=12,12*2=24")

    marks = {"open": " yes", "close": "wait"}
    (parts, _), (_, stopped) = (
        with_settings(llama_server, policy, ask, every_tokens=2, answer_of=str, **marks)
        for policy in (None, TokenBudget(2))
    )
    kinds = [part for part, _ in itertools.groupby(part for part, _ in parts)]
    assert kinds[0] == OPEN and set(kinds) <= {OPEN, THOUGHT, CLOSE, ANSWER}
    assert stopped.stopped or stopped.answer


@pytest.mark.parametrize("policy", [None, NEVER, TokenBudget(16), AnswerAgreement(1, 16)], ids=name_of)
@pytest.mark.parametrize("every_tokens", [1, 16])
def test_a_closing_tag_of_several_tokens(llama_server, policy, every_tokens):
    """The text of a failed try, ` no` and a new line, serves as the closing tag; some decision points fall within it."""

    async def ask(settings):
        assert len(settings.markup.close_ids) == 2 and not settings.peeks
        return await plain(settings)

    def plain(settings):
        return asyncio.gather(*(parts_of(settings, text) for text in QUESTIONS[:4]))

    options = {"close": " no\n", "answer_prefix": "</think>", "cap_tokens": 120}
    options |= {"answer_of": lambda text: vote_key(text.removeprefix("</think>"))}
    found = with_settings(llama_server, policy, ask, every_tokens=every_tokens, **options)
    for (parts, run), (_, whole) in zip(found, with_settings(llama_server, None, plain, **options), strict=True):
        assert "".join(token.text for _, token in parts) == run.text
        assert "".join(token.text for part, token in parts if part == THOUGHT) == run.thought
        assert " no\n" not in run.thought and not run.failure
        if policy in (None, NEVER):
            assert run.text == whole.text and run.thought == whole.thought
        if not run.stopped:
            assert run.text.startswith(run.thought + " no\n") or run.reason == "length"
            natural = sum(part == CLOSE for part, _ in parts)
            assert natural in (0, 2)
    if policy == TokenBudget(16):
        stopped = [run for _, run in found if run.stopped]
        assert stopped and all(run.answer.startswith("</think>") for run in stopped)
        assert all(run.text == f"{run.thought} no\n{run.answer}" for run in stopped)


def test_an_empty_answer_puts_the_stop_off(llama_server):
    """There is never an answer: the thought continues as if the policy had not been asked, but its cost is counted."""

    async def ask(settings):
        return await think(settings, await prompt_of(settings, QUESTIONS[0]), GREEDY)

    plain = with_settings(llama_server, None, ask)
    run = with_settings(llama_server, TokenBudget(64), ask, answer_of=lambda text: None)
    assert run.text == plain.text and not run.stopped and run.would_stop_at is None
    asked = [decision for decision in run.decisions if decision.kind == Kind.STOP]
    assert asked and all(decision.put_off for decision in asked)
    assert run.probe_tokens >= 2 * len(asked)
    assert run.num_too_long == 0
    # an answer that does not end in time is no answer either, and is counted separately
    short = with_settings(llama_server, TokenBudget(64), ask, answer_tokens=2, answer_of=str)
    assert short.text == plain.text and not short.stopped and short.probe_tokens == 3 * num_forced(short)
    assert short.num_too_long == sum(decision.put_off for decision in short.decisions) > 0
    # but not if the cap of the trace is the reason
    capped = with_settings(llama_server, TokenBudget(64), ask, cap_tokens=67, answer_of=str)
    assert capped.decisions[-1].put_off and capped.num_too_long == 0


def test_a_forced_answer_is_read_with_its_prefix(llama_server):
    """The answer of a stopped trace is compared as a client reads it, like the model's own."""
    prefix, read = "2+", []

    def answer_of(text):
        read.append(text)
        return text

    async def ask(settings):
        return await think(settings, await prompt_of(settings, QUESTIONS[0]), GREEDY)

    stopped = with_settings(llama_server, TokenBudget(64), ask, answer_of=answer_of, answer_prefix=prefix)
    assert stopped.stopped and stopped.answer.startswith(prefix) and len(stopped.answer) > len(prefix)
    assert stopped.would_answer == stopped.answer == read[-1]
    agreed = with_settings(llama_server, AnswerAgreement(2, 32), ask, answer_of=answer_of, answer_prefix=prefix)
    assert agreed.stopped and all(text.startswith(prefix) for text in read)
    # a prefix alone is no answer
    nothing = with_settings(llama_server, TokenBudget(64), ask, answer_of=str, answer_prefix="(15+10)-(9-9)")
    assert not nothing.stopped and nothing.decisions[-1].put_off and nothing.num_too_long == 0


def test_a_missing_signal_is_the_policys_failure_alone(llama_server):
    """Without top log-probabilities, that of the closing tag is unknown."""

    async def ask(settings):
        requested = settings.upstream.stream

        async def without_top(*asked, **sampling):
            async for piece in requested(*asked, **sampling):
                yield piece._replace(top=()) if isinstance(piece, Token) else piece

        settings.upstream.stream = without_top
        return await think(settings, await prompt_of(settings, QUESTIONS[0]), GREEDY)

    run = with_settings(llama_server, CloseTokenThreshold(-1.0, -12.0, 128), ask)
    plain = with_settings(llama_server, None, ask)
    assert run.failure.startswith("MissingSignal: log_close_prob") and len(run.decisions) == 0
    assert run.text == plain.text and not run.stopped


def test_a_policy_that_raises_is_the_policys_failure_alone(llama_server):
    async def ask(settings):
        return await think(settings, await prompt_of(settings, QUESTIONS[0]), GREEDY)

    def raising(text):
        raise ZeroDivisionError("of the user's own")

    run = with_settings(llama_server, AnswerAgreement(2, 32), ask, answer_of=raising)
    assert run.failure == "ZeroDivisionError: of the user's own"
    assert run.text == with_settings(llama_server, None, ask).text


def test_a_seed_moves_on_with_the_tokens(llama_server):
    """Equal seeds give equal traces, and a seed below 0 means a random one in every piece."""

    async def ask(settings):
        prompt = await prompt_of(settings, QUESTIONS[0])
        return [(await think(settings, prompt, {**DRAWN, "seed": seed})).ids for seed in (7, 7, 8, -1, -1, -1)]

    same, again, other, *any_seed = with_settings(llama_server, NEVER, ask)
    assert same == again != other
    assert len({tuple(ids[:EVERY_TOKENS]) for ids in any_seed} | {tuple(ids) for ids in any_seed}) > 2


def test_a_full_context_ends_it_as_one_long_request(llama_server):
    """The context of a slot is 512 tokens: pieces end exactly there, before it, and where the next prompt does not fit."""

    async def ask(settings):
        found = []
        for more in range(30, 34):
            prompt = [*await prompt_of(settings, QUESTIONS[0]), *[5] * more]
            found.append(await think(settings, prompt, {**GREEDY, "ignore_eos": True}))
        return found

    for pieces, whole in zip(
        with_settings(llama_server, NEVER, ask, cap_tokens=4096),
        with_settings(llama_server, None, ask, cap_tokens=4096),
        strict=True,
    ):
        assert pieces.ids == whole.ids and pieces.reason == whole.reason == "length"


def test_tokens_without_ids_are_read_from_their_text(llama_server):
    """The server stops sending ids during a thought: the tag is still found, and the next piece continues from all tokens."""

    async def ask(settings):
        requested = settings.upstream.stream

        async def without_ids(prompt, most, **sampling):
            came = 0
            async for piece in requested(prompt, most, **sampling):
                came += 1
                lost = isinstance(piece, Token) and came > 10
                yield piece._replace(id=None, log_prob=None, top=()) if lost else piece

        if settings.policy is not None:
            settings.upstream.stream = without_ids
        return [await think(settings, await prompt_of(settings, text), GREEDY) for text in QUESTIONS[:3]]

    plain = with_settings(llama_server, None, ask)
    for policy in (NEVER, CloseTokenThreshold(0.5, -1e4, 64)):
        for run, whole in zip(with_settings(llama_server, policy, ask), plain, strict=True):
            assert (run.text, run.thought, run.answer) == (whole.text, whole.thought, whole.answer)
            assert bool(run.failure) == (policy is not NEVER)
