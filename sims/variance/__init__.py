"""Variance reduction for Monte Carlo integration; the variance reduction factor is estimated in the same run.

An integrand takes uniform numbers, and a problem turns them into a world (`problem.from_uniforms`, `problem.num_uniforms`). Which
method to use:

- To compare two policies, always use one integrand that plays both on the same world and returns the difference.
- Where a step has a closed form, return the conditional expectation instead of the outcome (which answer comes first, given how
  many are right, has one). This never increases the variance, and combines with everything below.
- Use `Sobol()` in general; `LatinHypercube()` where powers of two do not fit, or where many coordinates contribute additively;
  `Antithetic()` where there are too few evaluations for replicates and the integrand is monotone.
- `controls` are components with known means that are correlated with the estimated ones.
- `log_weight` is for importance sampling of rare events. Read `warnings`, which report exploding weights.
- `mixture_expectations` estimates many expectations that need different samplers from one sample.
"""

from sims.variance.integration import Expectation, expectation
from sims.variance.mixture import mixture_expectations
from sims.variance.points import Antithetic, Independent, LatinHypercube, Sobol
from sims.variance.weights import WeightReport

__all__ = [
    "Antithetic",
    "Expectation",
    "Independent",
    "LatinHypercube",
    "Sobol",
    "WeightReport",
    "expectation",
    "mixture_expectations",
]
