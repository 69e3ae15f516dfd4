"""Answers forced on the way: how often they are right, by where they were forced and by the confidence shown in them.

They are those of a log's checkpoints past the first token whose correctness is known. Errors are by problem.
"""

from typing import NamedTuple

import numpy as np

from sims import Estimate
from stopping.traces import TraceLog

CONFIDENCE = "answer_mean_log_prob"  # its exponential: the geometric mean of the probabilities of the answer's tokens
MOST_POSITIONS = 20  # told apart; where there are more, ranges with equally many forced answers
NUM_CONFIDENCE_BINS = 10  # of equal width
FEWEST_PROBLEMS = 20  # behind a share; one of fewer is left out


class Group(NamedTuple):
    """Forced answers that are alike.

    Attributes:
        centre: mean of what they are alike in, tokens or a probability.
        right: share of them that are right.
        final: share of the same traces, left alone, that end with a right answer.
        share: of all forced answers, how many are in this group.
    """

    centre: float
    right: Estimate
    final: Estimate
    share: float


def by_position(log: TraceLog) -> tuple[Group, ...]:
    """Group a log's forced answers by the tokens thought before them; empty for a log without any."""
    chosen = _judged(log)
    if log.checkpoints is None or not chosen.any():
        return ()
    position = log.checkpoints.position_tokens[chosen]
    places, group = np.unique(position, return_inverse=True)
    if len(places) > MOST_POSITIONS:
        edges = np.quantile(position, np.arange(1, MOST_POSITIONS) / MOST_POSITIONS)
        group = np.searchsorted(edges, position)
    return _grouped(log, chosen, position, group)


def by_confidence(log: TraceLog) -> tuple[Group, ...]:
    """Group a log's forced answers by the probability that the model gave them; empty where the log has none."""
    chosen, confidence = _confidence(log)
    group = np.minimum(confidence * NUM_CONFIDENCE_BINS, NUM_CONFIDENCE_BINS - 1).astype(int)
    return _grouped(log, chosen, confidence, group)


def overconfidence(log: TraceLog) -> Estimate:
    """By how much the mean probability exceeds the share of forced answers that are right; nan where the log has none."""
    chosen, confidence = _confidence(log)
    if log.checkpoints is None or not chosen.any():
        return Estimate(np.nan, np.nan, 0)
    return _share(log.checkpoints.problem_index[chosen], confidence - log.checkpoints.correct[chosen])


def _judged(log: TraceLog) -> np.ndarray:
    """`[checkpoints]` bool."""
    probes = log.checkpoints
    there: np.ndarray = np.zeros(0, bool) if probes is None else probes.correct_known & (probes.position_tokens > 0)
    return there


def _confidence(log: TraceLog) -> tuple[np.ndarray, np.ndarray]:
    """Which checkpoints have one, `[checkpoints]` bool, and theirs."""
    chosen = _judged(log)
    if log.checkpoints is None or CONFIDENCE not in log.checkpoints.signals:
        return np.zeros_like(chosen), np.zeros(0)
    log_prob = log.checkpoints.signals[CONFIDENCE]
    chosen = chosen & np.isfinite(log_prob)
    return chosen, np.exp(np.minimum(log_prob[chosen], 0))


def _grouped(log: TraceLog, chosen: np.ndarray, values: np.ndarray, group: np.ndarray) -> tuple[Group, ...]:
    probes = log.checkpoints
    if probes is None:
        return ()
    problem, sample = probes.problem_index[chosen], probes.sample_index[chosen]
    right, final = probes.correct[chosen], log.correct[problem, sample]
    found = []
    for index in np.unique(group):
        inside = group == index
        owner = problem[inside]
        if len(np.unique(owner)) >= FEWEST_PROBLEMS:
            shares = _share(owner, right[inside]), _share(owner, final[inside])
            found.append(Group(float(values[inside].mean()), *shares, float(inside.mean())))
    return tuple(found)


def _share(owner: np.ndarray, values: np.ndarray) -> Estimate:
    """Mean of values, each of them a problem's."""
    return Estimate.ratio(np.bincount(owner, values), np.bincount(owner))
