"""Less variance for the same number of evaluations, and the factor measured.

An integrand takes uniform numbers; a problem makes a world of them (`problem.from_uniforms`, `problem.num_uniforms`). Which
method when:

- two policies: one integrand that plays both on the same world and returns the difference. Always.
- a step that has a closed form: integrate it there, and return the conditional expectation instead of the outcome (which
  answer comes first, given how many are right, has one). It never makes the variance larger, and goes with all that follows.
- `Sobol()` in general; `LatinHypercube()` where its powers of two do not fit or many coordinates matter each by itself;
  `Antithetic()` where no replicates can be afforded and the integrand is monotone.
- `controls`: components with known means that go along with what is estimated.
- `log_weight`: what is rare under the target, drawn where it happens. Read `warnings`: weights that explode are said.
- `mixture_expectations`: many expectations that want different samplers, from one sample.
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
