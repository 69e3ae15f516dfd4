"""Policies as a user writes them, outside the package."""

from typing import Any, NamedTuple

import numpy as np

from stopping.policies import Action, Kind, policy


class Agreement(NamedTuple):
    """The running agreement; float `[...]`."""

    smoothed: Any


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class RunningAgreement:
    """Stop when the leader's running share of the first two answers' votes exceeds a threshold."""

    threshold: float
    memory: float = 0.5
    prior_votes: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"RunningAgreement.threshold: expected a number in (0, 1), got {self.threshold!r}")

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> Agreement:
        return Agreement(xp.full(batch_shape, 0.5))

    def _next(self, xp: Any, state: Agreement, observation: Any) -> Any:
        leader = xp.log(xp.maximum(observation.leader_votes, 0) + self.prior_votes)
        runner_up = xp.log(xp.maximum(observation.runner_up_votes, 0) + self.prior_votes)
        odds = xp.exp(xp.minimum(leader - runner_up, 20.0))
        share = xp.where(odds > 1e6, 1.0, odds / (1 + odds))
        return self.memory * state.smoothed + (1 - self.memory) * share

    def score(self, xp: Any, state: Agreement, observation: Any) -> Any:
        return self._next(xp, state, observation) - self.threshold

    def step(self, xp: Any, state: Agreement, observation: Any) -> tuple[Agreement, Action]:
        stop = self.score(xp, state, observation) > 0
        return Agreement(self._next(xp, state, observation)), Action(
            xp.where(stop, int(Kind.STOP), int(Kind.CONTINUE)), 0
        )


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP, Kind.LAUNCH))
class WeightedVotes:
    """Stop when the leader's votes, weighed by the runner-up's, reach a threshold; launch one while nobody leads."""

    weights: np.ndarray
    threshold: float

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        return ()

    def score(self, xp: Any, state: tuple[()], observation: Any) -> Any:
        last = len(self.weights) - 1
        weight = xp.take(self.weights, xp.maximum(xp.minimum(observation.runner_up_votes, last), 0))
        return xp.sqrt(xp.minimum(xp.maximum(observation.leader_votes, 0), 10_000) / weight) - self.threshold

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        stop = self.score(xp, state, observation) > 0
        tied = observation.leader_votes == observation.runner_up_votes
        waiting = xp.where(tied, int(Kind.LAUNCH), int(Kind.CONTINUE))
        kind = xp.where(stop, int(Kind.STOP), waiting)
        return state, Action(kind, xp.where(kind == int(Kind.LAUNCH), 1, 0))


@policy(signals=("temperature",), kinds=(Kind.STOP,))
class ReadsTemperature:
    """Reads a signal no problem here shows."""

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(observation.temperature > 1, 0)


@policy(signals=("num_answers",), kinds=(Kind.RESTART,))
class Restarts:
    """Asks for an action no problem here allows."""

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(Kind.RESTART.value, 0)


@policy(signals=("num_launched",), kinds=(Kind.LAUNCH, Kind.STOP))
class LaunchesPairs:
    """Launches a known number of traces, two at a time."""

    num_pairs: int

    @property
    def max_traces(self):
        return 2 * self.num_pairs

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        enough = observation.num_launched >= self.max_traces
        return state, Action(xp.where(enough, int(Kind.STOP), int(Kind.LAUNCH)), xp.where(enough, 0, 2))


@policy(signals=("num_answers",), kinds=(Kind.CONTINUE, Kind.STOP))
class Peeks:
    """Reads a signal it does not declare."""

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(observation.total_tokens >= 1, 0)


@policy(signals=("num_running",), kinds=(Kind.CONTINUE, Kind.STOP))
class LaunchesUndeclared:
    """Launches traces without saying so."""

    num_traces: int

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(xp.where(observation.num_running >= 0, int(Kind.LAUNCH), 0), self.num_traces)


@policy(signals=("num_running",), kinds=(Kind.CONTINUE, Kind.LAUNCH))
class LaunchesOne:
    """Launches one trace more whenever it is asked."""

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(xp.where(observation.num_running > 0, 0, int(Kind.LAUNCH)), 1)


@policy(signals=("num_running",), kinds=(Kind.CONTINUE, Kind.LAUNCH))
class StopsUndeclared:
    """Launches one trace whenever nothing runs, and stops without saying so."""

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(xp.where(observation.num_running > 0, int(Kind.STOP), int(Kind.LAUNCH)), 1)
