"""Distributions of positive quantities (lengths, times), sampled by inversion: log-normal, Weibull, gamma, inverse Gaussian.

A draw is `family.quantile(u, 1 - u)`. Masses come in pairs, below and above, each accurate where it is small, so order
statistics, truncation and far tails lose no digits. Draws of two families from the same uniform are maximally correlated. For
plain gamma draws without any of this, use `jax.random.gamma`, which rejects; only inversion is implemented here.

Gamma and inverse Gaussian are solved for log x by Halley's iteration on the logarithm of the smaller mass, a fixed number of
steps from a start in closed form.
"""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaincc, gammaln, log_ndtr, ndtr
from jaxtyping import Array, Float

from sims.sampling.normals import horner, normal_quantile

GAMMA_STEPS = 2  # error 1e-9 in exact arithmetic, for shapes from .05 to 1,000 and masses from 1e-7
INVERSE_GAUSSIAN_STEPS = 4  # 1e-13, for the same ratios of shape to mean
LONGEST_STEP = 2.0  # of log x


def parameter(value: float | Array) -> Float[Array, "..."]:
    """Make an array of a parameter, in JAX's default precision."""
    return jnp.asarray(value, float)


class AbstractFamily(eqx.Module):
    """A distribution on the positive numbers; parameters are positive (except a log-normal's mean) and broadcast elementwise."""

    @abstractmethod
    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Return the masses below and above x, for x from 0 to infinity."""

    @abstractmethod
    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the logarithm of the density at x > 0."""

    @abstractmethod
    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Return the x with this mass below it; give the mass above it too where it may be small (default 1 - below)."""

    def survival(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the mass above x."""
        return self.masses(x)[1]


class LogNormal(AbstractFamily):
    """log x ~ Normal(mean, scale)."""

    mean: Float[Array, "..."] = eqx.field(converter=parameter)
    scale: Float[Array, "..."] = eqx.field(converter=parameter)

    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:  # noqa: D102
        z = (jnp.log(x) - self.mean) / self.scale
        return ndtr(z), ndtr(-z)

    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:  # noqa: D102
        z = (jnp.log(x) - self.mean) / self.scale
        return -0.5 * z * z - jnp.log(self.scale * x) - 0.5 * np.log(2 * np.pi)

    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Relative error 1e-6 times 1 + |log x| in float32."""
        return jnp.exp(self.mean + self.scale * normal_quantile(*_both(below, above)))


class Weibull(AbstractFamily):
    """P(X > x) = exp(-(x / scale)^shape)."""

    shape: Float[Array, "..."] = eqx.field(converter=parameter)
    scale: Float[Array, "..."] = eqx.field(converter=parameter)

    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:  # noqa: D102
        hazard = (x / self.scale) ** self.shape
        return -jnp.expm1(-hazard), jnp.exp(-hazard)

    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:  # noqa: D102
        log_ratio = jnp.log(x / self.scale)
        return jnp.log(self.shape / x) + self.shape * log_ratio - jnp.exp(self.shape * log_ratio)

    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Relative error 1e-6 times 1 + |log(x / scale)| in float32."""
        below, above = _both(below, above)
        hazard = jnp.where(below < above, -jnp.log1p(-below), -jnp.log(above))
        return self.scale * hazard ** (1 / jnp.asarray(self.shape, hazard.dtype))


