"""Random draws for use inside any jitted program: counter-based random words, then distributions by inversion.

Only `pairs` (or `words`) reads a key; everything else turns words and uniforms into draws. Which to use when:

- normal scores: `normal_pair` of two words; draws from any other distribution: `family.quantile(u, 1 - u)`;
- a truncated distribution: `Truncated`, around any family;
- the minimum of n or the first k: `least_normal`, `first_masses`, without drawing all n;
- counts among n: `binomial`, `beta_binomial`, one uniform per count, without drawing each vote;
- First Finish Search on one problem with log-normal lengths: `first_finish_totals` (`stopping.makespan` has the exact value).

All draws are float32, whether or not JAX's 64-bit mode is on, because a word has 32 bits.
"""

from sims.sampling.families import AbstractFamily, Gamma, InverseGaussian, LogNormal, Weibull
from sims.sampling.first_finish import (
    Race,
    Totals,
    first_finish_totals,
    least_of_all_traces,
    least_of_two_groups,
)
from sims.sampling.normals import normal_pair, normal_quantile
from sims.sampling.order_statistics import first_masses, least_masses, least_normal
from sims.sampling.threefry import exponential, pairs, uniform, words
from sims.sampling.truncation import Truncated
from sims.sampling.votes import CountDistribution, beta_binomial, binomial, binomials

__all__ = [
    "AbstractFamily",
    "CountDistribution",
    "Gamma",
    "InverseGaussian",
    "LogNormal",
    "Race",
    "Totals",
    "Truncated",
    "Weibull",
    "beta_binomial",
    "binomial",
    "binomials",
    "exponential",
    "first_finish_totals",
    "first_masses",
    "least_masses",
    "least_normal",
    "least_of_all_traces",
    "least_of_two_groups",
    "normal_pair",
    "normal_quantile",
    "pairs",
    "uniform",
    "words",
]
