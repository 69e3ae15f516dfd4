"""Diagnostics of importance weights: effective sample size and the shape of the tail."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

FEW_TERMS = 30  # with a smaller effective size, a normal interval is unreliable
HEAVIEST_SHAPE = 0.7
LEAST_TAIL = 5  # terms to fit a tail to


@dataclass(frozen=True)
class WeightReport:
    """How evenly a sum is spread over its terms.

    Attributes:
        num_terms: how many there are.
        effective_size: (sum)^2 / sum of squares, the number of equal terms with the same relative variance.
        largest_share: share of the sum that is the largest term's.
        pareto_shape: shape of the tail: from 1/2 on the variance is infinite, from 1 on the mean. nan with fewer than 25
            positive terms, because only the largest fifth is used.
    """

    num_terms: int
    effective_size: float
    largest_share: float
    pareto_shape: float

    @classmethod
    def of(cls, terms: np.ndarray) -> Self:
        """Report on terms >= 0 `[terms]`, on any scale."""
        largest = terms.max(initial=0.0)
        if largest == 0:
            return cls(terms.size, 0.0, math.nan, math.nan)
        terms = terms / largest  # squares stay within float64
        total = terms.sum()
        return cls(terms.size, float(total**2 / (terms @ terms)), float(1 / total), pareto_shape(terms))

    @property
    def explodes(self) -> bool:
        """Whether the mean of such terms and its error are unreliable.

        True if the shape is above min(.7, 1 - 1 / log10 of the number of terms), or the effective size below 30.
        """
        limit = min(HEAVIEST_SHAPE, 1 - 1 / math.log10(max(self.num_terms, 2)))
        return self.effective_size < FEW_TERMS or self.pareto_shape > limit

    def __str__(self) -> str:
        return (
            f"effective size {self.effective_size:,.0f} of {self.num_terms:,}, largest share {self.largest_share:.1%}, "
            f"Pareto shape {self.pareto_shape:.2f}"
        )


def pareto_shape(terms: np.ndarray) -> float:
    """Return the shape of the generalised Pareto distribution fitted to the largest of the positive terms; terms >= 0 `[terms]`.

    The largest min(n / 5, 3 sqrt(n)) are used. The estimate is a posterior mean over a grid, shrunk towards 1/2 by a prior worth
    ten terms. -inf where the largest are all equal, so that there is no tail.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024), section 3 and appendix G; Zhang
        and Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009).
    """
    terms = np.sort(terms[terms > 0])
    size = int(min(0.2 * terms.size, 3 * math.sqrt(terms.size)))
    if size < LEAST_TAIL:
        return math.nan
    excess = terms[-size:] - terms[-size - 1]
    excess = excess[excess > 0]
    if excess.size < LEAST_TAIL:
        return -math.inf
    size = excess.size
    num_grid = 30 + int(math.sqrt(size))
    quartile = excess[int(size / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(num_grid / (np.arange(1, num_grid + 1) - 0.5))) / (3 * quartile)
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
    log_likelihood = size * (np.log(-theta / shape) - shape - 1)
    weight = np.exp(log_likelihood - log_likelihood.max())
    best = float(theta @ weight / weight.sum())
    found = float(np.log1p(-best * excess).mean())
    return (size * found + 10 * 0.5) / (size + 10)
