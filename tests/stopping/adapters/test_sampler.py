"""Several streams of one prompt and a vote, on the real server, compared with `Sampling.play` on the same traces."""

import asyncio
import json
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import pytest

import stopping
from stopping.adapters.server.client import End, Upstream, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.sampling import CANCELLED, FAILED, Sampler
from stopping.policies import (
    NO_ANSWER,
    Action,
    CandidateStop,
    ConfidenceExit,
    FirstFinish,
    FixedSamples,
    Kind,
    Margin,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
)
from stopping.policies.decisions import MissingSignal
from stopping.policies.recorded_decisions import compare_decisions
from stopping.problems import Sampling, SamplingWorld
from stopping.reasoner.countdown import vote_key
from tests.helpers import name_of
from tests.stopping.adapters.live import CAP_TOKENS, questions, wait_until_idle
from tests.stopping.adapters.llama import FULL_DISTRIBUTION

NUM_TRACES = 6
QUESTIONS = questions(3)


def answer_of(text):
    return vote_key(text.partition("</think>")[2])


def streams(upstream, text, only=lambda index: True):
    """Open a trace by its index, which determines its seed: the same each time, except for rounding."""

    async def open_stream(index):
        if not only(index):
            raise UpstreamError("on purpose")
        settings = {"temperature": 1.0, "seed": 100 + index, **FULL_DISTRIBUTION}
        async for piece in upstream.stream(f"{text}<think>", CAP_TOKENS, **settings):
            yield piece

    return open_stream


def told(url, ask):
    async def run():
        async with Upstream(url) as upstream:
            found = await ask(upstream)
            await wait_until_idle(upstream, 1.0)  # cancelled requests have been released
            return found

    return asyncio.run(run())


def world_of(traces):
    """Return the world of a prompt, from traces that ran to their ends."""
    keys = [trace.key for trace in traces]
    first = [NO_ANSWER if key is None else keys.index(key) for key in keys]
    return SamplingWorld(
        length_tokens=jnp.array([trace.num_tokens for trace in traces], jnp.int32),
        right=jnp.zeros(len(traces), bool),
        answer=jnp.array(first, jnp.int32),
        logged=jnp.ones(len(traces), bool),
        problem=jnp.int32(0),
    )


@pytest.fixture(scope="module")
def whole(llama_server):
    """All traces of each prompt, to their ends."""

    async def ask(upstream):
        sampler = Sampler(FixedSamples(NUM_TRACES), NUM_TRACES, answer_of)
        return [(await sampler.run(streams(upstream, text))).traces for text in QUESTIONS]

    return told(llama_server, ask)


@pytest.mark.parametrize("policy", [
    FirstFinish(), FirstFinish(2), Margin(1), Margin(2), UnanimousWindow(2), FixedSamples(1), FixedSamples(3),
    FixedSamples(NUM_TRACES), VoteTable.cannot_be_caught(NUM_TRACES),
], ids=name_of)  # fmt: skip
def test_one_after_another_it_is_the_play(llama_server, whole, policy):
    """With one trace at a time the order of ends is fixed, and everything is equal."""

    async def ask(upstream):
        sampler = Sampler(policy, NUM_TRACES, answer_of, wave_size=1)
        return [await sampler.run(streams(upstream, text)) for text in QUESTIONS]

    played = Sampling(NUM_TRACES, wave_size=1)
    same = 0
    for run, traces in zip(told(llama_server, ask), whole, strict=True):
        ran = [(trace.num_tokens, trace.key) for trace in run.traces]
        if ran != [(trace.num_tokens, trace.key) for trace in traces[: len(ran)]]:
            continue  # rounded differently in a batch of another size: another world
        same += 1
        outcome = played.play(world_of(traces), policy)
        assert len(run.traces) == outcome.num_launched
        assert run.total_tokens == outcome.total_tokens and run.latency_tokens == outcome.latency_tokens
        first = None if run.chosen is None else [trace.key for trace in traces].index(run.chosen.key)
        assert first == (None if outcome.answer == NO_ANSWER else outcome.answer)
        assert not run.discarded_tokens
    assert same >= 2


