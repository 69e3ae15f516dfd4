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
    """

    names: tuple[str, ...]
    count: int
    mean: np.ndarray
    comoment: np.ndarray

    @classmethod
    def none(cls, names: tuple[str, ...]) -> Self:
        """Of no units yet."""
        return cls(names, 0, np.zeros(len(names)), np.zeros((len(names), len(names))))

    @classmethod
    def of(cls, names: tuple[str, ...], values: np.ndarray) -> Self:
        """Of values `[components, units]`."""
        values = np.asarray(values, np.float64)
        mean = values.mean(axis=1)
        away = values - mean[:, None]
        return cls(names, values.shape[1], mean, away @ away.T)

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets of units (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(self.names, count, mean, self.comoment + other.comoment + between)

    def estimate(self, name: str) -> Estimate:
        """The mean of a component."""
        index = self.names.index(name)
        return Estimate(float(self.mean[index]), self._error(self.comoment[index, index]), self.count)

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
