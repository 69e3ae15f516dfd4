"""Several answers to one prompt on a server, a vote among them, and the streams cancelled that are not needed.

Each trace is a request of its own, since one of several choices of a request cannot be cancelled. The rules are those of
`stopping.problems.Sampling`: the policy is asked before the first trace starts, whenever one ends and, if wanted, every so many
tokens; a stop is put off while there is no answer and traces run, or may yet be started. The clock is that of the longest trace.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stopping.adapters.server.client import End, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.policies import NO_ANSWER, SAMPLING, Kind, Return, SamplingObservation
from stopping.policies.decisions import require_signals
from stopping.policies.namespace import namespace
from stopping.policies.rows import PolicyRows, TakenDecision
from stopping.policies.vote_tally import Leader, VoteTally
from stopping.traces.endings import is_natural

LEGAL = (Kind.CONTINUE, Kind.STOP, Kind.LAUNCH)
CANCELLED, FAILED = "cancelled", "failed"

Open = Callable[[int], AsyncGenerator[Token | End, None]]


@dataclass
class SampledTrace:
    """One stream.

    Attributes:
        index: in the order of starting.
        started_tokens: on the clock.
        num_tokens: generated, as far as was seen; by the server's count where it ended by itself.
        text: all of it; of chat the content alone, and the reasoning apart.
        reasoning: see there.
        reason: why it ended, in the server's word: `stop`, `length`, ...; `cancelled`; `failed`; empty while it runs.
        key: what its answer counts as, None for none.
        error: why it failed; whatever else was raised ends the run.
    """

    index: int
    started_tokens: int
    num_tokens: int = 0
    text: str = ""
    reasoning: str = ""
    reason: str = ""
    key: str | None = None
    error: Exception | None = None


@dataclass
class SamplingResult:
    """What came of a prompt.

    Attributes:
        traces: in the order of starting.
        chosen: the first trace with the answer returned; None where no trace gave one.
        stopped: by the policy, before all traces had ended.
        latency_tokens: on the clock, until the answer was there.
        decisions: of the policy, in order.
    """

    traces: list[SampledTrace] = field(default_factory=list)
    chosen: SampledTrace | None = None
    stopped: bool = False
    latency_tokens: int = 0
    decisions: list[TakenDecision] = field(default_factory=list)

    @property
    def total_tokens(self) -> int:
        """Of all traces."""
        return sum(trace.num_tokens for trace in self.traces)

    @property
    def discarded_tokens(self) -> int:
        """Of traces that were cancelled, or failed."""
        return sum(trace.num_tokens for trace in self.traces if trace.reason in (CANCELLED, FAILED))

    def rows(self, problem: str) -> list[dict[str, Any]]:
        """Return the account: a row for each trace that had a token, as `stopping.load_log` reads them from a line of JSON each.

        What was cancelled, failed or ended at a cap is censored there. The policy's decisions, with what it saw, stand in the
        first row.

        Args:
            problem: which the log is to know the prompt by.
        """
        asked = [
            {"saw": each.observation._asdict(), "asked": each.kind.name, "amount": each.amount, "put_off": each.put_off}
            for each in self.decisions
        ]
        begun = [trace for trace in self.traces if trace.num_tokens]
        return [
            {
                "problem": problem,
                "sample": trace.index,
                "length_tokens": trace.num_tokens,
                "answer": trace.key,
                "censored": not is_natural(trace.reason),
                "ended": trace.reason,
                "started_tokens": trace.started_tokens,
                "chosen": trace is self.chosen,
                "decisions": asked if trace is begun[0] else [],
            }
            for trace in begun
        ]


class Sampler:
    """A policy on the traces of one prompt at a time.

    Args:
        policy: reads a `SamplingObservation`.
        num_traces: the most that a prompt may get.
        answer_of: what a trace's text counts as, None for no answer.
        wave_size: how many run at once; None for all.
        every_tokens: decision points besides the ends of traces; None for none.

    Raises:
        MissingSignal, ValueError: if the policy reads a signal, or may ask for an action, that sampling has not.
    """

    def __init__(
        self,
        policy: Any,
        num_traces: int,
        answer_of: Callable[[str], str | None],
        *,
        wave_size: int | None = None,
        every_tokens: int | None = None,
    ) -> None:
        require_signals(SAMPLING, policy, SAMPLING.signals, LEGAL)
        self.policy, self.num_traces, self.answer_of = policy, num_traces, answer_of
        self.wave_size, self.every_tokens = min(wave_size or num_traces, num_traces), every_tokens

    async def run(self, open_stream: Open) -> SamplingResult:
        """Sample until the policy stops, or nothing is left to start.

        Args:
            open_stream: begins the stream of a trace, given its index: `lambda index: upstream.stream(prompt, seed=index)`.

        Raises:
            UpstreamError: if every trace failed.
        Exception: what `answer_of` raises.
        """
        group = _Group(self, open_stream)
        try:
            await group.run_to_end()
        finally:
            await group.cancel()
        result = group.result
        if result.traces and all(trace.reason == FAILED for trace in result.traces):
            assert result.traces[0].error is not None
            raise result.traces[0].error
        return result


class _Group:
    """The traces of one prompt under way."""

    def __init__(self, settings: Sampler, open_stream: Open) -> None:
        self.settings, self.open_stream, self.result = settings, open_stream, SamplingResult()
        self.rows, self.xp = PolicyRows(settings.policy, 1), namespace("numpy")
        self.result.decisions = self.rows.decisions[0]
        self.tally = VoteTally(np.arange(settings.num_traces, dtype=np.int32))
        self.votes = self.tally.init(self.xp, ())
        self.leader = Leader(np.int32(0), np.int32(0), np.int32(0))
        self.labels: dict[str, int] = {}
        self.latest = NO_ANSWER
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.running: set[int] = set()  # traces whose end has not been counted: several may come at once
        self.events: asyncio.Queue[SampledTrace | None] = (
            asyncio.Queue()
        )  # a trace that ended, or None: the clock's turn
        self.ticks = 0

    @property
    def clock(self) -> int:
        return max((trace.started_tokens + trace.num_tokens for trace in self.result.traces), default=0)

    async def run_to_end(self) -> None:
        came = NO_ANSWER
        while True:
            kind, amount = self._ask(came)
            num_launched, idle = len(self.result.traces), not self.running
            has_answer = bool(self.votes.num_answers)
            may_stop = has_answer or (idle and num_launched > 0 and Kind.LAUNCH in self.settings.policy.kinds)
            if kind == Kind.STOP and may_stop:
                self.result.stopped = not idle or num_launched < self.settings.num_traces
                break
            if kind == Kind.STOP:
                self.rows.put_off(0)
            if idle and num_launched >= self.settings.num_traces:
                amount = Return.LEADER.value
                break
            wanted = amount if kind == Kind.LAUNCH else self.settings.wave_size if idle else 0
            room = min(self.settings.wave_size - len(self.running), self.settings.num_traces - num_launched)
            for index in range(num_launched, num_launched + min(max(wanted, int(idle)), room)):
                self._start(index)
            came = self._count(await self.events.get())
        self.result.latency_tokens = self.clock
        label = self.latest if amount == Return.LATEST.value else int(self.leader.label)
        if self.votes.num_answers:
            key = next(key for key, number in self.labels.items() if number == label)
            self.result.chosen = next(trace for trace in self.result.traces if trace.key == key)

    def _ask(self, came: int) -> tuple[int, int]:
        observation = SamplingObservation(
            num_launched=len(self.result.traces),
            num_running=len(self.running),
            num_answers=int(self.votes.num_answers),
            answer=came,
            leader_votes=int(self.leader.votes),
            runner_up_votes=int(self.leader.runner_up_votes),
            elapsed_tokens=self.clock,
            total_tokens=self.result.total_tokens,
        )
        kinds, amounts = self.rows.ask(
            SamplingObservation(*(np.array([value], np.int32) for value in observation)), [0]
        )
        return int(kinds[0]), int(amounts[0])

    def _count(self, ended: SampledTrace | None) -> int:
        """Count a trace's end, and its answer, in; return the answer's label."""
        if ended is None:
            return NO_ANSWER
        self.running.discard(ended.index)
        if ended.error is not None and not isinstance(ended.error, UpstreamError):
            raise ended.error
        if ended.key is None:
            return NO_ANSWER
        label = self.latest = self.labels.setdefault(ended.key, len(self.labels))
        self.votes, self.leader = self.tally.step(self.xp, self.votes, np.int32(label), np.bool_(True))
        return label

    def _start(self, index: int) -> None:
        trace = SampledTrace(index, self._now() if self.running else self.clock)
        self.running.add(index)
        self.result.traces.append(trace)
        self.tasks[index] = asyncio.create_task(self._follow(trace))

    def _now(self) -> int:
        """The clock, as those that run have it."""
        return max(
            trace.started_tokens + trace.num_tokens for trace in map(self.result.traces.__getitem__, self.running)
        )

    async def _follow(self, trace: SampledTrace) -> None:
        try:
            async with aclosing(self.open_stream(trace.index)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, End):
                        trace.num_tokens, trace.reason = piece.counted(trace.num_tokens), piece.reason
                        break
                    trace.num_tokens += 1
                    if piece.reasoning:
                        trace.reasoning += piece.text
                    else:
                        trace.text += piece.text
                    self._tick()
            if not trace.reason:
                raise UpstreamError("the stream ended without saying why")
            trace.key = self.settings.answer_of(trace.text) if is_natural(trace.reason) else None
        except Exception as error:
            trace.reason, trace.error = FAILED, error
        self.events.put_nowait(trace)

    def _tick(self) -> None:
        every = self.settings.every_tokens
        if every is not None and self.clock // every > self.ticks:
            self.ticks = self.clock // every
            self.events.put_nowait(None)

    async def cancel(self) -> None:
        """Close the streams that still run."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for trace in self.result.traces:
            trace.reason = trace.reason or CANCELLED
