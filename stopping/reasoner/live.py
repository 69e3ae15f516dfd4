"""A policy on the running reasoner: the adapter by which it stops thoughts while they are sampled.

Between stages the policy sees each trace that still thinks (`policies.ThinkingObservation`, made of what has been drawn), may
probe it, and may stop the trace, which then leaves the batch. Signals are those of a recorded
checkpoint, to the three digits that a log keeps; the noise is coupled, so a stopped trace is a prefix of the one that would
have been logged, and the run equals a replay of that log.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from stopping.policies import NO_ANSWER, Kind, ThinkingObservation
from stopping.policies.rows import PolicyRows
from stopping.policies.windows import short
from stopping.reasoner.countdown import Problem, is_right, vote_key
from stopping.reasoner.llama import Llama
from stopping.reasoner.recording import BATCH_TRACES, NUM_THREADS, batches_of, forced_answer, own_answer, prompt_tokens
from stopping.reasoner.sampling import Answers, Boundary, Samples, sample_watched
from stopping.reasoner.vocabulary import YES


class LiveRun(NamedTuple):
    """The outcome of one trace of each problem; `[problems]` each, counted as `problems.ThinkingOutcome` counts.

    Attributes:
        correct: bool, of the answer given.
        total_tokens: int32, thought, answers and probes.
        thought_tokens: int32, before the thought was closed; all of the trace where it ended by itself.
        probe_tokens: int32, paid for answers that were not given.
        stopped: bool, by the policy.
    """

    correct: np.ndarray
    total_tokens: np.ndarray
    thought_tokens: np.ndarray
    probe_tokens: np.ndarray
    stopped: np.ndarray


def run_live(
    key: PRNGKeyArray,
    model: Llama,
    problems: Sequence[Problem],
    policy: Any = None,
    *,
    problem_index: Sequence[int] | None = None,
    every_tokens: int = 32,
    cap_tokens: int = 480,
    temperature: float = 1.0,
    report: Callable[[int], None] = lambda num_problems: None,
) -> LiveRun:
    """Let the reasoner answer each problem once, stopped by a policy, or (without one) by itself.

    Args:
        key: of the noise: the same key draws the same traces, stopped or not.
        model: the reasoner.
        problems: what it is asked.
        policy: one that reads a `ThinkingObservation`; None for none.
        problem_index: A number for each problem, as of `sample`; by default its place.
        every_tokens: between decision points; a multiple of 32.
        cap_tokens: most tokens generated.
        temperature: of the sampling.
        report: called with the number of problems that have just been done.

    Raises:
        ValueError: as `sample`.
    """
    found = LiveRun(*(np.zeros(len(problems), dtype) for dtype in (bool, np.int32, np.int32, np.int32, bool)))

    def draw(batch: list[int]) -> tuple[Samples, "_Watch"]:
        asked = [problems[index] for index in batch]
        watch = _Watch(policy, len(asked), every_tokens)
        samples = sample_watched(
            key,
            model,
            np.array([prompt_tokens(problem) for problem in asked], np.int32),
            [index if problem_index is None else problem_index[index] for index in batch],
            1,
            max_tokens=cap_tokens,
            temperature=temperature,
            watch=watch,
            every_tokens=None if policy is None else every_tokens,
        )
        return samples, watch

    batches = batches_of([len(prompt_tokens(problem)) for problem in problems], BATCH_TRACES)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for batch, (samples, watch) in zip(batches, pool.map(draw, batches), strict=True):
            for row, index in enumerate(batch):
                length, stop = int(samples.length_tokens[row, 0]), watch.given[row]
                _, own = own_answer(samples.tokens[row, 0, :length])
                answer, cost = (own, 0) if stop is None else stop
                found.correct[index] = answer is not None and is_right(problems[index], answer)
                found.total_tokens[index] = length + cost + watch.paid[row]
                found.thought_tokens[index], found.probe_tokens[index] = length, watch.paid[row]
                found.stopped[index] = stop is not None
            report(len(batch))
    return found


class _Watch:
    """Applies the policy at each boundary; keeps which answers were given, and what was paid."""

    def __init__(self, policy: Any, num_traces: int, every_tokens: int) -> None:
        self.every_tokens = every_tokens
        self.given: list[tuple[str, int] | None] = [None] * num_traces  # an answer forced, and its tokens
        self.paid = np.zeros(num_traces, np.int32)
        self.labels: list[dict[str, int]] = [{} for _ in range(num_traces)]
        if policy is not None:
            self.rows = PolicyRows(policy, num_traces)

    def __call__(self, here: Boundary) -> np.ndarray:
        """Ask the policy about the traces that think, and return the places of those it stops."""
        everyone = np.arange(len(here.traces))
        if not here.position_tokens or not len(everyone):
            return everyone[:0]
        free = self._free(here)
        nothing = np.zeros(len(everyone), np.float32)
        unprobed = (np.zeros(len(everyone), bool), np.full(len(everyone), NO_ANSWER, np.int32), nothing, nothing)
        kind = self.rows.ask(ThinkingObservation(*free, *unprobed), here.traces)[0]
        forced: dict[int, tuple[str | None, int]] = {}
        probed = np.flatnonzero(kind == Kind.PROBE)
        if len(probed):
            answers = self._force(here, probed, forced)
            texts = [forced[place][0] for place in probed.tolist()]
            labels = [self._label(trace, text) for trace, text in zip(here.traces[probed], texts, strict=True)]
            seen = (
                np.ones(len(probed), bool),
                np.array(labels, np.int32),
                *(short(part) for part in (answers.mean_log_prob, answers.least_log_prob)),
            )
            shown = ThinkingObservation(*(part[probed] for part in free), *seen)
            kind[probed], _ = self.rows.ask(shown, here.traces[probed])
        stops = np.flatnonzero(kind == Kind.STOP)
        if len(unforced := stops[[place not in forced for place in stops]]):
            self._force(here, unforced, forced)
        stopped = []
        for place, (answer, cost) in forced.items():
            trace = here.traces[place]
            if kind[place] == Kind.STOP and vote_key(answer or "") is not None:
                self.given[trace] = (str(answer), cost)
                stopped.append(place)
            else:  # a probe, or no answer at all: paid, and the trace thinks on
                self.paid[trace] += cost
        return np.array(sorted(stopped), int)

    def _free(self, here: Boundary) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the signals at a boundary that need no probe, as `recording` keeps them."""
        position, traces = here.position_tokens, here.traces
        window = slice(max(position - self.every_tokens, 0), position)
        log_prob, entropy = (short(part[traces, window].mean(axis=1)) for part in (here.log_prob, here.entropy))
        candidates = np.count_nonzero(here.tokens[traces, :position] == YES, axis=1).astype(np.int32)
        return np.full(len(traces), position, np.int32), short(here.log_close_prob), log_prob, entropy, candidates

    def _force(self, here: Boundary, places: np.ndarray, forced: dict[int, tuple[str | None, int]]) -> Answers:
        answers = here.force(places)
        forced |= {place: forced_answer(tokens) for place, tokens in zip(places.tolist(), answers.tokens, strict=True)}
        return answers

    def _label(self, trace: int, answer: str | None) -> int:
        key = None if answer is None else vote_key(answer)
        known = self.labels[trace]
        return NO_ANSWER if key is None else known.setdefault(key, len(known))
