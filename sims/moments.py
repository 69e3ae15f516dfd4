"""Counts, means and co-moments of a result's components, which a long run keeps instead of its values."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from sims.estimates import Estimate


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of components over independent units; float64.

    Merging adds a relative rounding error of about 1e-16, so 10^6 blocks can be merged safely.

    Attributes:
        names: of the components.
        count: number of units.
        mean: in each component's unit, `[components]`.
        comoment: sums of products of deviations from the means, `[components, components]`.
        fourth: sums of fourth powers of deviations from a number near each mean, `[components]`; they give the error of a
            variance.
    """

    names: tuple[str, ...]
    count: int
    mean: np.ndarray
    comoment: np.ndarray
    fourth: np.ndarray

    @classmethod
    def of(cls, names: tuple[str, ...], values: np.ndarray) -> Self:
        """Return the moments of values `[components, units]`."""
        values = np.asarray(values, np.float64)
        mean = values.mean(axis=1)
        away = values - mean[:, None]
        return cls(names, values.shape[1], mean, away @ away.T, np.sum(away**4, axis=1))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of units together.

        Reference: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm" (1979).
        """
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(self.names, count, mean, self.comoment + other.comoment + between, self.fourth + other.fourth)

    def estimate(self, name: str) -> Estimate:
        """Return the mean of a component."""
        index = self.names.index(name)
        return Estimate(float(self.mean[index]), self._error(self.comoment[index, index]), self.count)

    def largest_error(self, name: str) -> float:
        """Return an upper bound on the standard error of a component: with its variance two standard errors above the estimate.

        With few observations of the events that matter, a variance is often badly underestimated, and a run that stops when
        its estimated error is small would stop by luck. Infinite where the component has not varied.
        """
        index = self.names.index(name)
        square, error = self.comoment[index, index], self.estimate(name).standard_error
        if square <= 0:
            return math.inf
        kurtosis = self.fourth[index] * self.count / square**2
        return error * math.sqrt(1 + 2 * math.sqrt(max(kurtosis - 1, 0) / self.count))

    def ratio(self, numerator: str, denominator: str) -> Estimate:
        """Return the ratio of two means, with its error by the delta method."""
        above, below = self.names.index(numerator), self.names.index(denominator)
        if self.mean[below] == 0:
            return Estimate(math.nan, math.nan, 0)
        ratio = self.mean[above] / self.mean[below]
        direction = np.zeros(len(self.names))
        direction[above] += 1
        direction[below] -= ratio
        error = self._error(float(direction @ self.comoment @ direction)) / abs(self.mean[below])
        return Estimate(float(ratio), error, self.count)

    def _error(self, square: float) -> float:
        if self.count < 2:
            return math.inf
        return math.sqrt(max(square, 0.0) / (self.count - 1) / self.count)
