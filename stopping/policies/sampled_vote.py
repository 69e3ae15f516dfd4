"""Sampling several traces of one prompt under a policy: how its actions take effect, and the vote among the answers.

`effect` is the rule by which an action takes effect, on any array backend; `SampledVote` applies it to the traces of a running
model, whichever engine generates them.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from stopping.policies.actions import LATEST, LAUNCH, STOP, Action, Kind
from stopping.policies.decisions import NO_ANSWER, SamplingObservation
from stopping.policies.decisions.vote_tally import Leader, VoteTally
from stopping.policies.namespace import namespace
from stopping.policies.rows import PolicyRows, TakenDecision


class Effect(NamedTuple):
    """The effect of an action.

    Attributes:
        stops: whether the policy's stop is granted; bool `[...]`.
        exhausted: whether all traces have ended, so that there is nothing to wait for; bool `[...]`.
        num_started: the number of traces to start now; int32 `[...]`.
    """

    stops: Any
    exhausted: Any
    num_started: Any


def effect(
    xp: Any, seen: SamplingObservation, action: Action, *, kinds: Collection[Kind], num_traces: int, wave_size: int
) -> Effect:
    """Return the effect of an action, on any array backend.

    A stop is put off while there is no answer and traces run or may yet be started; a policy that launches traces itself may stop
    without an answer once all its traces have ended. When no trace runs, at least one is started.

    Args:
        xp: the array functions of the backend (`namespace`).
        seen: the observation that the policy answered.
        action: the policy's action.
        kinds: the kinds of action that the policy declares; others have no effect.
        num_traces: the maximum number of traces.
        wave_size: the maximum number of traces that run at once.
    """
    idle = seen.num_running == 0
    may_end = xp.logical_and(idle, xp.logical_and(seen.num_launched > 0, Kind.LAUNCH in kinds))
    may_stop = xp.logical_or(seen.num_answers > 0, may_end)
    stops = xp.logical_and(xp.logical_and(action.kind == STOP, Kind.STOP in kinds), may_stop)
    exhausted = xp.logical_and(idle, seen.num_launched >= num_traces)
    launches = xp.logical_and(action.kind == LAUNCH, Kind.LAUNCH in kinds)
    wanted = xp.where(launches, action.amount, xp.where(idle, wave_size, 0))
    room = xp.minimum(wave_size - seen.num_running, num_traces - seen.num_launched)
    num_started = xp.minimum(xp.maximum(wanted, xp.where(idle, 1, 0)), room)
    return Effect(stops, exhausted, xp.where(xp.logical_or(stops, exhausted), 0, num_started))


class SampledVote:
    """A policy on the traces of one prompt, and the vote among their answers.

    Args:
        policy: a policy that reads `SamplingObservation`.
        num_traces: the maximum number of traces.
        wave_size: the maximum number of traces that run at once; None for all.

    Attributes:
        num_launched, num_running, num_answers: counts of traces so far.
        is_over: whether sampling has ended: a stop was granted, or all traces have ended.
        stopped: whether the policy's stop was granted.
        decisions: the policy's decisions, in order.
    """

    def __init__(self, policy: Any, num_traces: int, wave_size: int | None = None) -> None:
        self.num_traces, self.wave_size = num_traces, min(wave_size or num_traces, num_traces)
        self.num_launched = self.num_running = 0
        self.is_over = self.stopped = False
        self._kinds, self._rows = policy.kinds, PolicyRows(policy, 1)
        self.decisions: list[TakenDecision] = self._rows.decisions[0]
        self._xp, self._tally = namespace("numpy"), VoteTally(np.arange(num_traces, dtype=np.int32))
        self._votes, self._leader = self._tally.init(self._xp, ()), Leader(*(np.int32(0),) * 3)
        self._labels: dict[str, int] = {}
        self._latest = self._came = NO_ANSWER
        self._returns_latest = False

    @property
    def num_answers(self) -> int:
        """The number of traces that have given an answer."""
        return int(self._votes.num_answers)

    @property
    def answer(self) -> str | None:
        """The answer to return: the leader, or the latest one if the policy stopped for it; None without an answer."""
        if not self._labels:
            return None
        return list(self._labels)[self._latest if self._returns_latest else int(self._leader.label)]

    def ask(self, elapsed_tokens: int, total_tokens: int) -> int:
        """Ask the policy at a decision point; return how many traces to start now, and count them as running.

        Args:
            elapsed_tokens: tokens on the clock of the longest trace.
            total_tokens: tokens generated so far by all traces.
        """
        seen = SamplingObservation(
            num_launched=self.num_launched,
            num_running=self.num_running,
            num_answers=self.num_answers,
            answer=self._came,
            leader_votes=int(self._leader.votes),
            runner_up_votes=int(self._leader.runner_up_votes),
            elapsed_tokens=elapsed_tokens,
            total_tokens=total_tokens,
        )
        kinds, amounts = self._rows.ask(SamplingObservation(*(np.array([value], np.int32) for value in seen)), [0])
        action = Action(int(kinds[0]), int(amounts[0]))
        limits: dict[str, Any] = {"num_traces": self.num_traces, "wave_size": self.wave_size}
        stops, exhausted, num_started = effect(namespace("python"), seen, action, kinds=self._kinds, **limits)
        if action.kind == STOP and not stops:
            self._rows.put_off(0)
        self.stopped, self.is_over = stops, stops or exhausted
        self._returns_latest = stops and action.amount == LATEST
        self._came = NO_ANSWER
        self.num_launched += num_started
        self.num_running += num_started
        return num_started

    def end(self, answer: str | None) -> None:
        """Count a trace that has ended, with its answer; equal answers are one, and None is no answer."""
        self.num_running -= 1
        if answer is not None:
            self._came = self._latest = label = self._labels.setdefault(answer, len(self._labels))
            self._votes, self._leader = self._tally.step(self._xp, self._votes, np.int32(label), np.bool_(True))
