"""Several answers to one prompt on a server, and a vote among them; streams that are no longer needed are cancelled.

Each trace is a separate request, because one of several choices of a request cannot be cancelled. The rules are those of
`stopping.problems.Sampling`: the policy is asked before the first trace starts, whenever one ends and, optionally, every
`every_tokens` tokens. The clock is that of the longest trace.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from stopping.adapters.server.client import End, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.policies import SAMPLING, Kind
from stopping.policies.decisions import require_signals
from stopping.policies.rows import TakenDecision
from stopping.policies.sampled_vote import SampledVote
from stopping.traces.endings import is_natural

LEGAL = (Kind.CONTINUE, Kind.STOP, Kind.LAUNCH)
CANCELLED, FAILED = "cancelled", "failed"

Open = Callable[[int], AsyncGenerator[Token | End, None]]


@dataclass
class SampledTrace:
    """One stream.

    Attributes:
        index: in the order of starting.
        started_tokens: the clock when it started.
        num_tokens: tokens generated, as far as known; the server's count if the trace ended by itself.
        text: the whole text; for a chat, the content only.
        reasoning: for a chat, the reasoning.
        reason: why it ended, as the server says (`stop`, `length`, ...), or `cancelled` or `failed`; empty while it runs.
        key: the value of its answer; None without an answer.
        error: why it failed. Errors other than the server's end the run.
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
    """The traces of one prompt, and the answer chosen.

    Attributes:
        traces: in the order of starting.
        chosen: the first trace with the answer returned; None if no trace gave one.
        stopped: whether the policy stopped before all traces had ended.
        latency_tokens: the clock when the answer was returned.
        decisions: the policy's decisions, in order.
    """

    traces: list[SampledTrace] = field(default_factory=list)
    chosen: SampledTrace | None = None
    stopped: bool = False
    latency_tokens: int = 0
    decisions: list[TakenDecision] = field(default_factory=list)

    @property
    def total_tokens(self) -> int:
        """Tokens of all traces."""
        return sum(trace.num_tokens for trace in self.traces)

    @property
    def discarded_tokens(self) -> int:
        """Tokens of traces that were cancelled or failed."""
        return sum(trace.num_tokens for trace in self.traces if trace.reason in (CANCELLED, FAILED))

    def rows(self, problem: str) -> list[dict[str, Any]]:
        """Return a row for each trace with at least one token; `stopping.load_log` reads them as lines of JSON.

        Traces that were cancelled, failed or reached a cap are censored. The first row holds the policy's decisions and
        observations.

        Args:
            problem: the prompt's name in the log.
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
    """A policy for the traces of one prompt at a time.

    Args:
        policy: a policy that reads `SamplingObservation`.
        num_traces: the maximum number of traces per prompt.
        answer_of: returns the value of a trace's text; None for no answer.
        wave_size: the maximum number of traces that run at once; None for all.
        every_tokens: the number of tokens between decision points, besides the ends of traces; None for no others.

    Raises:
        MissingSignal, ValueError: if the policy reads a signal, or may request an action, that sampling does not have.
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
        self.wave_size, self.every_tokens = wave_size, every_tokens

    async def run(self, open_stream: Open) -> SamplingResult:
        """Sample until the policy stops or all traces have ended.

        Args:
            open_stream: opens the stream of a trace, given its index: `lambda index: upstream.stream(prompt, seed=index)`.

        Raises:
            UpstreamError: if every trace failed.
            Exception: any that `answer_of` raises.
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
        self.settings, self.open_stream = settings, open_stream
        self.vote = SampledVote(settings.policy, settings.num_traces, settings.wave_size)
        self.result = SamplingResult(decisions=self.vote.decisions)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.running: set[int] = set()  # traces whose end has not been counted: several may arrive at once
        # a trace that ended, or None for a decision point on the clock
        self.events: asyncio.Queue[SampledTrace | None] = asyncio.Queue()
        self.ticks = 0

    @property
    def clock(self) -> int:
        return max((trace.started_tokens + trace.num_tokens for trace in self.result.traces), default=0)

    async def run_to_end(self) -> None:
        result, vote = self.result, self.vote
        while True:
            for _ in range(vote.ask(self.clock, result.total_tokens)):
                self._start(len(result.traces))
            if vote.is_over:
                break
            self._count(await self.events.get())
        result.stopped = vote.stopped and (vote.num_running > 0 or vote.num_launched < vote.num_traces)
        result.latency_tokens = self.clock
        if vote.answer is not None:
            result.chosen = next(trace for trace in result.traces if trace.key == vote.answer)

    def _count(self, ended: SampledTrace | None) -> None:
        """Count a trace that has ended, and its answer."""
        if ended is None:
            return
        self.running.discard(ended.index)
        if ended.error is not None and not isinstance(ended.error, UpstreamError):
            raise ended.error
        self.vote.end(ended.key)

    def _start(self, index: int) -> None:
        trace = SampledTrace(index, self._now() if self.running else self.clock)
        self.running.add(index)
        self.result.traces.append(trace)
        self.tasks[index] = asyncio.create_task(self._follow(trace))

    def _now(self) -> int:
        """The clock of the running traces."""
        running = map(self.result.traces.__getitem__, self.running)
        return max(trace.started_tokens + trace.num_tokens for trace in running)

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
                raise UpstreamError("the stream ended without a finish reason")
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
        """Close the streams that are still open."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for trace in self.result.traces:
            trace.reason = trace.reason or CANCELLED