class Gamma(AbstractFamily):
    """Density x^(shape - 1) exp(-x / scale) up to a constant."""

    shape: Float[Array, "..."] = eqx.field(converter=parameter)
    scale: Float[Array, "..."] = eqx.field(converter=parameter)

    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:  # noqa: D102
        return gammainc(self.shape, x / self.scale), gammaincc(self.shape, x / self.scale)

    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:  # noqa: D102
        y = x / self.scale
        return (self.shape - 1) * jnp.log(y) - y - gammaln(self.shape) - jnp.log(self.scale)

    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Relative error 3e-5 in float32, for shapes from .05 to 1,000 and masses from 1e-7; 0 below 1e-37 scales.

        Start: Wilson and Hilferty, "The distribution of chi-square" (1931); far below, the leading terms of the series.
        """
        below, above = _both(below, above)
        unit = Gamma(jnp.asarray(self.shape, below.dtype), jnp.ones((), below.dtype))
        shape = unit.shape
        cube_root = 1 - 1 / (9 * shape) + normal_quantile(below, above) / (3 * jnp.sqrt(shape))
        middle = jnp.log(shape) + 3 * jnp.log(jnp.maximum(cube_root, 1e-3))
        series = (jnp.log(below) + gammaln(shape + 1)) / shape
        is_far_below = jnp.where(shape < 0.6, series < jnp.log(0.3 * (shape + 1)), cube_root < 0.3)
        start = jnp.where(is_far_below, series + jnp.exp(jnp.minimum(series, 0)) / (shape + 1), middle)
        return self.scale * _halley(start, below, above, unit, lambda x: shape - x, GAMMA_STEPS)


class InverseGaussian(AbstractFamily):
    """When a Brownian motion with drift 1 / mean and variance 1 / shape first reaches 1: mean `mean`, variance mean^3 / shape."""

    mean: Float[Array, "..."] = eqx.field(converter=parameter)
    shape: Float[Array, "..."] = eqx.field(converter=parameter)

    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Phi(a) + exp(2 shape / mean) Phi(-b), with a, b = sqrt(shape / x) (x / mean -+ 1).

        Both terms have the factor exp(-a^2 / 2), for b^2 - a^2 = 4 shape / mean; the rest is Mills' ratio.

        Source: Shuster, "On the inverse Gaussian distribution function" (1968).
        """
        x = jnp.asarray(x, jnp.result_type(x, float))
        limits = jnp.finfo(x.dtype)
        x = jnp.clip(x, limits.tiny, limits.max)
        root = jnp.sqrt(self.shape / x)
        a, b = root * (x / self.mean - 1), root * (x / self.mean + 1)
        kernel = jnp.exp(-0.5 * a * a) / np.sqrt(2 * np.pi)
        near, far = _mills(jnp.abs(a)), _mills(b)
        smaller = kernel * jnp.where(a < 0, near + far, near - far)
        return jnp.where(a < 0, smaller, 1 - smaller), jnp.where(a < 0, 1 - smaller, smaller)

    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:  # noqa: D102
        z = (x / self.mean - 1) * jnp.sqrt(self.shape / x)
        return 0.5 * (jnp.log(self.shape) - 3 * jnp.log(x) - z * z - np.log(2 * np.pi))

    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Relative error 1e-5 in float32, for shape / mean from .05 to 1,000 and masses from 1e-7.

        Start: a of `masses` is the normal score, that is sinh(log(x / mean) / 2) = z / sqrt(4 shape / mean).
        """
        below, above = _both(below, above)
        ratio = jnp.asarray(self.shape / self.mean, below.dtype)
        unit = InverseGaussian(jnp.ones((), below.dtype), ratio)
        start = 2 * jnp.arcsinh(normal_quantile(below, above) / (2 * jnp.sqrt(ratio)))
        bend = lambda x: -0.5 - 0.5 * ratio * (x - 1 / x)  # noqa: E731
        return self.mean * _halley(start, below, above, unit, bend, INVERSE_GAUSSIAN_STEPS)


def _both(below: Float[Array, "..."], above: Float[Array, "..."] | None) -> tuple[Array, Array]:
    below = jnp.asarray(below)
    return below, 1 - below if above is None else jnp.asarray(above)


def _halley(
    start: Array, below: Array, above: Array, family: AbstractFamily, bend: Callable[[Array], Array], num_steps: int
) -> Array:
    """Solve log(mass of x) = log(the smaller mass) for x = exp(t); `bend` is d log(x density(x)) / dt."""
    sign = jnp.where(below < above, 1.0, -1.0).astype(start.dtype)
    target = jnp.minimum(below, above)
    t = start
    for _ in range(num_steps):
        x = jnp.exp(t)
        masses = family.masses(x)
        mass = jnp.where(below < above, *masses)
        known = (mass > 0) & (x > 0)  # otherwise x is out of range, and the start value is kept
        mass, x = jnp.where(known, mass, target), jnp.where(known, x, 1)
        slope = sign * jnp.exp(family.log_density(x) + jnp.log(x)) / mass
        newton = jnp.log(mass / target) / slope
        step = newton / jnp.maximum(1 - 0.5 * newton * (bend(x) - slope), 0.3)
        t = t - jnp.where(known, jnp.clip(step, -LONGEST_STEP, LONGEST_STEP), 0)
    return jnp.exp(t)


def _mills(z: Array) -> Array:
    """Mills' ratio of z >= 0: in float32 a polynomial in 1 / (1 + .3 z), fitted to `scipy.special.erfcx` (error 1e-7)."""
    if z.dtype == jnp.float64:
        z = jnp.minimum(z, 1e4)
        return jnp.exp(log_ndtr(-z) + 0.5 * z * z + 0.5 * np.log(2 * np.pi))
    t = 1 / (1 + np.float32(0.3) * z)
    return t * horner(_MILLS, t)


_MILLS = (
    0.3000000285, 0.2999933494, 0.2732515721, 0.2153688645, 0.1714215554,
    -0.0389449555, 0.2496239189, -0.3690812900, 0.1828330600, -0.0311518469,
)  # fmt: skip
