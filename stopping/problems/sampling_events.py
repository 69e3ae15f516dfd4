"""The events of a sampling problem: traces start, end and answer, from one decision point to the next."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from stopping.policies import NO_ANSWER, Action, Kind, Return, SamplingObservation
from stopping.policies.decisions.vote_tally import Leader, Votes, VoteTally
from stopping.policies.namespace import namespace
from stopping.policies.sampled_vote import effect
from stopping.problems.sampling_worlds import NEVER, SamplingWorld
from stopping.traces.answers import NOT_LOGGED


class Run(NamedTuple):
    """The state of a run at a decision point; `[]` where not said otherwise.

    Attributes:
        started: tick of each trace's start, `NEVER` before it; `[traces]`.
        ended: which traces have; `[traces]`.
        num_launched: traces started.
        elapsed: the tick of this decision point.
        votes, leader: the tally of answers.
        latest: label of the last answer that came.
        came: its label if it came at this very decision point, else `NO_ANSWER`.
    """

    started: Int[Array, " traces"]
    ended: Bool[Array, " traces"]
    num_launched: Int[Array, ""]
    elapsed: Int[Array, ""]
    votes: Votes
    leader: Leader
    latest: Int[Array, ""]
    came: Int[Array, ""]

    @property
    def running(self) -> Bool[Array, " traces"]:
        """Which traces have started and not ended."""
        return (self.started < NEVER) & ~self.ended


class Decision(NamedTuple):
    """The effect of an action: `run` with the traces it started, and why the run ends here, if it does; `[]` each.

    Attributes:
        asked: the policy asked to stop, and may.
        exhausted: nothing runs and no trace is left to start.
        beyond: the log does not hold what follows: more traces are wanted than it has, or a vote depends on answers that it
            does not name.
    """

    run: Run
    asked: Bool[Array, ""]
    exhausted: Bool[Array, ""]
    beyond: Bool[Array, ""]

    @property
    def done(self) -> Bool[Array, ""]:
        """The run ends here."""
        return self.asked | self.exhausted | self.beyond


class SamplingDynamics:
    """The dynamics of one world.

    Args:
        world: as drawn or logged.
        wave_size: how many traces run at once.
        interval: ticks between decision points besides the ends of traces; None for none.
        kinds: the actions that the policy has declared. One that launches traces itself may stop without an answer when
            those it launched gave none.
    """

    def __init__(self, world: SamplingWorld, wave_size: int, interval: int | None, kinds: tuple[Kind, ...]) -> None:
        self.world, self.wave_size, self.interval, self.kinds = world, wave_size, interval, kinds
        self.index = jnp.arange(world.length_tokens.shape[0], dtype=jnp.int32)
        self.tally = VoteTally(self.index)
        # where the log does not name answers, each is its own: only the first can then be counted on
        self.label = jnp.where(world.answer == NOT_LOGGED, self.index, world.answer)
        self.num_logged = jnp.sum(world.logged, dtype=jnp.int32)

    def start(self) -> Run:
        """Return the first decision point, before any trace has started."""
        xp, zero = namespace("jax"), jnp.zeros((), jnp.int32)
        votes = self.tally.init(xp, ())
        return Run(
            started=jnp.full(self.index.shape, NEVER),
            ended=jnp.zeros(self.index.shape, bool),
            num_launched=zero,
            elapsed=zero,
            votes=votes,
            leader=self.tally.step(xp, votes, zero, jnp.zeros((), bool))[1],
            latest=zero,
            came=zero + NO_ANSWER,
        )

    def observe(self, run: Run) -> SamplingObservation:
        """Return what a policy sees."""
        return SamplingObservation(
            num_launched=run.num_launched,
            num_running=jnp.sum(run.running, dtype=jnp.int32),
            num_answers=run.votes.num_answers,
            answer=run.came,
            leader_votes=run.leader.votes,
            runner_up_votes=run.leader.runner_up_votes,
            elapsed_tokens=run.elapsed,
            total_tokens=self.spent(run, run.elapsed),
        )

    def decide(self, run: Run, action: Action) -> Decision:
        """Let the action take effect."""
        limits: dict[str, Any] = {"num_traces": self.index.shape[0], "wave_size": self.wave_size}
        asked, exhausted, launched = effect(namespace("jax"), self.observe(run), action, kinds=self.kinds, **limits)
        beyond = (run.num_launched + launched > self.num_logged) | self._unnamed(run)
        launched = jnp.where(beyond, 0, launched)
        starts = (self.index >= run.num_launched) & (self.index < run.num_launched + launched)
        started = jnp.where(starts, run.elapsed, run.started)
        run = run._replace(started=started, num_launched=run.num_launched + launched)
        return Decision(run, asked, exhausted, beyond)

    def advance(self, run: Run) -> Run:
        """Go on to the next decision point: the end of a trace (of equals, the first started), or the end of an interval."""
        ends = jnp.where(run.running, run.started + self.world.length_tokens, NEVER)
        first = jnp.argmin(ends)
        if self.interval is None:
            ended, elapsed = jnp.ones((), bool), ends[first]
        else:
            elapsed = jnp.minimum(ends[first], (run.elapsed // self.interval + 1) * self.interval)
            ended = elapsed == ends[first]
        answered = ended & (self.label[first] != NO_ANSWER)
        votes, leader = self.tally.step(namespace("jax"), run.votes, self.label[first], answered)
        return run._replace(
            ended=run.ended | (ended & (self.index == first)),
            elapsed=elapsed,
            votes=votes,
            leader=leader,
            latest=jnp.where(answered, self.label[first], run.latest),
            came=jnp.where(answered, self.label[first], NO_ANSWER),
        )

    def spent(self, run: Run, now: Any) -> Int[Array, ""]:
        """Tokens generated by now, over all traces that have started."""
        each = jnp.where(run.started < NEVER, jnp.minimum(self.world.length_tokens, now - run.started), 0)
        return jnp.sum(each, dtype=jnp.int32)

    def answer(self, run: Run, amount: Any) -> Int[Array, ""]:
        """Return the label of the answer that a stop with this amount (`Return`) gives, `NO_ANSWER` if none has come."""
        chosen = jnp.where(amount == Return.LATEST.value, run.latest, run.leader.label).astype(jnp.int32)
        return jnp.where(run.votes.num_answers > 0, chosen, NO_ANSWER)

    def _unnamed(self, run: Run) -> Bool[Array, ""]:
        """Return whether the vote depends on answers that the log does not name."""
        return jnp.any(run.ended & (self.world.answer == NOT_LOGGED)) & (run.votes.num_answers > 1)
