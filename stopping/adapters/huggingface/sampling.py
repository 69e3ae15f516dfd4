"""Several traces of one prompt, drawn side by side until the policy has seen enough answers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import StoppingCriteria

from stopping.adapters.huggingface.generation import configured, end_ids, prompts_of
from stopping.artifacts.loading import policy_and_interval
from stopping.policies import NO_ANSWER, SAMPLING, Kind, Return, SamplingObservation
from stopping.policies.decisions import require_signals
from stopping.policies.namespace import namespace
from stopping.policies.policy import whole_number
from stopping.policies.rows import PolicyRows, TakenDecision
from stopping.policies.vote_tally import Leader, VoteTally


class SamplingResult(NamedTuple):
    """What came of the traces of one prompt.

    Attributes:
        answer: what the answer given counts as, by `answer_of`; None if none came.
        text: of the first trace that gave it, without special tokens; empty if none came.
        answers: of each trace; None where it gave none, or was cancelled.
        tokens: ids that each trace generated, up to its end.
        stopped: traces were cancelled by the policy.
        num_answers: traces that had given one.
        total_tokens: paid, of all traces.
        discarded_tokens: of those that were cancelled.
        latency_tokens: on the clock of one trace, until the answer was given.
        decisions: each time the policy was asked: before the first token, and whenever a trace ended.
    """

    answer: str | None
    text: str
    answers: list[str | None]
    tokens: list[np.ndarray]
    stopped: bool
    num_answers: int
    total_tokens: int
    discarded_tokens: int
    latency_tokens: int
    decisions: list[TakenDecision]


def sample(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    policy: Any,
    *,
    num_traces: int,
    answer_of: Callable[[str], str | None],
    **options: Any,
) -> SamplingResult:
    """Draw traces of one prompt in parallel, and cancel those that still run when the policy stops.

    A trace that is cut at the cap gives no answer. A stop is put off while there is none. The answer is the one with most
    votes (of equals, the one that came first), or the latest where the policy asks for that.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokeniser.
        inputs: `input_ids` of one prompt.
        policy: one that reads a `SamplingObservation`, its artifact, or its directory.
        num_traces: how many are drawn.
        answer_of: what a trace's text, without special tokens, counts as; None for no answer.
        **options: of `model.generate`.

    Raises:
        MissingSignal: if the policy reads what cannot be had here, before the first token.
        ValueError: naming the argument that does not fit.
    """
    policy, _ = policy_and_interval(policy)
    require_signals(SAMPLING, policy, SAMPLING.signals, (Kind.CONTINUE, Kind.STOP))
    num_traces = whole_number("num_traces", num_traces, 1)
    config, options = configured(model, options)
    if not config.do_sample and num_traces > 1:
        raise ValueError("do_sample: expected True, got False: greedy traces are all the same")
    prompts = prompts_of(model, inputs)
    if len(prompts["input_ids"]) != 1:
        raise ValueError(f"inputs: expected one prompt, got {len(prompts['input_ids'])}")
    prompts = {name: values.repeat(num_traces, 1) for name, values in prompts.items()}
    ends = torch.tensor(end_ids(model, config), device=model.device)
    traces = _Traces(tokenizer, prompts["input_ids"].shape, policy, answer_of, ends)
    generated = model.generate(**prompts, generation_config=config, stopping_criteria=[traces], **options)
    return traces.run(generated)


class _Traces(StoppingCriteria):
    """Looks for ends of traces after each token, and shows the policy what has come."""

    def __init__(
        self,
        tokenizer: Any,
        shape: tuple[int, int],
        policy: Any,
        answer_of: Callable[[str], str | None],
        ends: torch.Tensor,
    ) -> None:
        self.tokenizer, self.answer_of, self.ends = tokenizer, answer_of, ends
        self.num_traces, self.prompt_width = shape
        self.policy, self.kinds = PolicyRows(policy, 1), policy.kinds
        self.ended: torch.Tensor | None = None  # on the device
        self.lengths: dict[int, int] = {}  # of traces that ended and were counted, in order
        self.answers: list[str | None] = [None] * self.num_traces
        self.texts = [""] * self.num_traces
        self.labels: dict[str, int] = {}
        self.tally = VoteTally(np.arange(self.num_traces, dtype=np.int32))
        self.votes = self.tally.init(namespace("numpy"), ())
        self.leader, self.latest = Leader(*(np.int32(0),) * 3), NO_ANSWER
        self.given, self.stopped = NO_ANSWER, False
        self._ask(0, NO_ANSWER, 0)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        now = torch.isin(input_ids[:, -1], self.ends)
        if self.ended is not None:
            now &= ~self.ended
        self.ended = now if self.ended is None else self.ended | now
        # One flag is read a step; `generate` waits for one of its own here anyway.
        if now.any():
            generated = input_ids[:, self.prompt_width :]
            for row in torch.nonzero(now)[:, 0].tolist():
                if not self.stopped:
                    self._count(row, generated[row].cpu().numpy())
        return torch.full_like(now, self.stopped)

    def _count(self, row: int, ids: np.ndarray) -> None:
        """Take in a trace that has ended, and ask the policy."""
        self.lengths[row] = len(ids)
        self.texts[row] = self.tokenizer.decode(ids, skip_special_tokens=True)
        self.answers[row] = answer = self.answer_of(self.texts[row])
        label = NO_ANSWER if answer is None else self.labels.setdefault(answer, len(self.labels))
        xp, answered = namespace("numpy"), np.bool_(answer is not None)
        self.votes, self.leader = self.tally.step(xp, self.votes, np.int32(label), answered)
        self.latest = label if answered else self.latest
        self._ask(self.num_traces, label, len(ids))

    def _ask(self, num_launched: int, label: int, elapsed_tokens: int) -> None:
        num_running = num_launched - len(self.lengths)
        seen = SamplingObservation(
            num_launched=num_launched,
            num_running=num_running,
            num_answers=self.votes.num_answers,
            answer=label,
            leader_votes=self.leader.votes,
            runner_up_votes=self.leader.runner_up_votes,
            elapsed_tokens=elapsed_tokens,
            total_tokens=sum(self.lengths.values()) + num_running * elapsed_tokens,
        )
        kinds, amounts = self.policy.ask(SamplingObservation(*(np.array([value], np.int32) for value in seen)), [0])
        self.given = int(self.leader.label)
        if kinds[0] == Kind.STOP:
            if not self.labels:
                self.policy.put_off(0)
            else:
                self.stopped = True
                self.given = self.latest if amounts[0] == Return.LATEST else self.given

    def run(self, sequences: Any) -> SamplingResult:
        """The account, once generation is over."""
        ids = sequences[:, self.prompt_width :].cpu().numpy()
        latency = ids.shape[1]
        tokens = [row[: self.lengths.get(number, latency)] for number, row in enumerate(ids)]
        total = sum(len(row) for row in tokens)
        answer = list(self.labels)[self.given] if self.labels else None
        cancelled = self.stopped and len(self.lengths) < self.num_traces
        return SamplingResult(
            answer=answer,
            text=self.texts[self.answers.index(answer)] if answer is not None else "",
            answers=self.answers,
            tokens=tokens,
            stopped=cancelled,
            num_answers=int(self.votes.num_answers),
            total_tokens=total,
            discarded_tokens=total - sum(self.lengths.values()) if cancelled else 0,
            latency_tokens=latency,
            decisions=self.policy.decisions[0],
        )
