"""Recording traces of a running model: its answers, and those that it would have given earlier.

Each trace is one uninterrupted stream, to its end or to the cap. Then answers are forced from its token ids at regular intervals
of the thought: the closing tag is appended and the model answers greedily. The signals are those of a decision point
(`policies.ThinkingObservation`), rounded to the three digits that a log keeps, so that a policy tuned on the log makes the same
decisions on the same model.
"""

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stopping.adapters.server.capabilities import (
    Capabilities,
    Unsupported,
    require_continuation,
    tokens_of_chat,
    tokens_of_text,
)
from stopping.adapters.server.client import Completion, End, Upstream, UpstreamError
from stopping.adapters.server.journal import Journal
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.prompts import Prompt
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.retries import raise_if_gone, retried
from stopping.adapters.server.room import Room
from stopping.adapters.server.signals import entropy_of, log_close_prob_of, log_probs_of, signals_there
from stopping.policies.windows import short
from stopping.traces.endings import is_cut, is_natural

SIGNALS = ("log_close_prob", "mean_entropy", "mean_log_prob", "num_candidates")
PROBE_SIGNALS = ("answer_mean_log_prob", "answer_least_log_prob")
TOKEN_SIGNALS = ("token_id", "log_prob", "entropy", "log_close_prob")


class _Unusable(ValueError):
    """A trace that cannot be part of a log; the message says why."""


@dataclass(frozen=True)
class Recording:
    """The plan of a recording; equal plans make equal requests.

    Attributes:
        num_samples: traces per problem.
        max_tokens: the cap on a trace.
        probe_every_tokens: the number of thought tokens between forced answers, the first of which is at 0; None for no probes.
        num_top: how many top log-probabilities to request with each token.
        settings: sampling parameters, sent unchanged.
        token_signals: whether to keep per-token signals.
        seed: with the problem's name and the sample's number, determines the seed of a request.
    """

    num_samples: int
    max_tokens: int
    probe_every_tokens: int | None = None
    num_top: int = 20
    settings: dict[str, Any] = field(default_factory=lambda: {"temperature": 1.0})
    token_signals: bool = False
    seed: int = 0

    def request_seed(self, problem: str, sample: int) -> int:
        """Return the seed of one trace's request, below 2^31."""
        name = json.dumps([self.seed, problem, sample]).encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 1


class Cost(NamedTuple):
    """The cost of a recording: requests, and tokens generated for traces and probes."""

    num_requests: int
    tokens: int
    probe_tokens: int


@dataclass(frozen=True)
class RecordedTrace:
    """One trace as the journal holds it; answers are raw texts, so that they can be judged again at no cost.

    Attributes:
        problem, sample: the problem's name and the sample's number.
        length_tokens: tokens generated, including the end token.
        thought_tokens: tokens before the thought was closed; None if it never was, or if that is unknown.
        answer: the text after the thought; None if the model did not end by itself.
        censored: whether the cap cut the trace.
        num_requests: requests sent for it.
        probes: for each probe `position_tokens`, `text` (None if the answer did not end in time), `probe_cost_tokens` and the
            signals.
        tokens: per-token lists by name.
    """

    problem: str
    sample: int
    length_tokens: int
    thought_tokens: int | None
    answer: str | None
    censored: bool
    num_requests: int
    probes: list[dict[str, Any]]
    tokens: dict[str, list[Any]]

    @property
    def probe_tokens(self) -> int:
        """The total cost of its probes."""
        return sum(probe["probe_cost_tokens"] for probe in self.probes)


class Failure(NamedTuple):
    """A trace that could not be recorded."""

    problem: str
    sample: int
    reason: str
    message: str


def cost_at_most(plan: Recording, num_traces: int, markup: Markup | None) -> Cost:
    """Return an upper bound on the cost of traces: that of traces which all reach the cap without closing their thought."""
    points = 0 if plan.probe_every_tokens is None else math.ceil(plan.max_tokens / plan.probe_every_tokens)
    each = 0 if markup is None else len(markup.close_ids) + len(markup.answer_ids) + markup.answer_tokens
    return Cost(num_traces * (1 + points), num_traces * plan.max_tokens, num_traces * points * each)


def cost_of(traces: Sequence[RecordedTrace]) -> Cost:
    """Return the cost of recorded traces."""
    return Cost(
        *(sum(getattr(trace, name) for trace in traces) for name in ("num_requests", "length_tokens", "probe_tokens"))
    )


def check_possible(plan: Recording, capabilities: Capabilities) -> None:
    """Check, before anything is paid for, that the server supports a recording.

    Raises:
        Unsupported: naming what the server lacks, and what would provide it.
    """
    if plan.probe_every_tokens is not None:
        require_continuation(capabilities, "answers cannot be forced")
    if not capabilities.usage and not capabilities.token_ids:
        raise Unsupported(
            f"{capabilities.model}: lengths cannot be known; the server lacks counts of tokens at the end of a stream "
            "(stream_options.include_usage)"
        )


