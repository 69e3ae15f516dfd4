"""Truncated distributions."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from sims.sampling.families import AbstractFamily, parameter


class Truncated(AbstractFamily):
    """A family's distribution given that low < x < high, sampled by inversion, without rejection.

    The mass between the limits is a difference of lower masses, or of upper masses where the limits lie in the upper half, so it
    is accurate even far out in a tail.
    """

    family: AbstractFamily
    low: Float[Array, "..."] = eqx.field(converter=parameter)
    high: Float[Array, "..."] = eqx.field(converter=parameter)

    def masses(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:  # noqa: D102
        (below_low, above_low), (below_high, above_high), mass = self._limits()
        below, above = self.family.masses(jnp.clip(x, self.low, self.high))
        high_up = above_low < below_low
        under = jnp.where(high_up, above_low - above, below - below_low)
        over = jnp.where(high_up, above - above_high, below_high - below)
        return jnp.clip(under / mass, 0, 1), jnp.clip(over / mass, 0, 1)

    def log_density(self, x: Float[Array, "..."]) -> Float[Array, "..."]:  # noqa: D102
        inside = (x > self.low) & (x < self.high)
        density = self.family.log_density(jnp.where(inside, x, 1)) - jnp.log(self._limits()[2])
        return jnp.where(inside, density, -jnp.inf)

    def quantile(self, below: Float[Array, "..."], above: Float[Array, "..."] | None = None) -> Float[Array, "..."]:  # noqa: D102
        (below_low, _), (_, above_high), mass = self._limits()
        above = 1 - below if above is None else above
        x = self.family.quantile(below_low + below * mass, above_high + above * mass)
        return jnp.clip(x, self.low, self.high)

    def _limits(self) -> tuple[tuple[Array, Array], tuple[Array, Array], Array]:
        low, high = self.family.masses(self.low), self.family.masses(self.high)
        return low, high, jnp.where(low[1] < low[0], low[1] - high[1], high[0] - low[0])
