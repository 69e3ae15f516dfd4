"""The effect of a sampling policy's action on a running model is that in `Sampling.play`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stopping.policies import NO_ANSWER, Action, FirstFinish, FixedSamples, Kind, Margin, Return, UnanimousWindow
from stopping.policies.namespace import namespace
from stopping.policies.sampled_vote import SampledVote, effect
from stopping.problems.sampling_events import SamplingDynamics
from stopping.problems.sampling_worlds import NEVER, SamplingWorld
from tests.helpers import name_of

KINDS = [
    (Kind.CONTINUE, Kind.STOP),
    (Kind.CONTINUE, Kind.LAUNCH),
    (Kind.CONTINUE, Kind.STOP, Kind.LAUNCH),
]
ACTIONS = [Action(Kind.CONTINUE.value, 0), *(Action(Kind.STOP.value, amount.value) for amount in Return)]
ACTIONS += [Action(Kind.LAUNCH.value, amount) for amount in (-1, 0, 1, 2, 9)]


def world_of(num_traces):
    """Traces of one token each, with different answers."""
    ones = jnp.ones(num_traces, jnp.int32)
    return SamplingWorld(ones, ones < 0, jnp.arange(num_traces, dtype=jnp.int32), ones > 0, jnp.int32(0))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("num_traces", [1, 3])
def test_an_action_has_the_effect_that_it_has_in_play(num_traces, kinds):
    """For all counts of traces that can occur, on plain Python numbers and on arrays."""

    def played(wave_size, launched, running, num_answers, *action):
        dynamics = SamplingDynamics(world_of(num_traces), wave_size, None, kinds)
        start, index = dynamics.start(), dynamics.index
        run = start._replace(
            started=jnp.where(index < launched, 0, NEVER),
            ended=index < launched - running,
            num_launched=launched,
            votes=start.votes._replace(num_answers=num_answers),
        )
        decision = dynamics.decide(run, Action(*action))
        return dynamics.observe(run), (decision.asked, decision.exhausted, decision.run.num_launched - launched)

    cases = [
        (wave_size, launched, running, num_answers, *action)
        for wave_size in range(1, num_traces + 1)
        for launched in range(num_traces + 1)
        for running in range(min(wave_size, launched) + 1)
        for num_answers in range(launched - running + 1)
        for action in ACTIONS
    ]
    columns = np.array(cases, np.int32).T
    seen, expected = jax.tree.map(np.asarray, jax.jit(jax.vmap(played))(*columns))
    wave_size, launched, running, num_answers, *action = columns
    assert all((one == other).all() for one, other in zip(seen[:3], (launched, running, num_answers), strict=True))
    limits = {"kinds": kinds, "num_traces": num_traces}
    together = effect(namespace("numpy"), seen, Action(*action), wave_size=wave_size, **limits)
    assert all((one == other).all() for one, other in zip(together, expected, strict=True))
    for place, case in enumerate(cases):
        plain = type(seen)(*(int(values[place]) for values in seen))
        alone = effect(namespace("python"), plain, Action(*case[4:]), wave_size=case[0], **limits)
        assert alone == tuple(values[place] for values in expected)


@pytest.mark.parametrize(
    ("policy", "answers", "num_asked", "returned"),
    [
        (FirstFinish(1), ["a", "b", "b"], 1, "a"),
        (FirstFinish(1), [None, "b", "a"], 2, "b"),
        (Margin(2), ["a", "b", "b", "b"], 4, "b"),
        (UnanimousWindow(2), ["a", "b", "b", "b"], 4, "b"),
        (FixedSamples(2), [None, None, "a", "a"], 2, None),
        (Margin(3), ["a", "b", "b", "a"], 4, "a"),
    ],
    ids=name_of,
)
def test_votes_by_hand(policy, answers, num_asked, returned):
    vote = SampledVote(policy, len(answers))
    num_started = vote.ask(0, 0)
    assert num_started == (2 if policy == FixedSamples(2) else len(answers)) and not vote.is_over
    for number, answer in enumerate(answers, start=1):
        vote.end(answer)
        assert vote.ask(number, number) == 0
        if vote.is_over:
            break
    assert number == num_asked and vote.answer == returned
    assert vote.stopped == (policy != Margin(3)) and len(vote.decisions) == num_asked + 1
    assert vote.decisions[0].observation.answer == NO_ANSWER


def test_a_stop_without_an_answer_is_put_off():
    vote = SampledVote(FirstFinish(1), 2, wave_size=1)
    assert vote.ask(0, 0) == 1
    vote.end(None)
    assert vote.ask(1, 1) == 1 and not vote.is_over
    vote.end(None)
    assert vote.ask(2, 2) == 0 and vote.is_over and not vote.stopped and vote.answer is None
