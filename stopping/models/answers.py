"""Which wrong answers agree: the two-parameter Ewens-Pitman law of random partitions.

Wrong answers arrive one by one. After m of them, in K different kinds with n_1 .. n_K copies, the next one

    repeats kind j   with probability (n_j - discount) / (m + concentration)
    is a new kind    with probability (concentration + discount K) / (m + concentration)

for 0 <= discount < 1 and concentration > -discount, or for discount < 0 and concentration = -discount * M: then there are
M kinds of wrong answer in all (three in a question with four choices).

Reference: Pitman, Exchangeable and Partially Exchangeable Random Partitions (1995), equation 16 (the law of the block
sizes) and proposition 9 (the sequential construction).
"""

from functools import lru_cache, partial
from math import lgamma

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from stopping.policies import NO_ANSWER

MAX_VOTES = 40  # 37,338 partitions


class Answers(eqx.Module):
    """The law of wrong answers.

    Attributes:
        discount: below 1.
        concentration: above -discount.
    """

    discount: Float[Array, "..."]
    concentration: Float[Array, "..."]

    def __init__(self, discount: float | Array = 0.0, concentration: float | Array = 1.0) -> None:
        self.discount, self.concentration = jnp.asarray(discount, float), jnp.asarray(concentration, float)

    def draw(
        self, key: Key[Array, ""], right: Bool[Array, " traces"], answered: Bool[Array, " traces"]
    ) -> Int[Array, " traces"]:
        """Draw a label for each trace: the index of the first trace with the same answer, `NO_ANSWER` if it gave none."""
        indices = jnp.arange(right.shape[0])
        first_right = jnp.argmax(right)
        uniforms = jr.uniform(key, right.shape)
        wrong = answered & ~right

        def seat(count: Int[Array, " traces"], trace: tuple) -> tuple[Array, Array]:
            index, is_wrong, uniform = trace
            taken = count > 0
            num_kinds = jnp.sum(taken)
            repeats = jnp.cumsum(jnp.where(taken, count - self.discount, 0.0))
            new_kind = jnp.maximum(self.concentration + self.discount * num_kinds, 0.0)
            at = uniform * (repeats[-1] + new_kind)
            chosen, is_new = jnp.argmax(repeats > at), repeats[-1] <= at
            label = jnp.where(is_new, index, chosen)
            return count.at[label].add(is_wrong.astype(count.dtype)), label

        _, wrong_label = jax.lax.scan(seat, jnp.zeros_like(indices), (indices, wrong, uniforms))
        label = jnp.where(right, first_right, wrong_label)
        return jnp.where(answered, label, NO_ANSWER).astype(jnp.int32)

    @partial(jax.jit, static_argnames="max_traces")
    def leads(self, max_traces: int) -> Float[Array, "right wrong"]:
        """P(the right answer has most votes), by its votes and the number of wrong answers, 0 to `max_traces` each.

        Ties are broken at random, as by arrival when arrival says nothing of correctness. With no votes at all: 0.

        Raises:
            ValueError: beyond 40 traces, where the partitions summed over become too many.
        """
        if max_traces > MAX_VOTES:
            raise ValueError(f"max_traces: expected at most {MAX_VOTES}, got {max_traces}; simulate instead")
        columns = [self._leads_against(num_wrong, max_traces) for num_wrong in range(max_traces + 1)]
        return jnp.stack(columns, axis=1)

    def _leads_against(self, num_wrong: int, max_traces: int) -> Float[Array, " right"]:
        right = np.arange(max_traces + 1)
        if num_wrong == 0:
            return jnp.asarray(right > 0, float)
        blocks, log_ways = _partitions(num_wrong)
        largest = blocks.max(axis=1)
        num_largest = (blocks == largest[:, None]).sum(axis=1)
        weight = np.where(right[:, None] == largest, 1.0 / (num_largest + 1.0), right[:, None] > largest)
        return jnp.asarray(weight, float) @ jnp.exp(jnp.asarray(log_ways, float) + self._log_prob(blocks))

    def _log_prob(self, blocks: np.ndarray) -> Float[Array, " partitions"]:
        """Log-probability of one partition with these block sizes `[partitions, blocks]` (0 for no block)."""
        num_wrong, num_kinds = int(blocks[0].sum()), (blocks > 0).sum(axis=1)
        steps = np.arange(1, num_wrong)
        new_kinds, totals, copies = self._log_factors(num_wrong)
        return (
            (steps < num_kinds[:, None]) @ new_kinds
            - jnp.sum(totals)
            + jnp.sum((steps < blocks[:, :, None]) @ copies, axis=1)
        )

    def _log_factors(self, num_wrong: int) -> tuple[Array, Array, Array]:
        """Logs of concentration + i discount, concentration + i and i - discount, i = 1 .. num_wrong - 1."""
        i = jnp.arange(1, num_wrong, dtype=float)
        floor = 1e-15  # finitely many kinds: zero or below, impossible, and still with finite second derivatives
        return (
            jnp.log(jnp.maximum(self.concentration + i * self.discount, floor)),
            jnp.log(jnp.maximum(self.concentration + i, floor)),
            jnp.log(i - self.discount),
        )

    def log_block_weights(
        self, num_kinds: Int[Array, "..."], num_wrong: Int[Array, "..."], most: int
    ) -> Float[Array, "..."]:
        """The part of a partition's log-probability that hangs on how many kinds and answers there are, up to `most`."""
        new_kinds, totals, _ = self._log_factors(most + 1)
        table = lambda values: jnp.concatenate([jnp.zeros(2, values.dtype), jnp.cumsum(values)])  # noqa: E731
        return table(new_kinds)[num_kinds] - table(totals)[num_wrong]

    def log_copies(self, size: Int[Array, "..."], most: int) -> Float[Array, "..."]:
        """The part that hangs on one kind's number of copies, up to `most`; 0 for none."""
        copies = self._log_factors(most + 1)[2]
        return jnp.concatenate([jnp.zeros(2, copies.dtype), jnp.cumsum(copies)])[size]

    def log_likelihood(
        self,
        more_kinds: Float[Array, " steps"],
        more_wrong: Float[Array, " steps"],
        more_copies: Float[Array, " steps"],
    ) -> Float[Array, ""]:
        """Log-likelihood of many problems from three counts, sufficient for the law.

        Args:
            more_kinds: problems with more than i kinds of wrong answer, i = 1, 2, ...
            more_wrong: problems with more than i wrong answers.
            more_copies: kinds, over all problems, with more than i copies.
        """
        new_kinds, totals, copies = self._log_factors(more_kinds.shape[-1] + 1)
        return jnp.sum(more_kinds * new_kinds - more_wrong * totals + more_copies * copies)


@lru_cache
def _partitions(total: int) -> tuple[np.ndarray, np.ndarray]:
    """All partitions of `total` into block sizes `[partitions, blocks]`, and the log-number of ways to form each."""

    def parts(rest: int, largest: int) -> list[list[int]]:
        if rest == 0:
            return [[]]
        return [[size, *tail] for size in range(min(rest, largest), 0, -1) for tail in parts(rest - size, size)]

    listed = parts(total, total)
    blocks = np.array([[*sizes, *[0] * (total - len(sizes))] for sizes in listed])
    log_ways = [
        lgamma(total + 1)
        - sum(lgamma(size + 1) for size in sizes)
        - sum(lgamma(sizes.count(size) + 1) for size in set(sizes))
        for sizes in listed
    ]
    return blocks, np.array(log_ways)
