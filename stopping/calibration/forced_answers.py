"""Accuracy of forced answers, by their position and by the confidence of the model in them.

Forced answers are those of a log's checkpoints after the first token whose correctness is known. Standard errors are by
problem.
"""

from typing import NamedTuple

import numpy as np

from sims import Estimate
from stopping.traces import TraceLog

CONFIDENCE = "answer_mean_log_prob"  # its exponential: the geometric mean of the probabilities of the answer's tokens
MOST_POSITIONS = 20  # where there are more, positions are grouped in ranges with equally many forced answers
NUM_CONFIDENCE_BINS = 10  # of equal width
FEWEST_PROBLEMS = 20  # a group with fewer is left out


class Group(NamedTuple):
    """Forced answers at similar positions or with similar confidence.

    Attributes:
        centre: their mean position in tokens, or their mean confidence.
        right: share of them that are right.
        final: share of the same traces whose final answer is right.
        share: of all forced answers, the share in this group.
    """

    centre: float
    right: Estimate
    final: Estimate
    share: float


def by_position(log: TraceLog) -> tuple[Group, ...]:
    """Return a log's forced answers grouped by position; empty for a log without any."""
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
    """Return a log's forced answers grouped by the probability that the model gave them; empty if that was not logged."""
    chosen, confidence = _confidence(log)
    group = np.minimum(confidence * NUM_CONFIDENCE_BINS, NUM_CONFIDENCE_BINS - 1).astype(int)
    return _grouped(log, chosen, confidence, group)


def overconfidence(log: TraceLog) -> Estimate:
    """Return the mean probability of forced answers minus the share of them that are right; NaN if that was not logged."""
    chosen, confidence = _confidence(log)
    if log.checkpoints is None or not chosen.any():
        return Estimate(np.nan, np.nan, 0)
    return _share(log.checkpoints.problem_index[chosen], confidence - log.checkpoints.correct[chosen])


def _judged(log: TraceLog) -> np.ndarray:
    """Return which checkpoints are after the first token and judged, `[checkpoints]` bool."""
    probes = log.checkpoints
    there: np.ndarray = np.zeros(0, bool) if probes is None else probes.correct_known & (probes.position_tokens > 0)
    return there


def _confidence(log: TraceLog) -> tuple[np.ndarray, np.ndarray]:
    """Return which checkpoints have a confidence, `[checkpoints]` bool, and its values."""
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
    """Return the mean of values, with the error by problem; `owner` is the problem of each."""
    return Estimate.ratio(np.bincount(owner, values), np.bincount(owner))
