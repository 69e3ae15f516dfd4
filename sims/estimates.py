"""Estimates: means, ratios, quantiles and areas under curves, each with its standard error."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy.stats import norm, t

from sims.rounding import plus_minus

FEW = 100  # with fewer independent units, errors are bootstrapped
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error.

    Attributes:
        mean: the estimate, in the unit of what is estimated.
        standard_error: in the same unit; 0 for an exact value, infinite for a single unit.
        num_independent: number of independent units behind it.
    """

    mean: float
    standard_error: float
    num_independent: int

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Estimate the mean of independent values `[units]` in float64; with fewer than `FEW` units its error is bootstrapped.

        Resampling has a fixed seed, so the same values give the same estimate.

        Raises:
            ValueError: for no values.
        """
        values = np.asarray(values, np.float64)
        count = values.size
        if count == 0:
            raise ValueError("values: expected at least one, got none")
        mean = float(values.mean())
        if count == 1:
            return cls(mean, math.inf, 1)
        if count >= FEW:
            return cls(mean, float(values.std(ddof=1)) / math.sqrt(count), count)
        resampled = np.random.default_rng(0).integers(0, count, (NUM_RESAMPLES, count))
        inflated = math.sqrt(count / (count - 1))  # a bootstrap's variance is too small by (n - 1) / n
        return cls(mean, float(values[resampled].mean(axis=1).std()) * inflated, count)

    @classmethod
    def ratio(cls, numerator: np.ndarray, denominator: np.ndarray) -> Self:
        """Estimate a ratio of sums over independent units `[units]`, with its error by the delta method.

        Units with denominator 0 are not counted; nan where all are 0.
        """
        counted = np.asarray(denominator) != 0
        if not counted.any():
            return cls(math.nan, math.nan, 0)
        return cls.of(_linearised(np.asarray(numerator)[counted], np.asarray(denominator)[counted]))

    @classmethod
    def auc(cls, score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> Self:
        """Estimate the area under the ROC curve, P(a positive's score exceeds a negative's), ties counting half.

        Arrays are `[units, members]`; all pairs of members count, and units are independent.

        References:
            DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
            characteristic curves" (1988); for dependent members, Obuchowski, "Nonparametric analysis of
            clustered ROC curve data" (1997).
        """
        if not (positive.any() and negative.any()):
            return cls(math.nan, math.nan, 0)

        def share_below(others: np.ndarray) -> np.ndarray:
            ordered = np.sort(score[others])
            below, not_above = (np.searchsorted(ordered, score, side) for side in ("left", "right"))
            return (below + not_above) / (2 * len(ordered))

        beaten = _linearised(np.sum(share_below(negative), axis=1, where=positive), positive.sum(axis=1))
        beating = _linearised(np.sum(1 - share_below(positive), axis=1, where=negative), negative.sum(axis=1))
        return cls.of(beaten + beating - beaten.mean())  # both have the area as their mean

    @classmethod
    def quantile(cls, values: np.ndarray, prob: float) -> Self:
        """Estimate a quantile of independent values `[units]`.

        The error is half the distance between the quantiles one binomial standard error below and above `prob`, so no density is
        estimated (Conover, "Practical Nonparametric Statistics", 1999, section 3.2).

        Raises:
            ValueError: for no values, or a probability that is not between 0 and 1.
        """
        _require_inside(prob)
        ordered = np.sort(np.asarray(values, np.float64))
        count = ordered.size
        if count == 0:
            raise ValueError("values: expected at least one, got none")
        step = math.sqrt(prob * (1 - prob) / count)
        below, value, above = np.quantile(ordered, np.clip([prob - step, prob, prob + step], 0, 1))
        return cls(float(value), float(above - below) / 2, count)

    @classmethod
    def tail_mean(cls, values: np.ndarray, prob: float) -> Self:
        """Estimate the mean of the largest 1 - `prob` of independent values `[units]`: the expected shortfall, or CVaR.

        It is q + E[(x - q)+] / (1 - prob) at the quantile q, where it is flat in q, so the error of q does not matter to first
        order (Rockafellar and Uryasev, "Optimization of conditional value-at-risk", 2000).

        Raises:
            ValueError: as `quantile`.
        """
        quantile = cls.quantile(values, prob).mean
        return cls.of(quantile + np.maximum(np.asarray(values, np.float64) - quantile, 0) / (1 - prob))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval: normal, or Student's t with fewer than `FEW` units."""
        tail = (1 + confidence) / 2
        quantile = t.ppf(tail, self.num_independent - 1) if self.num_independent < FEW else norm.ppf(tail)
        half = float(quantile) * self.standard_error if self.standard_error else 0.0
        return self.mean - half, self.mean + half

    def as_dict(self) -> dict[str, Any]:
        """Return mean, standard error and number of units for JSON; an unknown error is None."""
        return asdict(self) | {"standard_error": self.standard_error if math.isfinite(self.standard_error) else None}

    def __str__(self) -> str:
        return plus_minus(self)


def _require_inside(prob: float) -> None:
    if not 0 < prob < 1:
        raise ValueError(f"prob: expected a number between 0 and 1, got {prob!r}")


def _linearised(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return values of units whose mean is the ratio of sums and has its variance to first order."""
    ratio = numerator.sum() / denominator.sum()
    values: np.ndarray = ratio + (numerator - ratio * denominator) / denominator.mean()
    return values
