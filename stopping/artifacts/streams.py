"""Observation streams for golden lines: plausible episodes, and where the decision of a vote turns.

The turning points are what pins a policy down: for each votes of the runner-up, and for each signal by itself, the
last value with one decision and the first with the next, found by doubling and bisection. They are searched up to
2^14 votes and traces and 2^27 tokens, so that products of two counts stay within int32.
"""

from typing import Any

import numpy as np

from stopping.policies import NO_ANSWER, Kind, SamplingObservation, ThinkingObservation, bind
from stopping.policies.signals import dtype_of

Stream = list[Any]  # of observations of one kind

_MAX_VOTES = 128  # of the runner-up
_NOTHING_YET = SamplingObservation(0, 0, 0, NO_ANSWER, 0, 0, 0, 0)
_LARGEST = SamplingObservation(*[2**14] * 6, *[2**27] * 2)


def streams_of(policy: Any, observation: type, seed: int = 0) -> list[Stream] | None:
    """Return streams of this kind of observation, None for a kind that is not ours."""
    known = {SamplingObservation: sampling_streams, ThinkingObservation: thinking_streams}
    return known[observation](policy, seed) if observation in known else None


def thinking_streams(policy: Any, seed: int = 0) -> list[Stream]:
    """Return streams of `ThinkingObservation`: thoughts of which every signal rises or falls, probed where the policy asks."""
    rng = np.random.default_rng(seed)
    return [_thought(policy, rng, gap) for gap in (1, 32, 64, 256, 1024) for _ in range(8)]


def _thought(policy: Any, rng: np.random.Generator, gap: int, num_points: int = 24) -> Stream:
    bound, stream = bind(policy, "numpy"), []
    state = bound.init((1,))
    start, end = -rng.exponential(4.0, (2, 5)), -rng.exponential(0.5, (2, 5))
    candidates = np.cumsum(rng.random(num_points) < 0.3)
    answers = np.where(rng.random(num_points) < 0.1, NO_ANSWER, np.cumsum(rng.random(num_points) < 0.4))
    for point, share in enumerate(np.linspace(0, 1, num_points)):
        level = start[point % 2] * (1 - share) + end[point % 2] * share
        close, mean, entropy, answer_mean, answer_least = (level + rng.normal(0, 0.1, 5)).tolist()
        free = ((point + 1) * gap, min(close, 0.0), min(mean, 0.0), abs(entropy), int(candidates[point]))
        paid = (int(answers[point]), min(answer_mean, 0.0), min(answer_least, answer_mean, 0.0))
        for seen in ((False, NO_ANSWER, 0.0, 0.0), (True, *paid)):
            observation = ThinkingObservation(*free, *seen)
            stream.append(observation)
            row: dict[str, Any] = {
                name: np.array([value], dtype_of(name)) for name, value in observation._asdict().items()
            }
            state, action = bound.step(state, ThinkingObservation(**row))
            if action.kind[0] != Kind.PROBE:
                break
    return stream


def sampling_streams(policy: Any, seed: int = 0) -> list[Stream]:
    """Return streams of `SamplingObservation` on which the policy continues and, if it can be made to, stops."""
    rng = np.random.default_rng(seed)
    laws = ([1.0], [0.9, 0.1], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.25] * 4)
    streams = [episode(rng, num_traces, law) for num_traces in (8, 24, 40) for law in laws]
    streams += [[point] for point in turning_points(policy)]
    for num_traces in (64, 256, 1024):  # a policy with a memory may want many answers that agree
        if _stops(policy, streams):
            break
        streams.append(episode(rng, num_traces, [1.0], answered=1.0))
    return streams


def episode(rng: np.random.Generator, num_traces: int, law: list[float], answered: float = 0.9) -> Stream:
    """Return what is seen at each end of a trace when `num_traces` run side by side with answers drawn from `law`.

    Args:
        rng: the source of randomness.
        num_traces: how many traces.
        law: the probability of each answer.
        answered: the probability that a trace ends with an answer.
    """
    lengths = np.sort(rng.integers(200, 20_000, num_traces))
    votes: dict[int, int] = {}
    stream = []
    for num_ended, length in enumerate(lengths.tolist(), start=1):
        answer = int(rng.choice(len(law), p=law)) if rng.random() < answered else NO_ANSWER
        if answer != NO_ANSWER:
            votes[answer] = votes.get(answer, 0) + 1
        leader, runner_up = sorted([*votes.values(), 0, 0], reverse=True)[:2]
        num_running = num_traces - num_ended
        total = int(lengths[:num_ended].sum()) + num_running * length
        seen = sum(votes.values())
        stream.append(SamplingObservation(num_traces, num_running, seen, answer, leader, runner_up, length, total))
    return stream


def turning_points(policy: Any) -> list[SamplingObservation]:
    """Return first observations on both sides of every turn of the decision that doubling finds."""
    points = []
    for signal in policy.signals:
        base = [_NOTHING_YET]
        if signal == "leader_votes" and "runner_up_votes" in policy.signals:
            base = [_NOTHING_YET._replace(leader_votes=votes, runner_up_votes=votes) for votes in range(_MAX_VOTES)]
        points += _turns(policy, signal, SamplingObservation(*np.array(base, np.int32).T))
    return points


def _turns(policy: Any, signal: str, base: SamplingObservation) -> list[SamplingObservation]:
    start, end = getattr(base, signal), getattr(_LARGEST, signal)
    steps = np.array([0, *(2**k for k in range(28) if 2**k < end), end], np.int32)
    values = np.minimum(start[:, None] + steps, end)
    kinds = _first_kinds(policy, signal, SamplingObservation(*(field[:, None] for field in base)), values)
    row, column = np.nonzero(kinds[:, 1:] != kinds[:, :-1])
    here = SamplingObservation(*(field[row] for field in base))
    low, high, before = values[row, column], values[row, column + 1], kinds[row, column]
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        same = _first_kinds(policy, signal, here, middle) == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    found = [here._replace(**{signal: side}) for side in (low, high)]
    never = np.setdiff1d(np.arange(len(start)), row)[:2]  # where the decision never turns, the largest value says so
    found.append(SamplingObservation(*(field[never] for field in base))._replace(**{signal: values[never, -1]}))
    return [SamplingObservation(*point) for points in found for point in np.stack(points, axis=-1).tolist()]


def _first_kinds(policy: Any, signal: str, base: SamplingObservation, values: np.ndarray) -> np.ndarray:
    bound = bind(policy, "numpy")
    fields = [np.broadcast_to(field, values.shape) for field in base]
    observation = SamplingObservation(*fields)._replace(**{signal: values})
    return np.broadcast_to(bound.step(bound.init(values.shape), observation)[1].kind, values.shape)


def _stops(policy: Any, streams: list[Stream]) -> bool:
    bound = bind(policy, "numpy")
    for stream in streams:
        state = bound.init((1,))
        for observation in stream:
            state, action = bound.step(state, SamplingObservation(*(np.array([x], np.int32) for x in observation)))
            if (action.kind == Kind.STOP).any():
                return True
    return False