@pytest.mark.parametrize("policy", [FirstFinish(), FirstFinish(2), Margin(2), UnanimousWindow(2)], ids=name_of)
def test_side_by_side_it_is_the_play_of_what_came(llama_server, policy):
    """Given the order of ends: the same decisions and the same answer; running traces are cancelled and released."""

    async def ask(upstream):
        sampler = Sampler(policy, NUM_TRACES, answer_of)
        return [await sampler.run(streams(upstream, text)) for text in QUESTIONS]

    cancelled = 0
    for run in told(llama_server, ask):
        assert len(run.traces) == NUM_TRACES
        ended = [trace for trace in run.traces if trace.reason != CANCELLED]
        cancelled += NUM_TRACES - len(ended)
        assert run.discarded_tokens == sum(trace.num_tokens for trace in run.traces if trace.reason == CANCELLED)
        assert run.stopped == (len(ended) < NUM_TRACES)
        # the same ends, one per decision, with labels in the order of arrival
        came = [each.observation for each in run.decisions[1:]]
        assert [seen.num_running for seen in came] == [NUM_TRACES - 1 - place for place in range(len(came))]
        labels = [seen.answer for seen in came]
        world = SamplingWorld(
            length_tokens=jnp.arange(1, NUM_TRACES + 1, dtype=jnp.int32),
            right=jnp.zeros(NUM_TRACES, bool),
            answer=jnp.array(
                [NO_ANSWER if label < 0 else labels.index(label) for label in labels]
                + [NO_ANSWER] * (NUM_TRACES - len(labels))
            ),
            logged=jnp.ones(NUM_TRACES, bool),
            problem=jnp.int32(0),
        )
        outcome = Sampling(NUM_TRACES).play(world, policy)
        assert outcome.latency_tokens == len(came)  # one tick per end: stopped at the same end
        assert (outcome.answer == NO_ANSWER) == (run.chosen is None)
        if run.chosen is not None:  # its answer had as many votes as that of the play
            votes = labels.count(labels[int(outcome.answer)])
            assert [trace.key for trace in ended].count(run.chosen.key) >= votes > 0
    assert cancelled


def test_ends_that_come_together_are_all_counted():
    """Three streams end in one iteration of the event loop, and a policy that waits for all sees every vote."""

    async def at_once(index):
        yield Token("a" if index else "b")
        yield End("stop", 1)

    run = asyncio.run(Sampler(FixedSamples(3), 3, str).run(at_once))
    assert run.chosen.key == "a" and [each.observation.num_answers for each in run.decisions] == [0, 1, 2, 3]
    assert [each.observation.num_running for each in run.decisions] == [0, 2, 1, 0]
    run = asyncio.run(Sampler(FirstFinish(), 3, str).run(at_once))
    assert run.chosen.key == "b" and run.stopped


def test_waves(llama_server):
    async def ask(upstream):
        most, now = 0, 0
        stream = streams(upstream, QUESTIONS[0])

        async def watched(index):
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                async for piece in stream(index):
                    yield piece
            finally:
                now -= 1

        run = await Sampler(TokenBudget(10**6), 5, answer_of, wave_size=2).run(watched)
        assert now == 0
        return run, most

    run, most = told(llama_server, ask)
    assert most == 2 and len(run.traces) == 5 and not run.stopped
    assert all(trace.reason in ("stop", "length") for trace in run.traces)
    starts = [trace.started_tokens for trace in run.traces]
    assert starts[:2] == [0, 0] and starts == sorted(starts) and starts[2] > 0


@dataclass(frozen=True)
class OneMore:
    """Launches a trace at a time, until there are two answers."""

    signals: ClassVar = ("num_running", "num_answers")
    kinds: ClassVar = (Kind.CONTINUE, Kind.STOP, Kind.LAUNCH)

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        enough = observation.num_answers >= 2
        launch = xp.where(observation.num_running == 0, Kind.LAUNCH.value, Kind.CONTINUE.value)
        return state, Action(xp.where(enough, Kind.STOP.value, launch), 1)