def signals_recorded(plan: Recording, capabilities: Capabilities, markup: Markup | None) -> tuple[str, ...]:
    """Return the checkpoint signals that this server provides, in the order of a log."""
    if plan.probe_every_tokens is None or markup is None:
        return ()
    there = signals_there(capabilities, markup)
    return tuple(name for name in (*SIGNALS, *PROBE_SIGNALS) if name in there)


async def record(
    upstream: Upstream,
    prompts: Sequence[Prompt],
    plan: Recording,
    journal: Journal,
    *,
    capabilities: Capabilities,
    markup: Markup | None,
    close: str = "</think>",
    concurrency: int = 4,
    report: Callable[[RecordedTrace | Failure], None] = lambda _: None,
) -> list[Failure]:
    """Record the traces that the journal lacks, and append each to it; return those that failed despite retries.

    Args:
        upstream: the server.
        prompts: the prompts.
        plan: the plan.
        journal: where finished traces are appended.
        capabilities: the server's capabilities.
        markup: the model's markup; None without probes on a server that has no tokeniser.
        close: the tag that closes a thought, for such a server; empty if there are no thoughts.
        concurrency: how many traces are recorded at once.
        report: called with each trace or failure.

    Raises:
        ServerGone: if the server no longer answers.
    """
    done = {(line["problem"], line["sample"]) for line in journal.lines}
    wanted = [(prompt, sample) for prompt in prompts for sample in range(plan.num_samples)]
    left = iter([(prompt, sample) for prompt, sample in wanted if (prompt.problem, sample) not in done])
    recorder = _Recorder(upstream, plan, capabilities, markup, close)
    failures: list[Failure] = []

    async def work() -> None:
        for prompt, sample in left:
            try:
                trace = await recorder.trace(prompt, sample)
            except (UpstreamError, _Unusable) as error:
                await raise_if_gone(upstream, error)
                failures.append(Failure(prompt.problem, sample, _reason(error), str(error)))
                report(failures[-1])
            else:
                journal.append(asdict(trace))
                report(trace)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return failures


def _reason(error: Exception) -> str:
    if isinstance(error, UpstreamError):
        return "the stream broke off" if error.status is None else f"the server refused with status {error.status}"
    return str(error)


