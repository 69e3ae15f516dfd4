"""Sufficient statistics of a log, by problem, for the likelihoods of lengths, correctness and answers.

Complete lengths enter the likelihood by their number, mean and scatter in each class, censored lengths by their number at
each censoring point, votes by the sizes of their groups. The cost of a fit then grows with the number of problems and not
of traces.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from stopping.traces import TraceLog

NO_CAP = 100.0  # log tokens; replaces infinity, which would make derivatives NaN


class Statistics(NamedTuple):
    """Sufficient statistics of one data set, in log tokens. A problem without traces adds nothing.

    From a log they are NumPy arrays in float64; for the fit they are on the device.

    Attributes:
        num_right, num_wrong: number of complete traces; `[problems]`.
        mean_right, mean_wrong: means of their lengths, 0 if there are none.
        scatter_right, scatter_wrong: sums of squared deviations from these means.
        truncation_point: the cap, below which right traces end; `NO_CAP` without one; `[problems]`.
        num_censored: number of traces censored at each `censoring_point`; `[problems, points]` both.
        more_right, more_not_right, more_traces: number of problems with more than i of these, i = 0, 1, ...; `[steps]`.
        num_silent: number of complete wrong traces without an answer; `[]`.
        more_kinds, more_wrong, more_copies: arguments of `Answers.log_likelihood`; `[steps]`.
    """

    num_right: Float[Array, " problems"]
    num_wrong: Float[Array, " problems"]
    mean_right: Float[Array, " problems"]
    mean_wrong: Float[Array, " problems"]
    scatter_right: Float[Array, " problems"]
    scatter_wrong: Float[Array, " problems"]
    truncation_point: Float[Array, " problems"]
    num_censored: Float[Array, "problems points"]
    censoring_point: Float[Array, "problems points"]
    more_right: Float[Array, " steps"]
    more_not_right: Float[Array, " steps"]
    more_traces: Float[Array, " steps"]
    num_silent: Float[Array, ""]
    more_kinds: Float[Array, " steps"]
    more_wrong: Float[Array, " steps"]
    more_copies: Float[Array, " steps"]


def statistics(log: TraceLog, *, pooled: bool = False) -> Statistics:
    """Return the statistics of a log; traces of unknown correctness are left out.

    Args:
        log: lengths, correctness and, for the votes, answers.
        pooled: treat all traces as those of one problem; answers are still compared within problems.
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
    truncation_point: Any = np.full(num_right.shape, min(np.log(cap_of(log)), NO_CAP))
    num_samples = log.num_samples
    most = right.size if pooled else num_samples
    sizes = _group_sizes(np.where(wrong & log.answered & (log.answer >= 0), log.answer, -1))
    return Statistics(
        num_right, num_wrong, mean_right, mean_wrong, scatter_right, scatter_wrong,
        truncation_point, num_censored, censoring_point,
        more_right=_more_than(0, most, in_right.sum(axis=1)),
        more_not_right=_more_than(0, most, (in_wrong | in_censored).sum(axis=1)),
        more_traces=_more_than(0, most, (in_right | in_wrong | in_censored).sum(axis=1)),
        num_silent=_count(wrong & ~log.answered),
        more_kinds=_more_than(1, num_samples, (sizes > 0).sum(axis=1)),
        more_wrong=_more_than(1, num_samples, sizes.sum(axis=1)),
        more_copies=_more_than(1, num_samples, sizes.reshape(-1)),
    )  # fmt: skip


def cap_of(log: TraceLog) -> float:
    """Return the log's cap; if it states none, the longest length if any trace is censored, else infinity."""
    if log.cap_tokens is not None:
        return float(log.cap_tokens)
    return float(np.max(log.length_tokens, where=log.present, initial=1)) if log.censored.any() else np.inf


def stack(parts: Sequence[Statistics]) -> Statistics:
    """Stack data sets on a new first axis, padded with zeros, which add nothing.

    Sizes are rounded up to three binary digits, so that logs of similar size share one compiled program.
    """

    def pad(arrays: Sequence[Any]) -> Any:
        sizes = [_rounded_up(max(sizes)) for sizes in zip(*(array.shape for array in arrays), strict=True)]
        padded = np.zeros((len(arrays), *sizes))
        for index, array in enumerate(arrays):
            place: tuple[Any, ...] = (index, *(slice(size) for size in array.shape))
            padded[place] = array
        return padded

    return Statistics(*(pad(arrays) for arrays in zip(*parts, strict=True)))


def _rounded_up(size: int) -> int:
    step = 2 ** max(0, size.bit_length() - 3)
    return -(-size // step) * step


def _count(mask: np.ndarray) -> Any:
    return np.asarray(float(mask.sum()))


def _moments(values: np.ndarray, mask: np.ndarray) -> tuple[Any, Any, Any]:
    count = mask.sum(axis=1).astype(float)
    mean = np.where(mask, values, 0).sum(axis=1) / np.maximum(count, 1)
    return count, mean, np.where(mask, (values - mean[:, None]) ** 2, 0).sum(axis=1)


def _censoring(length: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
    """Return the number of censored traces at each distinct point of each problem; one column if all have the same cap."""
    counted = [np.unique(row[at], return_counts=True) for row, at in zip(length, mask, strict=True)]
    num_points = max(1, *(points.size for points, _ in counted))
    count, point = np.zeros((2, len(counted), num_points))
    for problem, (points, counts) in enumerate(counted):
        count[problem, : points.size], point[problem, : points.size] = counts, points
    return count, point


def _group_sizes(label: np.ndarray) -> np.ndarray:
    """Return how often each label occurs in its row, `[problems, samples]`; -1 is not a label."""
    sizes = np.zeros(label.shape, int)
    np.add.at(sizes, (np.nonzero(label >= 0)[0], label[label >= 0]), 1)
    return sizes


def _more_than(least: int, most: int, counts: np.ndarray) -> Any:
    """Return how many of the counts exceed `least`, ..., `most`."""
    at_least = np.cumsum(np.bincount(counts, minlength=most + 2)[::-1])[::-1]
    return at_least[least + 1 : most + 2].astype(float)
