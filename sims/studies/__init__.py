"""Studies: questions put to the library by name, each answered with a table and pictures that can be made again."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sims.estimates import Estimate


class Part(NamedTuple):
    """One question, a table `rows[name] = Estimate` and a picture."""

    question: str
    rows: dict[str, Estimate]
    figure: Figure


def exact(value: float) -> Estimate:
    """A figure without chance in it, of a formula or an integral; to three decimals, which single precision is good for."""
    return Estimate(round(float(value), 3) + 0.0, 0.0, 1)


def crossing(places: Sequence[float] | np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[float, float] | None:
    """Where a curve falls to 0 for good, and the standard error of that; None if it never is above, or still is at the end.

    Between two places it is taken for a straight line. The error is the curve's over its slope (delta method).
    """
    above = np.flatnonzero(means > 0)
    if not above.size or above[-1] == len(places) - 1:
        return None
    first, second = above[-1], above[-1] + 1
    share = means[first] / (means[first] - means[second])
    slope = (means[second] - means[first]) / (places[second] - places[first])
    error = (1 - share) * errors[first] + share * errors[second]  # the two go together: at most this
    return float(places[first] + share * (places[second] - places[first])), float(error / abs(slope))