@dataclass
class _Recorder:
    """Records traces, one at a time."""

    upstream: Upstream
    plan: Recording
    capabilities: Capabilities
    markup: Markup | None
    close: str

    def __post_init__(self) -> None:
        self.signals = signals_recorded(self.plan, self.capabilities, self.markup)

    async def trace(self, prompt: Prompt, sample: int) -> RecordedTrace:
        """Record one trace: its stream, then its probes."""
        prompt_ids = await retried(lambda: self._prompt_ids(prompt))
        seed = self.plan.request_seed(prompt.problem, sample)
        found = await retried(lambda: self._whole(prompt, prompt_ids, seed))
        tokens, end = found
        ended = is_natural(end.reason)
        if not (ended or is_cut(end.reason)):
            raise _Unusable(f"ended by {end.reason}")
        length = end.counted(len(tokens), self.plan.max_tokens)
        ids = [token.id for token in tokens]
        has_all = None not in ids and length - len(ids) <= ended  # some servers do not send the end token
        if prompt_ids is not None and not has_all:
            raise _Unusable("the ids of some tokens are missing")
        thought, answer = self._parts(prompt_ids, tokens)
        probes: list[dict[str, Any]] = []
        if self.plan.probe_every_tokens is not None and prompt_ids is not None:
            last = len(ids) - 1 if thought is None else thought
            # From the last to the first, so that each prefix is in the cache that the one before it left.
            for position in reversed(range(0, last + 1, self.plan.probe_every_tokens)):
                probes.insert(0, await self._probe(prompt_ids, tokens, position))
        return RecordedTrace(
            prompt.problem, sample, length, thought,
            answer=answer if ended else None,
            censored=not ended,
            num_requests=1 + len(probes),
            probes=probes,
            tokens=self._lists(tokens) if self.plan.token_signals else {},
        )  # fmt: skip

    async def _prompt_ids(self, prompt: Prompt) -> list[int] | None:
        if not self.capabilities.continues:
            return None
        if prompt.text is not None:
            return await tokens_of_text(self.upstream, prompt.text, self.capabilities.tokenizer)
        return await tokens_of_chat(self.upstream, list(prompt.messages), self.capabilities.tokenizer)

    async def _whole(self, prompt: Prompt, prompt_ids: list[int] | None, seed: int) -> Completion:
        num_top = min(self.plan.num_top, self.capabilities.num_top)
        settings: dict[str, Any] = {**self.plan.settings, "seed": seed}
        settings["num_top"] = num_top if self.capabilities.log_probs else None
        pieces: AsyncGenerator[Token | End, None]
        if prompt_ids is None and prompt.messages:
            pieces = self.upstream.chat(prompt.messages, max_tokens=self.plan.max_tokens, **settings)
        else:
            asked = prompt_ids if prompt_ids is not None else prompt.text or ""
            pieces = self.upstream.stream(asked, self.plan.max_tokens, **settings)
        tokens: list[Token] = []
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, End):
                    return Completion(tokens, piece)
                tokens.append(piece)
        raise UpstreamError("the stream ended without a finish reason")

    def _parts(self, prompt_ids: list[int] | None, tokens: list[Token]) -> tuple[int | None, str | None]:
        """The length of the thought, and the text of the answer; None if the thought was not closed.

        A trace that neither opens nor closes a thought is all answer.
        """
        whole = "".join(token.text for token in tokens)
        if not self.close:
            return None, whole
        if self.markup is not None and all(token.id is not None for token in tokens):
            if (closed := self.markup.closes(tokens)) is None:
                opens = prompt_ids is None or self.markup.opens(prompt_ids) or self.markup.begins(tokens)
                return (None, None) if opens else (0, whole)
            place, end, rest = closed
            return place, rest + "".join(token.text for token in tokens[end:])
        if any(token.reasoning for token in tokens):  # the server separated the thought and removed the tags
            thought = [token for token in tokens if token.reasoning]
            answer = "".join(token.text for token in tokens if not token.reasoning)
            return len(thought) if self.capabilities.log_probs and answer else None, answer or None
        _, tag, answer = whole.partition(self.close)
        return None, answer if tag else None

    async def _probe(self, prompt_ids: list[int], tokens: list[Token], position: int) -> dict[str, Any]:
        """Force an answer at a position."""
        markup = self.markup
        assert markup is not None
        ids = [token.id or 0 for token in tokens[:position]]
        room, prompt = Room(self.upstream), [*prompt_ids, *ids, *markup.close_ids, *markup.answer_ids]
        forced = await retried(lambda: self._force(room, prompt, markup))
        shown: tuple[float | None, float | None] = (None, None)
        text, added = None, 0  # if the server has no room for an answer
        if forced is not None:
            shown, added = log_probs_of(forced), forced.end.counted(len(forced.tokens), room.asked_tokens)
            text = forced.text if is_natural(forced.end.reason) else None
        values = {**self._seen(tokens, position), **dict(zip(PROBE_SIGNALS, shown, strict=True))}
        return {
            "position_tokens": position,
            "text": text,
            "probe_cost_tokens": len(markup.close_ids) + len(markup.answer_ids) + added,
            **{name: _short(values[name]) for name in self.signals},
        }

    async def _force(self, room: Room, prompt: list[int], markup: Markup) -> Completion | None:
        settings = {**self.plan.settings, "temperature": 0.0}
        num_top = 0 if self.capabilities.log_probs else None
        return await room.complete(prompt, markup.answer_tokens, num_top=num_top, **settings)

    def _seen(self, tokens: list[Token], position: int) -> dict[str, float | None]:
        """The signals of a decision point at a position, without a probe."""
        assert self.markup is not None and self.plan.probe_every_tokens is not None
        window = tokens[max(position - self.plan.probe_every_tokens, 0) : position]
        candidates = self.markup.candidate_ids or ()
        return {
            "log_close_prob": log_close_prob_of(tokens[position], self.markup) if position < len(tokens) else None,
            "mean_entropy": _mean(entropy_of(token) for token in window),
            "mean_log_prob": _mean(token.log_prob for token in window),
            "num_candidates": float(sum(token.id in candidates for token in tokens[:position])),
        }

    def _lists(self, tokens: list[Token]) -> dict[str, list[Any]]:
        """Per-token signals, without those that the server never sent."""
        markup = self.markup
        made: dict[str, list[Any]] = {
            "token_id": [token.id for token in tokens],
            "log_prob": [_short(token.log_prob) for token in tokens],
            "entropy": [_short(entropy_of(token)) for token in tokens],
            "log_close_prob": [
                _short(None if markup is None else log_close_prob_of(token, markup)) for token in tokens
            ],
        }
        return {name: values for name, values in made.items() if any(value is not None for value in values)}


def _short(value: float | None) -> float | None:
    return None if value is None else float(short(value))


def _mean(values: Iterator[float | None]) -> float | None:
    """The mean of the values; None if there are none, or if one is unknown."""
    known = list(values)
    if not known or None in known:
        return None
    return float(np.mean(np.array(known, float)))


def reasons(failures: Sequence[Failure]) -> dict[str, int]:
    """Return the number of failures by reason, as in a log's `set_aside`."""
    return dict(Counter(failure.reason for failure in failures))
