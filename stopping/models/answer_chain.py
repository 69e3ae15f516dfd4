"""A Markov chain of answers along a thought: at each decision point the answer is right or wrong.

For a trace that is still thinking at its k-th decision point, k = 1, 2, ...,

    P(right at 1) = first_right_prob
    P(right at k + 1 | wrong at k) = repair_prob = u,    P(wrong at k + 1 | right at k) = break_prob = d
    p_k = P(right at k) = p + (p_1 - p) (1 - u - d)^(k - 1),    p = u / (u + d)

and after each decision point but the last the thought ends with probability `close_prob`, with the answer that a probe there
would have given; after the last it always ends. The log-probability of a probe's answer is normal, with one mean for right
answers and one for wrong ones, and clipped at 0.

Reference: the transition types of First Try Matters (arXiv 2510.08308), as a two-state chain. The closed form holds for any
two-state chain.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Int, Key

from stopping.models.checks import require
from stopping.policies import NO_ANSWER

NEVER = 2**30


class Thought(NamedTuple):
    """A drawn trace, with fields as in `problems.ThinkingWorld`."""

    length_tokens: Int[Array, ""]
    right: Bool[Array, ""]
    answer: Int[Array, ""]
    position_tokens: Int[Array, " points"]
    probe_answer: Int[Array, " points"]
    probe_right: Bool[Array, " points"]
    probe_cost_tokens: Int[Array, " points"]
    signals: dict[str, Float[Array, " points"]]


class AnswerChain(eqx.Module):
    """The chain of answers along a thought.

    Attributes:
        first_right_prob, repair_prob, break_prob, close_prob: as above; each in [0, 1].
        right_log_prob, wrong_log_prob, log_prob_scale: means and standard deviation of the log-probability of a probe's answer.
        gap_tokens: tokens between decision points, and before the first.
        answer_tokens: tokens of closing tag and answer.
        num_points: number of decision points of the longest trace.

    Raises:
        ValueError: for a parameter outside its range, except inside a compiled function, where values are not known.
    """

    first_right_prob: Float[Array, ""]
    repair_prob: Float[Array, ""]
    break_prob: Float[Array, ""]
    close_prob: Float[Array, ""]
    right_log_prob: Float[Array, ""]
    wrong_log_prob: Float[Array, ""]
    log_prob_scale: Float[Array, ""]
    gap_tokens: int = eqx.field(static=True)
    answer_tokens: int = eqx.field(static=True)
    num_points: int = eqx.field(static=True)

    def __init__(
        self,
        first_right_prob: float | Array,
        repair_prob: float | Array,
        break_prob: float | Array,
        close_prob: float | Array = 0.0,
        *,
        right_log_prob: float | Array = 0.0,
        wrong_log_prob: float | Array = 0.0,
        log_prob_scale: float | Array = 1.0,
        gap_tokens: int = 32,
        answer_tokens: int = 10,
        num_points: int = 16,
    ) -> None:
        self.first_right_prob, self.repair_prob, self.break_prob, self.close_prob = (
            jnp.asarray(value, float) for value in (first_right_prob, repair_prob, break_prob, close_prob)
        )
        self.right_log_prob, self.wrong_log_prob, self.log_prob_scale = (
            jnp.asarray(value, float) for value in (right_log_prob, wrong_log_prob, log_prob_scale)
        )
        for name in ("first_right_prob", "repair_prob", "break_prob", "close_prob"):
            require(lambda value: (value >= 0) & (value <= 1), "a probability", **{name: getattr(self, name)})
        require(lambda value: value > 0, "a positive number", log_prob_scale=self.log_prob_scale)
        for name, count in (("gap_tokens", gap_tokens), ("answer_tokens", answer_tokens), ("num_points", num_points)):
            require(lambda value: value >= 1, "a number >= 1", **{name: count})
        self.gap_tokens, self.answer_tokens, self.num_points = gap_tokens, answer_tokens, num_points

    def right_prob(self) -> Float[Array, " points"]:
        """Return p_k of a trace that is still thinking, k = 1, ..., num_points."""
        both = self.repair_prob + self.break_prob
        settled = jnp.where(both > 0, self.repair_prob / jnp.where(both > 0, both, 1), self.first_right_prob)
        return settled + (self.first_right_prob - settled) * (1 - both) ** jnp.arange(self.num_points)

    def draw(self, key: Key[Array, ""]) -> Thought:
        """Draw a trace. Right answers have label 0, a wrong answer the index of the decision point where it appeared, plus 1."""
        key_right, key_close, key_signal = jr.split(key, 3)
        shape = (self.num_points,)
        return self._thought(jr.uniform(key_right, shape), jr.uniform(key_close, shape), jr.normal(key_signal, shape))

    @property
    def num_uniforms(self) -> int:
        """Number of uniform numbers that `from_uniforms` takes."""
        return 3 * self.num_points

    def from_uniforms(self, uniforms: Float[Array, " uniforms"]) -> Thought:
        """Return a trace as a function of independent uniform numbers in (0, 1), distributed as in `draw`.

        There is one number for each decision point for each of correctness, closing and signal.
        """
        chance, closing, signal = uniforms.reshape(3, self.num_points)
        return self._thought(chance, closing, ndtri(signal))

    def _thought(
        self, chance: Float[Array, " points"], closing: Float[Array, " points"], score: Float[Array, " points"]
    ) -> Thought:
        """Return a trace from uniform numbers and, for its signals, standard normal ones."""
        index = jnp.arange(self.num_points, dtype=jnp.int32)

        def change(before: tuple[Array, Array], point: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple]:
            right, label = before
            number, u = point
            first = jnp.where(number == 0, u < self.first_right_prob, False)
            moved = jnp.where(right, u >= self.break_prob, u < self.repair_prob)
            now = jnp.where(number == 0, first, moved)
            label = jnp.where(now, 0, jnp.where(right | (number == 0), number + 1, label))
            return (now, label), (now, label)

        start = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        _, (right, label) = jax.lax.scan(change, start, (index, chance))
        closes = closing < self.close_prob
        last = jnp.where(jnp.any(closes), jnp.argmax(closes), self.num_points - 1)
        position = jnp.where(index <= last, (index + 1) * self.gap_tokens, NEVER)
        mean = jnp.where(right, self.right_log_prob, self.wrong_log_prob)
        log_prob = jnp.minimum(mean + self.log_prob_scale * score, 0)
        thinks = index <= last
        return Thought(
            length_tokens=((last + 1) * self.gap_tokens + self.answer_tokens).astype(jnp.int32),
            right=right[last],
            answer=label[last],
            position_tokens=position.astype(jnp.int32),
            probe_answer=jnp.where(thinks, label, NO_ANSWER),
            probe_right=right & thinks,
            probe_cost_tokens=jnp.full(self.num_points, self.answer_tokens, jnp.int32),
            signals={"answer_mean_log_prob": log_prob, "answer_least_log_prob": log_prob},
        )
