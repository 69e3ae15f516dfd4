"""What a log says about lengths, correctness and answers, problem by problem: sufficient for the fit, and no more.

Complete lengths enter the likelihood through their number, mean and scatter in each class, censored ones through how
many there are at each censoring point, votes through the sizes of their groups. A fit then costs by problems, not by
traces.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from stopping.traces import TraceLog

NO_CAP = 100.0  # log tokens, and as good as infinity, which would make derivatives NaN


class Statistics(NamedTuple):
    """Sufficient statistics of one data set; a problem without traces adds nothing. Lengths are in log tokens.

    NumPy arrays in float64 as they come from a log; on the device for the fit.

    Attributes:
        num_right, num_wrong: complete traces; `[problems]`.
        mean_right, mean_wrong: of their lengths, 0 for none.
        scatter_right, scatter_wrong: sums of squared deviations from these means.
        truncation_point: right traces end below it, the cap; `NO_CAP` without one; `[problems]`.
        num_censored: `[problems, points]`, at `censoring_point` `[problems, points]`.
        more_right, more_not_right, more_traces: problems with more than i of these, i = 0, 1, ...; `[steps]`.
        num_silent: complete wrong traces without an answer; `[]`.
        more_kinds, more_wrong, more_copies: what `Answers.log_likelihood` takes; `[steps]`.
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
    """Reduce a log to its statistics; traces of unknown correctness are left out.

    Args:
        log: lengths, correctness and, for the votes, answers.
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
    """Return the log's cap; where it states none, the longest trace if any is censored, and infinity if none is."""
    if log.cap_tokens is not None:
        return float(log.cap_tokens)
    return float(np.max(log.length_tokens, where=log.present, initial=1)) if log.censored.any() else np.inf


def stack(parts: Sequence[Statistics]) -> Statistics:
    """Put data sets side by side on a new first axis, padded with zeros, which add nothing.

    Sizes are rounded up to three binary digits, so that logs of like size share one compiled program.
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


def _more_than(least: int, most: int, counts: np.ndarray) -> Any:
    """How many of the counts exceed `least`, ..., `most`."""
    at_least = np.cumsum(np.bincount(counts, minlength=most + 2)[::-1])[::-1]
    return at_least[least + 1 : most + 2].astype(float)
