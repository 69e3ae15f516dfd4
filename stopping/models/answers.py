"""Which wrong answers agree: the two-parameter Ewens-Pitman distribution of random partitions.

Wrong answers arrive one by one. After m of them, in K different kinds with n_1 .. n_K copies, the next one

    repeats kind j   with probability (n_j - discount) / (m + concentration)
    is a new kind    with probability (concentration + discount K) / (m + concentration)

for 0 <= discount < 1 and concentration > -discount, or for discount < 0 and concentration = -discount * M: then there are
M kinds of wrong answer in all (three for a question with four choices).

Reference: Pitman, Exchangeable and Partially Exchangeable Random Partitions (1995), equation 16 (the distribution
of block sizes) and proposition 9 (the sequential construction).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from stopping.models.checks import require
from stopping.policies import NO_ANSWER

MAX_VOTES = 64


VALID = "discount in [0, 1) and concentration > -discount, or discount < 0 and concentration a multiple of -discount"


class Answers(eqx.Module):
    """The distribution of wrong answers.

    Attributes:
        discount: below 1.
        concentration: above -discount.

    Raises:
        ValueError: for parameters outside their range, except inside a compiled function, where values are not known.
    """

    discount: Float[Array, "..."]
    concentration: Float[Array, "..."]

    def __init__(self, discount: float | Array = 0.0, concentration: float | Array = 1.0) -> None:
        self.discount, self.concentration = jnp.asarray(discount, float), jnp.asarray(concentration, float)
        require(_is_valid, VALID, discount=self.discount, concentration=self.concentration)

    def draw(
        self, key: Key[Array, ""], right: Bool[Array, " traces"], answered: Bool[Array, " traces"]
    ) -> Int[Array, " traces"]:
        """Draw a label for each trace: the index of the first trace with the same answer, `NO_ANSWER` if it gave none."""
        return self.from_uniforms(jr.uniform(key, right.shape), right, answered)

    def from_uniforms(
        self, uniforms: Float[Array, " traces"], right: Bool[Array, " traces"], answered: Bool[Array, " traces"]
    ) -> Int[Array, " traces"]:
        """Return labels as a function of independent uniform numbers in (0, 1), one a trace, distributed as in `draw`."""
        indices = jnp.arange(right.shape[0])
        first_right = jnp.argmax(right)
        wrong = answered & ~right

        def seat(taken: tuple[Array, Array], trace: tuple) -> tuple[tuple[Array, Array], Array]:
            weight, num_kinds = taken  # weight: sum over the kinds first seen at this trace or before
            index, is_wrong, uniform = trace
            new_kind = jnp.maximum(self.concentration + self.discount * num_kinds, 0.0)
            at = uniform * (weight[-1] + new_kind)
            is_new = weight[-1] <= at
            label = jnp.where(is_new, index, jnp.sum(weight <= at))
            gain = jnp.where(is_wrong, 1 - jnp.where(is_new, self.discount, 0.0), 0.0)
            return (weight + jnp.where(indices >= label, gain, 0.0), num_kinds + (is_new & is_wrong)), label

        start = jnp.zeros(right.shape, uniforms.dtype), jnp.zeros((), indices.dtype)
        _, wrong_label = jax.lax.scan(seat, start, (indices, wrong, uniforms))
        label = jnp.where(right, first_right, wrong_label)
        return jnp.where(answered, label, NO_ANSWER).astype(jnp.int32)

    @partial(jax.jit, static_argnames="max_traces")
    def leads(self, max_traces: int) -> Float[Array, "right wrong"]:
        """Return P(the right answer has most votes) by its votes and the number of wrong answers, 0 to `max_traces` each.

        Ties are broken at random; breaking them by arrival is the same if arrival is independent of correctness. Without
        any votes it is 0.

        Kinds are added by size. Let P_s(n, k, t) be the chance that n wrong answers are of k kinds, t of them with s copies and
        none with more; its sum over t is P_{s+1}(n, k, 0), and

            P_s(n, k, t) = P_s(n - s, k - 1, t - 1) n! V(n, k) / ((n - s)! V(n - s, k - 1)) w(s) / (s! t)

        A right answer of s votes leads with the sum of P_s(n, k, t) / (t + 1) over k and t. All terms are positive: the
        error in single precision is below 5e-6.

        Source: the Gibbs form V(n, k) w(n_1) .. w(n_k) of the distribution, Gnedin and Pitman, Exchangeable Gibbs Partitions and
        Stirling Triangles (2005); here V(n, k) is the product of concentration + i discount, 0 < i < k, over that of
        concentration + i, 0 < i < n, and w(s) the product of i - discount, 0 < i < s.

        Raises:
            ValueError: beyond 64 traces, where the multinomial coefficients of `majority_curve` overflow single precision.
        """
        if max_traces > MAX_VOTES:
            raise ValueError(f"max_traces: expected at most {MAX_VOTES}, got {max_traces}; simulate instead")
        count = np.arange(max_traces + 1)
        size, times = np.argwhere(np.outer(count, count) <= max_traces)[count.size :].T
        new_kind, copies = self._joining(max_traces)

        def join(tables: tuple[Array, Array], block: tuple) -> tuple[tuple[Array, Array], Array]:
            below, last = tables  # `[wrong, kinds]` each: P_s summed over the t so far, and P_s at the latest t
            factor, size, times = block
            joined = jnp.roll(last, (size, 1), (0, 1)) * factor[:, None] * new_kind / jnp.maximum(times, 1)
            last = jnp.where(times == 0, below, joined)
            return (jnp.where(times == 0, below, below + last), last), jnp.sum(last, axis=1) / (times + 1)

        nobody = jnp.zeros((count.size, count.size), new_kind.dtype).at[0, 0].set(1)
        _, shares = jax.lax.scan(join, (nobody, nobody), (copies[size - 1], size, times))
        return jnp.zeros_like(nobody).at[size].add(shares)

    def _joining(self, most: int) -> tuple[Float[Array, " kinds"], Float[Array, "size wrong"]]:
        """Return the factors for adding a kind of 1 .. `most` copies: by number of kinds, and by its size and the answers.

        Their product is n! V(n, k) / ((n - s)! V(n - s, k - 1)) w(s) / s! in `leads`; 0 where there are too few answers.
        """
        i = jnp.arange(1, most, dtype=float)
        new_kind = jnp.concatenate([jnp.arange(2.0), jnp.maximum(self.concentration + i * self.discount, 0)])
        answer = jnp.concatenate([jnp.arange(2.0), (i + 1) / (self.concentration + i)])
        copy = jnp.concatenate([jnp.ones(1), (i - self.discount) / (i + 1)])[:most]
        size, wrong = np.ogrid[1 : most + 1, : most + 1]
        return new_kind[: most + 1], jnp.cumprod(copy[:, None] * answer[np.maximum(wrong - size + 1, 0)], axis=0)

    def _log_factors(self, num_wrong: int) -> tuple[Array, Array, Array]:
        """Return logs of concentration + i discount, concentration + i and i - discount, i = 1 .. num_wrong - 1."""
        i = jnp.arange(1, num_wrong, dtype=float)
        floor = (
            1e-15  # with finitely many kinds these may be zero or below: impossible, but second derivatives stay finite
        )
        return (
            jnp.log(jnp.maximum(self.concentration + i * self.discount, floor)),
            jnp.log(jnp.maximum(self.concentration + i, floor)),
            jnp.log(i - self.discount),
        )

    def log_block_weights(
        self, num_kinds: Int[Array, "..."], num_wrong: Int[Array, "..."], most: int
    ) -> Float[Array, "..."]:
        """Return the part of a partition's log-probability that depends on the numbers of kinds and answers, up to `most`."""
        new_kinds, totals, _ = self._log_factors(most + 1)
        table = lambda values: jnp.concatenate([jnp.zeros(2, values.dtype), jnp.cumsum(values)])  # noqa: E731
        return table(new_kinds)[num_kinds] - table(totals)[num_wrong]

    def log_copies(self, size: Int[Array, "..."], most: int) -> Float[Array, "..."]:
        """Return the part that depends on the number of copies of one kind, up to `most`; 0 for none."""
        copies = self._log_factors(most + 1)[2]
        return jnp.concatenate([jnp.zeros(2, copies.dtype), jnp.cumsum(copies)])[size]

    def log_likelihood(
        self,
        more_kinds: Float[Array, " steps"],
        more_wrong: Float[Array, " steps"],
        more_copies: Float[Array, " steps"],
    ) -> Float[Array, ""]:
        """Return the log-likelihood of many problems, for which these three counts are sufficient.

        Args:
            more_kinds: number of problems with more than i kinds of wrong answer, i = 1, 2, ...
            more_wrong: number of problems with more than i wrong answers.
            more_copies: number of kinds, over all problems, with more than i copies.
        """
        new_kinds, totals, copies = self._log_factors(more_kinds.shape[-1] + 1)
        return jnp.sum(more_kinds * new_kinds - more_wrong * totals + more_copies * copies)


def _is_valid(discount: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    endless = (discount >= 0) & (discount < 1) & (concentration > -discount)
    num_kinds = -concentration / np.where(discount < 0, discount, np.inf)
    return endless | (num_kinds > 0.5) & (np.abs(num_kinds - np.round(num_kinds)) < 1e-3 * num_kinds)
