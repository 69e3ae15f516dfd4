"""Whether a weighted mean can be relied on: how many of its terms carry it, and how heavy their tail is."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

FEW_TERMS = 30  # below so large an effective size, a normal interval says little
HEAVIEST_SHAPE = 0.7
LEAST_TAIL = 5  # terms to fit a tail to


@dataclass(frozen=True)
class WeightReport:
    """How evenly a sum is spread over its terms.

    Attributes:
        num_terms: how many there are.
        effective_size: (sum)^2 / sum of squares: so many equal terms would vary as much.
        largest_share: of the sum, by one term.
        pareto_shape: of the largest terms: from 1/2 on their variance is infinite, from 1 on their mean; nan where fewer
            than 25 terms, of which the largest fifth is looked at, are above 0.
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
        """Neither a mean of such terms nor its error can be relied on.

        Their shape is above min(.7, 1 - 1 / log10 of their number), or the effective size below 30.
        """
        limit = min(HEAVIEST_SHAPE, 1 - 1 / math.log10(max(self.num_terms, 2)))
        return self.effective_size < FEW_TERMS or self.pareto_shape > limit

    def __str__(self) -> str:
        return (
            f"effective size {self.effective_size:,.0f} of {self.num_terms:,}, largest share {self.largest_share:.1%}, "
            f"Pareto shape {self.pareto_shape:.2f}"
        )


def pareto_shape(terms: np.ndarray) -> float:
    """Shape of the generalised Pareto law of the largest of some terms >= 0 `[terms]`; those that are 0 do not count.

    The largest min(n / 5, 3 sqrt(n)) are taken. The estimate is a mean over a grid of likelihoods, drawn towards 1/2 as if by
    ten more terms. -inf where the largest are all equal: there is no tail.

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