def test_a_policy_that_launches(llama_server, whole):
    async def ask(upstream):
        return [await Sampler(OneMore(), NUM_TRACES, answer_of).run(streams(upstream, text)) for text in QUESTIONS]

    for run in told(llama_server, ask):
        answers = sum(trace.key is not None for trace in run.traces)
        assert answers == 2 or len(run.traces) == NUM_TRACES
        assert all(each.observation.num_running == 0 for each in run.decisions if each.kind == Kind.LAUNCH)


def test_points_on_the_clock(llama_server):
    async def ask(upstream):
        sampler = Sampler(TokenBudget(64), 2, answer_of, every_tokens=32)
        return [await sampler.run(streams(upstream, text)) for text in QUESTIONS]

    for run in told(llama_server, ask):
        ticks = [each for each in run.decisions[1:] if each.observation.num_running == 2]
        if len(ticks) > 1 and run.latency_tokens > 64:  # without an answer by then, the stop is put off
            assert any(each.put_off for each in run.decisions if each.kind == Kind.STOP) or run.stopped
        assert run.chosen is None or run.latency_tokens >= 64 or not run.stopped


def test_a_trace_that_fails_is_one_without_an_answer(llama_server):
    async def ask(upstream):
        run = await Sampler(FixedSamples(3), 3, answer_of).run(
            streams(upstream, QUESTIONS[0], lambda index: index != 1)
        )
        with pytest.raises(UpstreamError, match="on purpose"):
            await Sampler(FixedSamples(3), 3, answer_of).run(streams(upstream, QUESTIONS[0], lambda index: False))
        return run

    run = told(llama_server, ask)
    assert [trace.reason == FAILED for trace in run.traces] == [False, True, False]
    assert run.traces[1].key is None and "on purpose" in str(run.traces[1].error)
    assert len(run.decisions) == 4


def test_what_is_wrong_here_is_not_hidden(llama_server):
    def wrong(text):
        raise ZeroDivisionError("of the user's own")

    async def ask(upstream):
        with pytest.raises(ZeroDivisionError, match="of the user's own"):
            await Sampler(FixedSamples(3), 3, wrong).run(streams(upstream, QUESTIONS[0]))

    told(llama_server, ask)

    async def without_end(index):
        yield Token("a")

    with pytest.raises(UpstreamError, match="ended without a finish reason"):
        asyncio.run(Sampler(FixedSamples(1), 1, str).run(without_end))


def test_being_cancelled_lets_go(llama_server):
    async def ask(upstream):
        task = asyncio.create_task(Sampler(FixedSamples(4), 4, answer_of).run(streams(upstream, QUESTIONS[0])))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    told(llama_server, ask)


def test_only_what_sampling_has():
    with pytest.raises(MissingSignal, match="CandidateStop reads num_candidates"):
        Sampler(CandidateStop(1), 2, str)
    with pytest.raises(ValueError, match="ConfidenceExit reads probed"):
        Sampler(ConfidenceExit(-0.1, 32), 2, str)


def test_the_account_is_a_log(llama_server, tmp_path):
    """It has one row per trace, cut traces are censored, and the decisions are those of the policy in JAX on its observations."""

    async def ask(upstream):
        sampler = Sampler(Margin(2), NUM_TRACES, answer_of)
        return [await sampler.run(streams(upstream, text)) for text in QUESTIONS]

    runs = told(llama_server, ask)
    rows = [row for text, run in zip(QUESTIONS, runs, strict=True) for row in run.rows(text)]
    path = tmp_path / "account.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = stopping.load_log(path)
    assert log.num_problems == len(QUESTIONS) and log.present.sum() == len(rows)
    assert len(rows) == sum(trace.num_tokens > 0 for run in runs for trace in run.traces)
    assert log.length_tokens[log.present].sum() == sum(run.total_tokens for run in runs)
    cut = [trace for run in runs for trace in run.traces if trace.num_tokens and trace.reason != "stop"]
    assert log.censored[log.present].sum() == len(cut) > 0
    assert sum(row["chosen"] for row in rows) == sum(run.chosen is not None for run in runs)
    found = compare_decisions(Margin(2), [run.decisions for run in runs])
    assert found.num_decisions == sum(len(row["decisions"]) for row in rows) > 0 and not found.num_different
