"""How long traces are, and how length goes with correctness, problem by problem.

For trace i of problem q, with C = 1 if it is right:

    p_q ~ Beta(alpha_q, beta_q)                              chance of a right answer (within the cap)
    a_q ~ Normal(effect_q, effect_scale_q)                   how long the problem is
    C   ~ Bernoulli(p_q)
    log L = a_q + shift (1 - C) + scale_C Normal(0, 1)       L in tokens

A right trace ends below the cap. A wrong trace loops with probability `loop_prob` and then never ends by itself. One that
reaches the cap is cut there and gives no answer; one that ends gives none with probability `no_answer_prob`. Which wrong
answers agree is the law `Answers`.

The effect of the problem is kept apart from that of correctness: hard problems are longer and more often wrong, so a fit
that pools problems takes differences between problems for a use of length within one.

Reference: the normal-length model behind First Finish Search (Agarwal et al., arXiv 2505.18149), made per problem.
"""

from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import betaln, logsumexp, ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import roots_hermitenorm

from stopping.models.answers import Answers


class Traces(NamedTuple):
    """Traces of one problem.

    Attributes:
        length_tokens: int32 `[traces]`, at least 1.
        right: bool `[traces]`.
        answer: int32 `[traces]`, the index of the first trace with the same answer; -1 for none.
        censored: bool `[traces]`, cut at the cap.
    """

    length_tokens: Int[Array, " traces"]
    right: Bool[Array, " traces"]
    answer: Int[Array, " traces"]
    censored: Bool[Array, " traces"]


class LengthCorrectness(eqx.Module):
    """Lengths and correctness of traces over a set of problems.

    The default is one problem about which little is known.

    Attributes:
        alpha, beta: of each problem's Beta law of the chance of a right answer.
        effect, effect_scale: mean and standard deviation of each problem's effect, in log tokens.
        shift: log-length of wrong traces less that of right ones.
        scale_right, scale_wrong: standard deviation of log-length within a problem.
        loop_prob: that a wrong trace never ends by itself.
        no_answer_prob: that a wrong trace which ended by itself gave no answer.
        cap_tokens: traces are cut here; infinity for no cap.
        answers: the law of wrong answers.
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

    @property
    def num_problems(self) -> int:
        """How many problems the model stands for; each is equally likely in `draw`."""
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
        right = jr.uniform(key_right, (num_traces,)) < chance
        mean = effect + jnp.where(right, 0.0, self.shift)
        scale = jnp.where(right, self.scale_right, self.scale_wrong)
        below_cap = jnp.where(right, ndtr((jnp.log(self.cap_tokens) - effect) / self.scale_right), 1.0)
        uniform = jr.uniform(key_length, (num_traces,), minval=jnp.finfo(mean.dtype).tiny)
        length = jnp.round(jnp.exp(mean + scale * ndtri(uniform * below_cap)))
        loops = ~right & (jr.uniform(key_loop, (num_traces,)) < self.loop_prob)
        length = jnp.where(loops, MAX_TOKENS, length)
        censored = loops | (~right & (length >= self.cap_tokens))
        longest = jnp.minimum(self.cap_tokens, MAX_TOKENS)
        silent = jr.uniform(key_none, (num_traces,)) < self.no_answer_prob
        answer = self.answers.draw(key_answer, right, right | ~(censored | silent))
        return problem, Traces(jnp.clip(length, 1, longest).astype(jnp.int32), right, answer, censored)

    def right_probs(
        self, problem: Int[Array, ""], length_tokens: Int[Array, " traces"], answer: Int[Array, " traces"]
    ) -> Float[Array, " traces"]:
        """P(each trace's answer is right | all lengths and answers of a problem's traces, finished or not).

        Bayes' rule over which group of equal answers is the right one, if any. A candidate's likelihood is that of so many
        right traces (Beta-binomial), of the partition of the others (`Answers`), and of the lengths, the problem's effect
        integrated out by Gauss-Hermite quadrature. 0 for a trace without an answer.
        """
        num_traces = length_tokens.shape[0]
        index = jnp.arange(num_traces)
        group = (answer[:, None] == index) & (answer[:, None] >= 0)  # [traces, candidates]
        size = jnp.sum(group, axis=0)
        alpha, beta = self.alpha[problem], self.beta[problem]
        num_answers, num_kinds = jnp.sum(size), jnp.sum(size > 0)

        def votes(num_right: Array, own_kinds: int) -> Array:
            counts = betaln(alpha + num_right, beta + num_traces - num_right)
            num_wrong = num_answers - num_right
            return counts + self.answers.log_block_weights(num_kinds - own_kinds, num_wrong, num_traces)

        copies = self.answers.log_copies(size, num_traces)
        z, weight = (jnp.asarray(values, alpha.dtype) for values in roots_hermitenorm(NUM_EFFECT_NODES))
        effect = self.effect[problem] + self.effect_scale[problem] * z
        if_right, if_wrong = self._log_length_laws(effect, length_tokens, answer)  # [traces, nodes]
        swap = jnp.where(group[:, :, None], (if_right - if_wrong)[:, None, :], 0.0).sum(axis=0)
        lengths = logsumexp(if_wrong.sum(axis=0) + jnp.concatenate([swap, 0 * swap[:1]]) + jnp.log(weight), axis=1)
        candidates = votes(size, 1) + jnp.sum(copies) - copies
        none = votes(jnp.zeros_like(num_answers), 0) + jnp.sum(copies)
        log_posterior = jnp.concatenate([jnp.where(size > 0, candidates, -jnp.inf), none[None]]) + lengths
        return jnp.where(answer >= 0, jax.nn.softmax(log_posterior)[jnp.maximum(answer, 0)], 0.0)

    def _log_length_laws(self, effect: Array, length_tokens: Array, answer: Array) -> tuple[Array, Array]:
        """Log-density of each trace's log-length if it is right and if it is wrong; `[traces, nodes]`."""
        y, log_cap = jnp.log(length_tokens.astype(effect.dtype))[:, None], jnp.log(self.cap_tokens)
        right = norm.logpdf(y, effect, self.scale_right) - norm.logcdf(log_cap, effect, self.scale_right)
        mean = effect + self.shift
        ends = jnp.log1p(-self.loop_prob)
        wrong = ends + norm.logpdf(y, mean, self.scale_wrong)
        above = ends + norm.logsf(log_cap, mean, self.scale_wrong)
        cut = jnp.logaddexp(jnp.log(self.loop_prob), above)
        answered, silent = jnp.log1p(-self.no_answer_prob), jnp.log(self.no_answer_prob)
        is_cut = (answer < 0) & (length_tokens >= self.cap_tokens)
        wrong += jnp.where(answer >= 0, answered, jnp.maximum(silent, IMPOSSIBLE))[:, None]
        return right, jnp.where(is_cut[:, None], cut, wrong)

    def chance_nodes(
        self, degree: int
    ) -> tuple[Float[np.ndarray, "problems nodes"], Float[np.ndarray, "problems nodes"]]:
        """Return chances and weights that integrate polynomials of this degree over each problem's Beta law exactly.

        Gauss-Jacobi nodes, from the eigenvectors of the recurrence's matrix; on the host, in float64.

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
        matrix[:, k, k - 1] = np.sqrt(spread[:, : k.size])  # the lower triangle, all that is read
        nodes, vectors = np.linalg.eigh(matrix)
        return nodes[inverse], vectors[inverse, 0] ** 2


NUM_EFFECT_NODES = 16
IMPOSSIBLE = -80.0  # a log-probability that no sum of others makes up for
MAX_TOKENS = 2.0**24  # whole numbers up to here are exact in float32
