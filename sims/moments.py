"""Counts, means and co-moments of a result's components: all that a long run keeps of its blocks."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from sims.estimates import Estimate


@dataclass(frozen=True, eq=False)
class Moments:
    """Of so many independent units; float64.

    Merging two adds rounding of some 1e-16 of each figure, so 10^6 blocks are merged without harm.

    Attributes:
        names: of the components.
        count: units.
        mean: `[components]`.
        comoment: sums of products of what is above the means, `[components, components]`.
        fourth: sums of fourth powers about a number near each mean, `[components]`: they tell how well an error is known.
    """

    names: tuple[str, ...]
    count: int
    mean: np.ndarray
    comoment: np.ndarray
    fourth: np.ndarray

    @classmethod
    def of(cls, names: tuple[str, ...], values: np.ndarray) -> Self:
        """Of values `[components, units]`."""
        values = np.asarray(values, np.float64)
        mean = values.mean(axis=1)
        away = values - mean[:, None]
        return cls(names, values.shape[1], mean, away @ away.T, np.sum(away**4, axis=1))

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets of units (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(self.names, count, mean, self.comoment + other.comoment + between, self.fourth + other.fourth)

    def estimate(self, name: str) -> Estimate:
        """The mean of a component."""
        index = self.names.index(name)
        return Estimate(float(self.mean[index]), self._error(self.comoment[index, index]), self.count)

    def largest_error(self, name: str) -> float:
        """The standard error of a component, were its variance two standard errors larger than it looks.

        With few of the events that matter a variance looks too small as often as too large, and by much: so a run that stops when
        its error looks small would stop by luck. infinity where the component has not varied at all.
        """
        index = self.names.index(name)
        square, error = self.comoment[index, index], self.estimate(name).standard_error
        if square <= 0:
            return math.inf
        kurtosis = self.fourth[index] * self.count / square**2
        return error * math.sqrt(1 + 2 * math.sqrt(max(kurtosis - 1, 0) / self.count))

    def ratio(self, numerator: str, denominator: str) -> Estimate:
        """The ratio of two means, with the error of its linearisation (delta method)."""
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
