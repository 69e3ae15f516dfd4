"""Random draws for use inside any jitted program: words by counter, then laws by their quantiles, without storing or looping.

A key is read in one place, `pairs` (or `words`); all else turns words and uniforms into draws. Which to use when:

- scores of a normal law: `normal_pair` of two words; of any other law, `family.quantile(u, 1 - u)`;
- a law between limits: `Truncated`, around any family;
- the least of n, or the k least: `least_normal`, `first_masses`, never all n;
- how many of n: `binomial`, `beta_binomial`, one uniform a count, never each vote;
- First Finish Search of one problem with log-normal lengths: `first_finish_totals` (`stopping.makespan` has its exact value).

All draws are float32, whether or not JAX's 64-bit mode is on: a word has 32 bits.
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
from sims.sampling.votes import CountLaw, beta_binomial, binomial, binomials

__all__ = [
    "AbstractFamily",
    "CountLaw",
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
