"""The joint distribution of length, correctness and answer of traces, by problem.

For trace i of problem q, with C = 1 if it is right:

    p_q ~ Beta(alpha_q, beta_q)                              chance of a right answer (within the cap)
    a_q ~ Normal(effect_q, effect_scale_q)                   effect of the problem on log-length
    C   ~ Bernoulli(p_q)
    log L = a_q + shift (1 - C) + scale_C Normal(0, 1)       L in tokens

A right trace ends below the cap. A wrong trace loops with probability `loop_prob` and then never ends by itself. A trace
that reaches the cap is cut there and gives no answer; a wrong trace that ends gives none with probability `no_answer_prob`.
`Answers` is the distribution of which wrong answers agree.

The effect of the problem is separate from that of correctness. Hard problems are longer and more often wrong, so a fit that
pools problems mistakes differences in difficulty for a within-problem length signal.

Reference: the normal-length model behind First Finish Search (Agarwal et al., arXiv 2505.18149), here for each problem.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import betaln, logsumexp, ndtri, xlog1py
from jaxtyping import Array, Bool, Float, Int, Key

from stopping.models.answers import Answers
from stopping.models.beta import beta_quantile
from stopping.models.checks import require
from stopping.models.normal_tails import UpperTail, quantile_below, upper_tail


class Traces(NamedTuple):
    """Traces of one problem.

    Attributes:
        length_tokens: int32 `[traces]`, at least 1.
        right: bool `[traces]`.
        answer: int32 `[traces]`, the index of the first trace with the same answer; -1 for none.
        censored: bool `[traces]`, whether it was cut at the cap.
    """

    length_tokens: Int[Array, " traces"]
    right: Bool[Array, " traces"]
    answer: Int[Array, " traces"]
    censored: Bool[Array, " traces"]


class LengthCorrectness(eqx.Module):
    """Lengths and correctness of traces over a set of problems.

    The default is one problem with weak priors.

    Attributes:
        alpha, beta: parameters of the Beta distribution of each problem's chance of a right answer.
        effect, effect_scale: mean and standard deviation of each problem's effect, in log tokens.
        shift: mean log-length of wrong traces minus that of right ones.
        scale_right, scale_wrong: standard deviation of log-length within a problem.
        loop_prob: probability that a wrong trace never ends by itself.
        no_answer_prob: probability that a wrong trace that ended by itself gave no answer.
        cap_tokens: length at which traces are cut; infinity for no cap.
        answers: the distribution of wrong answers.

    Raises:
        ValueError: for a parameter outside its range, except inside a compiled function, where values are not known.
    """

    alpha: Float[Array, " problems"]
    beta: Float[Array, " problems"]
    effect: Float[Array, " problems"]
    effect_scale: Float[Array, " problems"]
    shift: Float[Array, ""]
    scale_right: Float[Array, ""]
    scale_wrong: Float[Array, ""]
    loop_prob: Float[Array, ""]
    no_answer_prob: Float[Array, ""]
    cap_tokens: Float[Array, ""]
    answers: Answers

    def __init__(
        self,
        alpha: float | Array = 1.0,
        beta: float | Array = 1.0,
        effect: float | Array = 8.0,
        effect_scale: float | Array = 0.5,
        shift: float | Array = 0.0,
        scale_right: float | Array = 0.5,
        scale_wrong: float | Array = 0.5,
        loop_prob: float | Array = 0.0,
        no_answer_prob: float | Array = 0.0,
        cap_tokens: float | Array = np.inf,
        answers: Answers | None = None,
    ) -> None:
        per_problem = [jnp.atleast_1d(jnp.asarray(value, float)) for value in (alpha, beta, effect, effect_scale)]
        self.alpha, self.beta, self.effect, self.effect_scale = jnp.broadcast_arrays(*per_problem)
        shared = (shift, scale_right, scale_wrong, loop_prob, no_answer_prob, cap_tokens)
        self.shift, self.scale_right, self.scale_wrong, self.loop_prob, self.no_answer_prob, self.cap_tokens = (
            jnp.asarray(value, float) for value in shared
        )
        self.answers = Answers() if answers is None else answers
        ranges: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
            "a positive number": (
                lambda value: (value > 0) & np.isfinite(value),
                ("alpha", "beta", "scale_right", "scale_wrong"),
            ),
            "a number": (np.isfinite, ("effect", "shift")),
            "0 or more": (lambda value: (value >= 0) & np.isfinite(value), ("effect_scale",)),
            "a probability": (lambda value: (value >= 0) & (value <= 1), ("loop_prob", "no_answer_prob")),
            "1 token or more, infinity for no cap": (lambda value: value >= 1, ("cap_tokens",)),
        }
        for expected, (holds, names) in ranges.items():
            for name in names:
                require(holds, expected, **{name: getattr(self, name)})

    @property
    def num_problems(self) -> int:
        """Number of problems of the model; each is equally likely in `draw`."""
        return self.alpha.shape[-1]

    def problem(self, index: int) -> Self:
        """Return the model of one of the problems."""
        take = lambda values: values[index : index + 1]  # noqa: E731
        return eqx.tree_at(lambda m: (m.alpha, m.beta, m.effect, m.effect_scale), self, replace_fn=take)

    def draw(self, key: Key[Array, ""], num_traces: int) -> tuple[Int[Array, ""], Traces]:
        """Draw a problem, then `num_traces` traces of it; return the problem's index and the traces."""
        key_problem, key_chance, key_effect, key_right, key_length, key_loop, key_none, key_answer = jr.split(key, 8)
        problem = jr.randint(key_problem, (), 0, self.num_problems)
        chance = jr.beta(key_chance, self.alpha[problem], self.beta[problem])
        effect = self.effect[problem] + self.effect_scale[problem] * jr.normal(key_effect)
        positive = jnp.finfo(effect.dtype).tiny
        uniforms = (
            jr.uniform(key_right, (num_traces,)),
            jr.uniform(key_length, (num_traces,), minval=positive),
            *(jr.uniform(key, (num_traces,)) for key in (key_loop, key_none, key_answer)),
        )
        return problem, self._traces(chance, effect, *uniforms)

    def num_uniforms(self, num_traces: int) -> int:
        """Return how many uniform numbers `from_uniforms` takes for so many traces."""
        return 3 + 5 * num_traces

    def from_uniforms(self, uniforms: Float[Array, " uniforms"], num_traces: int) -> tuple[Int[Array, ""], Traces]:
        """Return a problem and traces of it as functions of independent uniform numbers in (0, 1), distributed as in `draw`.

        Inverse distribution functions give the problem, its chance and its effect; then, from one number a trace each,
        correctness, length, looping, silence and answer. The most important come first, where quasi-random points are most
        even.
        """
        of_problem, of_traces = uniforms[:3], uniforms[3:].reshape(5, num_traces)
        problem = jnp.minimum((of_problem[0] * self.num_problems).astype(jnp.int32), self.num_problems - 1)
        chance = beta_quantile(of_problem[1], self.alpha[problem], self.beta[problem])
        effect = self.effect[problem] + self.effect_scale[problem] * ndtri(of_problem[2])
        return problem, self._traces(chance, effect, *of_traces)

    def _traces(
        self,
        chance: Array,
        effect: Array,
        by_right: Array,
        by_length: Array,
        by_loop: Array,
        by_none: Array,
        by_answer: Array,
    ) -> Traces:
        """Return traces of a problem from uniform numbers, `[traces]` each."""
        right = by_right < chance
        mean = effect + jnp.where(right, 0.0, self.shift)
        scale = jnp.where(right, self.scale_right, self.scale_wrong)
        limit = jnp.where(right, (jnp.log(self.cap_tokens) - effect) / self.scale_right, jnp.inf)
        length = jnp.round(jnp.exp(mean + scale * quantile_below(limit, by_length, 1 - by_length)))
        loops = ~right & (by_loop < self.loop_prob)
        length = jnp.where(loops, MAX_TOKENS, length)
        censored = loops | (~right & (length >= self.cap_tokens))
        longest = jnp.minimum(self.cap_tokens, MAX_TOKENS)
        answer = self.answers.from_uniforms(by_answer, right, right | ~(censored | (by_none < self.no_answer_prob)))
        return Traces(jnp.clip(length, 1, longest).astype(jnp.int32), right, answer, censored)

    def right_probs(
        self, problem: Int[Array, ""], length_tokens: Int[Array, " traces"], answer: Int[Array, " traces"]
    ) -> Float[Array, " traces"]:
        """Return P(each trace's answer is right | all lengths and answers of a problem's traces, finished or not).

        By Bayes' rule over which group of equal answers is the right one, if any. The likelihood of a candidate is that of
        the number of right traces (Beta-binomial), of the partition of the others (`Answers`), and of the lengths with the
        effect of the problem integrated out. It is 0 for a trace without an answer.
        """
        num_traces = length_tokens.shape[0]
        index = jnp.arange(num_traces)
        group = (answer == index[:, None]) & (answer >= 0)  # [candidates, traces]
        size = jnp.sum(group, axis=1)
        alpha, beta = self.alpha[problem], self.beta[problem]
        num_answers, num_kinds = jnp.sum(size), jnp.sum(size > 0)

        def votes(num_right: Array, own_kinds: int) -> Array:
            counts = betaln(alpha + num_right, beta + num_traces - num_right)
            num_wrong = num_answers - num_right
            silence = xlog1py(num_wrong, -self.no_answer_prob)
            return counts + silence + self.answers.log_block_weights(num_kinds - own_kinds, num_wrong, num_traces)

        copies = self.answers.log_copies(size, num_traces)
        candidates = jnp.where(size > 0, votes(size, 1) + jnp.sum(copies) - copies, -jnp.inf)
        none = votes(jnp.zeros_like(num_answers), 0) + jnp.sum(copies)
        right = jnp.concatenate([group, jnp.zeros((1, num_traces), bool)])
        log_lengths = self._log_lengths(
            problem, length_tokens, right, (answer < 0) & (length_tokens >= self.cap_tokens)
        )
        log_posterior = jnp.append(candidates, none) + log_lengths
        return jnp.where(answer >= 0, jax.nn.softmax(log_posterior)[jnp.maximum(answer, 0)], 0.0)

    def _log_lengths(
        self,
        problem: Int[Array, ""],
        length_tokens: Int[Array, " traces"],
        right: Bool[Array, "candidates traces"],
        cut: Bool[Array, " traces"],
    ) -> Float[Array, " candidates"]:
        """Return the log-density of the lengths for each candidate, with the effect of the problem integrated out.

        Given many traces, the distribution of the effect is far narrower than its prior, and differs by candidate. Each
        candidate therefore has separate nodes, equally spaced about the mode, which Newton's method finds, with the spacing
        of Laplace's approximation. Without a cap the integrand is normal, and the sum exact to rounding; with a cap the
        error is below 1e-6.
        """
        y = jnp.log(length_tokens.astype(self.effect.dtype)) - self.effect[problem]
        log_cap = jnp.log(self.cap_tokens) - self.effect[problem]
        log_scale = jnp.log(jnp.maximum(self.effect_scale[problem], SMALLEST_SCALE))
        scale_right, scale_wrong, precision = self.scale_right, self.scale_wrong, jnp.exp(-2 * log_scale)
        log_loop, log_end = jnp.log(self.loop_prob), jnp.log1p(-self.loop_prob)
        num_right, mean_right, scatter_right = _moments(y, right)
        num_wrong, mean_wrong, scatter_wrong = _moments(y - self.shift, ~right & ~cut)
        num_cut = jnp.sum(cut)

        def tails(
            effect: Array,
        ) -> tuple[UpperTail, UpperTail]:  # below the cap for right traces, above it for those cut
            at_cap = (log_cap - self.shift - effect) / scale_wrong
            return upper_tail((effect - log_cap) / scale_right), upper_tail(at_cap)

        def newton(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            effect = carry[0]
            below, above = tails(effect)
            share = jax.nn.sigmoid(above.log_mass + log_end - log_loop)  # of those cut, not looping
            pull = (
                num_right * ((mean_right - effect) / scale_right + below.hazard) / scale_right
                + (num_wrong * (mean_wrong - effect) / scale_wrong + num_cut * share * above.hazard) / scale_wrong
                - precision * effect
            )
            curvature = (
                num_right * (1 - below.bend) / scale_right**2
                + (num_wrong + num_cut * share * above.bend) / scale_wrong**2
                + precision
            )
            return effect + jnp.clip(pull / curvature, -1, 1), curvature

        start = jnp.zeros_like(mean_right)
        mode, curvature = jax.lax.fori_loop(0, NUM_NEWTON_STEPS, newton, (start, start))
        nodes = jnp.linspace(-EFFECT_REACH, EFFECT_REACH, NUM_EFFECT_NODES, dtype=y.dtype)
        effect = mode + nodes[:, None] * curvature**-0.5  # [nodes, candidates]
        below, above = tails(effect)
        log_density = (
            -(scatter_right + num_right * (mean_right - effect) ** 2) / (2 * scale_right**2)
            - (scatter_wrong + num_wrong * (mean_wrong - effect) ** 2) / (2 * scale_wrong**2)
            - num_right * (jnp.log(scale_right) + below.log_mass)
            - num_wrong * jnp.log(scale_wrong) + xlog1py(num_wrong, -self.loop_prob)
            + num_cut * jnp.logaddexp(log_loop, log_end + above.log_mass)
            - precision * effect**2 / 2
        )  # fmt: skip
        return logsumexp(log_density, axis=0) - 0.5 * jnp.log(curvature)

    def chance_nodes(
        self, degree: int
    ) -> tuple[Float[np.ndarray, "problems nodes"], Float[np.ndarray, "problems nodes"]]:
        """Return chances and weights that integrate polynomials of this degree over each problem's Beta distribution exactly.

        These are Gauss-Jacobi nodes, from the eigenvectors of the matrix of the recurrence, on the host in float64.

        Source: Golub and Welsch, Calculation of Gauss Quadrature Rules (1969).
        """
        shapes = np.stack([np.asarray(values, np.float64) for values in (self.alpha, self.beta)])
        (alpha, beta), inverse = np.unique(shapes, axis=1, return_inverse=True)
        alpha, beta, inverse = alpha[:, None], beta[:, None], inverse.reshape(-1)
        total, k = alpha + beta, np.arange(1, degree // 2 + 1)
        s = 2 * k + total
        centre = 0.5 + 0.5 * (alpha - beta) * (total - 2) / ((s - 2) * s)
        first = alpha * beta / (total**2 * (total + 1))
        j, s = k[1:], s[:, 1:] - 2
        spread = np.concatenate(
            [first, j * (j + alpha - 1) * (j + beta - 1) * (j + total - 2) / (s * s * (s * s - 1))], axis=1
        )
        diagonal = np.concatenate([alpha / total, centre], axis=1)
        matrix = diagonal[:, :, None] * np.eye(k.size + 1)
        matrix[:, k, k - 1] = np.sqrt(spread[:, : k.size])  # only the lower triangle is read
        nodes, vectors = np.linalg.eigh(matrix)
        return nodes[inverse], vectors[inverse, 0] ** 2


def _moments(values: Float[Array, " traces"], mask: Bool[Array, "candidates traces"]) -> tuple[Array, Array, Array]:
    count = jnp.sum(mask, axis=1).astype(values.dtype)
    mean = jnp.sum(jnp.where(mask, values, 0), axis=1) / jnp.maximum(count, 1)
    return count, mean, jnp.sum(jnp.where(mask, (values - mean[:, None]) ** 2, 0), axis=1)


NUM_EFFECT_NODES, EFFECT_REACH = 24, 7.0  # standard deviations to each side
NUM_NEWTON_STEPS = 8
SMALLEST_SCALE = 1e-6  # of an effect known exactly
MAX_TOKENS = 2.0**24  # whole numbers up to here are exact in float32
