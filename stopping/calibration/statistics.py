"""What a log says about lengths, correctness and answers, problem by problem: sufficient for the fit, and no more.

Complete lengths enter the likelihood through their number, mean and scatter in each class, censored ones through how many
there are at each censoring point, votes through the sizes of their groups. A fit then costs by problems, not by traces.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from stopping.traces import TraceLog


class Statistics(NamedTuple):
    """Sufficient statistics of one data set; a problem without traces adds nothing. Lengths are in log tokens.

    Attributes:
        num_right, num_wrong: complete traces; `[problems]`.
        mean_right, mean_wrong: of their lengths, 0 for none.
        scatter_right, scatter_wrong: sums of squared deviations from these means.
        num_censored: `[problems, points]`, at `censoring_point` `[problems, points]`.
        more_right, more_not_right, more_traces: problems with more than i of these, i = 0, 1, ...; `[steps]`.
        num_silent: complete wrong traces without an answer; `[]`.
        more_kinds, more_wrong, more_copies: what `Answers.log_likelihood` takes; `[steps]`.
    """

    num_right: Float[Array | np.ndarray, " problems"]
    num_wrong: Float[Array | np.ndarray, " problems"]
    mean_right: Float[Array | np.ndarray, " problems"]
    mean_wrong: Float[Array | np.ndarray, " problems"]
    scatter_right: Float[Array | np.ndarray, " problems"]
    scatter_wrong: Float[Array | np.ndarray, " problems"]
    num_censored: Float[Array | np.ndarray, "problems points"]
    censoring_point: Float[Array | np.ndarray, "problems points"]
    more_right: Float[Array | np.ndarray, " steps"]
    more_not_right: Float[Array | np.ndarray, " steps"]
    more_traces: Float[Array | np.ndarray, " steps"]
    num_silent: Float[Array | np.ndarray, ""]
    more_kinds: Float[Array | np.ndarray, " steps"]
    more_wrong: Float[Array | np.ndarray, " steps"]
    more_copies: Float[Array | np.ndarray, " steps"]


def statistics(log: TraceLog, *, pooled: bool = False) -> Statistics:
    """Reduce a log to its statistics; traces of unknown correctness are left out.

    Args:
        pooled: take all traces for one problem's (answers are compared within problems all the same).
    """
    known = log.present & log.correct_known
    right = known & log.correct
    censored = known & log.censored & ~right
    wrong = known & ~right & ~censored
    log_length = np.log(np.maximum(log.length_tokens, 1))
    lengths = (right, wrong, censored, log_length)
    if pooled:
        lengths = tuple(array.reshape(1, -1) for array in lengths)
    in_right, in_wrong, in_censored, length = lengths
    num_right, mean_right, scatter_right = _moments(length, in_right)
    num_wrong, mean_wrong, scatter_wrong = _moments(length, in_wrong)
    num_censored, censoring_point = _censoring(length, in_censored)
    num_samples = log.num_samples
    most = right.size if pooled else num_samples
    sizes = _group_sizes(np.where(wrong & log.answered & (log.answer >= 0), log.answer, -1))
    return Statistics(
        num_right, num_wrong, mean_right, mean_wrong, scatter_right, scatter_wrong, num_censored, censoring_point,
        more_right=_more_than(0, most, in_right.sum(axis=1)),
        more_not_right=_more_than(0, most, (in_wrong | in_censored).sum(axis=1)),
        more_traces=_more_than(0, most, (in_right | in_wrong | in_censored).sum(axis=1)),
        num_silent=np.asarray(float((wrong & ~log.answered).sum())),
        more_kinds=_more_than(1, num_samples, (sizes > 0).sum(axis=1)),
        more_wrong=_more_than(1, num_samples, sizes.sum(axis=1)),
        more_copies=_more_than(1, num_samples, sizes.reshape(-1)),
    )  # fmt: skip


def stack(parts: Sequence[Statistics]) -> Statistics:
    """Put data sets side by side on a new first axis, padded with zeros, which add nothing."""

    def pad(arrays: Sequence[np.ndarray]) -> np.ndarray:
        padded = np.zeros((len(arrays), *(max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True))))
        for index, array in enumerate(arrays):
            padded[(index, *(slice(size) for size in array.shape))] = array
        return padded

    return Statistics(*(pad(arrays) for arrays in zip(*parts, strict=True)))


def _moments(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = mask.sum(axis=1).astype(float)
    mean = np.where(mask, values, 0).sum(axis=1) / np.maximum(count, 1)
    return count, mean, np.where(mask, (values - mean[:, None]) ** 2, 0).sum(axis=1)


def _censoring(length: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the censored traces at each distinct point of each problem; one column where all share the cap."""
    counted = [np.unique(row[at], return_counts=True) for row, at in zip(length, mask, strict=True)]
    num_points = max(1, *(points.size for points, _ in counted))
    count, point = np.zeros((2, len(counted), num_points))
    for problem, (points, counts) in enumerate(counted):
        count[problem, : points.size], point[problem, : points.size] = counts, points
    return count, point


def _group_sizes(label: np.ndarray) -> np.ndarray:
    """How often each label occurs in its row, 0 for labels that do not; `[problems, samples]`, -1 is no label."""
    sizes = np.zeros(label.shape, int)
    np.add.at(sizes, (np.nonzero(label >= 0)[0], label[label >= 0]), 1)
    return sizes


def _more_than(least: int, most: int, counts: np.ndarray) -> np.ndarray:
    """How many of the counts exceed `least`, ..., `most`."""
    at_least = np.cumsum(np.bincount(counts, minlength=most + 2)[::-1])[::-1]
    return at_least[least + 1 : most + 2].astype(float)
