"""Simultaneous confidence intervals, for curves and for the differences of a grid."""

from dataclasses import dataclass
from typing import Self

import numpy as np

NUM_DRAWS = 4000
MOST_UNITS = 8192  # enough for a critical value


@dataclass(frozen=True, eq=False)
class Band:
    """A curve with a simultaneous confidence band.

    Attributes:
        mean: the estimated curve, in the unit of what is estimated; `[points]`.
        standard_error: of each point, in the same unit.
        low, high: limits of the band.
        confidence: probability that the band contains the true curve at every point.
        critical: half-width in standard errors: 1.96 for one point at 95 %, more for many points; for a distribution function, in
            standard errors at the median.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: float
    critical: float

    @classmethod
    def of(cls, values: np.ndarray, confidence: float = 0.95) -> Self:
        """Return the band of the means of values `[units, points]` over independent units."""
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or len(values) < 2:
            raise ValueError(f"values: expected [units, points] with two units or more, got shape {values.shape}")
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        return cls.around(values.mean(axis=0), error, critical_value(values, confidence), confidence)

    @classmethod
    def around(cls, mean: np.ndarray, standard_error: np.ndarray, critical: float, confidence: float) -> Self:
        """Return the band of constant half-width in standard errors."""
        half = critical * standard_error
        return cls(mean, standard_error, mean - half, mean + half, confidence, critical)

    @classmethod
    def distribution(cls, values: np.ndarray, points: np.ndarray, confidence: float = 0.95) -> Self:
        """Return the empirical distribution function of independent values `[units]` at some points, with a band.

        The band is distribution-free, and its coverage holds in finite samples. The half-width is
        sqrt(log(2 / (1 - confidence)) / (2 units)) at every point.

        Reference: Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality", Annals of Probability (1990).

        Raises:
            ValueError: without values, or if the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
        values, points = np.sort(np.asarray(values).reshape(-1)), np.asarray(points).reshape(-1)
        if not len(values):
            raise ValueError("values: expected at least one, got none")
        share = np.searchsorted(values, points, side="right") / len(values)
        half = np.sqrt(np.log(2 / (1 - confidence)) / (2 * len(values)))
        error = np.sqrt(share * (1 - share) / len(values))
        low, high = np.maximum(share - half, 0), np.minimum(share + half, 1)
        return cls(share, error, low, high, confidence, float(2 * half * np.sqrt(len(values))))


def critical_value(values: np.ndarray, confidence: float) -> float:
    """Return the quantile of the maximum over points of |mean - truth| in standard errors, for values `[units, points]`.

    By the multiplier bootstrap: standard scores times one normal number per unit have the correlation of the means. Its Monte
    Carlo error is about .02 at 95 %; the draws have a fixed seed. Points that do not vary have no error and are left out.

    References:
        Chernozhukov, Chetverikov and Kato, "Gaussian approximations and multiplier bootstrap for maxima of sums of
        high-dimensional random vectors", Annals of Statistics (2013).

    Raises:
        ValueError: if the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    values = np.asarray(values, np.float32)[:MOST_UNITS]
    away, spread = values - values.mean(axis=0), values.std(axis=0)
    varied = spread > 1e-6 * np.abs(values).max(axis=0, initial=0)
    if not varied.any():
        return 0.0
    scores = away[:, varied] / spread[varied] / np.sqrt(np.float32(len(values)))
    random = np.random.default_rng(0)
    largest = [
        np.abs(random.standard_normal((NUM_DRAWS // 8, len(values)), np.float32) @ scores).max(axis=1) for _ in range(8)
    ]
    return float(np.quantile(np.concatenate(largest), confidence))
