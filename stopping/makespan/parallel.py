"""Parallel traces: accuracy and cost of the first finisher and of a majority vote, by numerical integration.

For one problem with chance p of a right answer, let G(t) be the probability that a trace still runs after t tokens, U(t) that
it has ended without an answer, and S(t) = G(t) + U(t) that it has not answered. With n traces launched at once, g, s, u the
densities -G', -S', U', f the density of right traces and c the cap:

    accuracy of the first finisher    integral of n p f S^(n-1)
    its latency                       integral of t (n s S^(n-1) + n u U^(n-1)), and c where none has answered
    tokens of all traces until then   n integral of t (g S^(n-1) + (n-1) G s S^(n-2)), and n c G(c) S(c)^(n-1)
    latency of waiting for all        integral of t n g (1-G)^(n-1), and c (1 - (1-G(c))^n)

each over log t, where every integrand vanishes at both ends unless the cap cuts it. Equal weights then converge slowly, and
Gauss-Legendre weights are used. The accuracy is a polynomial of degree n in p, so its mean over a Beta distribution of p is
a finite sum.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import roots_hermitenorm, roots_legendre

from stopping.models import LengthCorrectness

NUM_NODES = 48  # equal weights: error 1e-6 of accuracies, 3e-6 of lengths, for scales from .3 to .6 and n <= 16
NUM_NODES_CAPPED = 64
NUM_EFFECT_NODES = 5  # without a cap: accuracies exact, lengths to 3e-5 for an effect_scale up to 1
EFFECT_NODES_CAPPED = (
    12  # times the ratio of the scale of effects to that of lengths: error 2e-5 up to a ratio of 2.5, 1e-4 at 5
)
BATCH = 4096  # problems at once: with more, the intermediates do not fit in the cache


class Curve(NamedTuple):
    """Accuracy and cost by problem and number of traces; `[problems, counts]` each."""

    accuracy: Float[Array, "problems counts"]
    latency_tokens: Float[Array, "problems counts"]
    total_tokens: Float[Array, "problems counts"]


class Points(NamedTuple):
    """Single problems with known parameters, `[points]` each; lengths as means and scales of log tokens."""

    chance: Float[Array, " points"]
    mean_right: Float[Array, " points"]
    mean_wrong: Float[Array, " points"]
    scale_right: Float[Array, " points"]
    scale_wrong: Float[Array, " points"]
    loop_prob: Float[Array, " points"]
    no_answer_prob: Float[Array, " points"]
    log_cap: Float[Array, " points"]


def first_finish_curve(model: LengthCorrectness, num_traces: Sequence[int]) -> Curve:
    """Return accuracy and cost of the first of n answers on each of the model's problems, for each n in `num_traces`.

    Source: the integrals above; for normal lengths, Agarwal et al. (arXiv 2505.18149).
    """
    return _over_problems(model, num_traces, first_finish)


def majority_curve(model: LengthCorrectness, num_traces: Sequence[int]) -> Curve:
    """Return accuracy and cost of waiting for n traces and taking the most frequent answer, for each n in `num_traces`.

    The votes are multinomial (right, wrong, none); `Answers.leads` is the probability that the right answer leads. Ties are
    broken at random.
    """
    leads = model.answers.leads(max(num_traces))
    return _over_problems(model, num_traces, majority, leads)


def _over_problems(model: LengthCorrectness, num_traces: Sequence[int], integrate: Callable, *tables: Array) -> Curve:
    """Return the averages of single problems over each problem's distributions of chance and effect."""
    counts = tuple(int(n) for n in num_traces)
    if not counts or min(counts) < 1:
        raise ValueError(f"num_traces: expected whole numbers >= 1, got {list(num_traces)}")
    if float(model.loop_prob) > 0 and not np.isfinite(float(model.cap_tokens)):
        raise ValueError("model: traces that loop never end without a cap; expected cap_tokens or loop_prob = 0")
    chance, chance_weight = model.chance_nodes(max(counts))
    capped = bool(np.isfinite(float(model.cap_tokens)))
    z, z_weight = roots_hermitenorm(_num_effect_nodes(model) if capped else NUM_EFFECT_NODES)
    effect = np.asarray(model.effect)[:, None] + np.asarray(model.effect_scale)[:, None] * z
    shape = (model.num_problems, chance.shape[1], z.size)
    mean = np.broadcast_to(effect[:, None, :], shape)
    weight = chance_weight[:, :, None] * (z_weight / z_weight.sum())
    shared = (model.scale_right, model.scale_wrong, model.loop_prob, model.no_answer_prob, jnp.log(model.cap_tokens))
    columns = (
        np.broadcast_to(chance[:, :, None], shape),
        mean,
        mean + np.asarray(model.shift),
        *(np.full(shape, v) for v in shared),
    )
    flat = Points(*(jnp.asarray(column.reshape(-1), float) for column in columns))
    curve = evaluate(integrate, flat, counts, capped, *tables)
    return Curve(*(np.einsum("qnj,qnjc->qc", weight, np.asarray(v, float).reshape(*shape, -1)) for v in curve))


def _num_effect_nodes(model: LengthCorrectness) -> int:
    """Return a power of two from 8 to 64, so that similar models share one compiled program."""
    ratio = float(jnp.max(model.effect_scale) / jnp.minimum(model.scale_right, model.scale_wrong))
    return 2 ** int(np.clip(np.ceil(np.log2(max(EFFECT_NODES_CAPPED * ratio, 1))), 3, 6))


@partial(jax.jit, static_argnames=("integrate", "counts", "capped"))
def evaluate(integrate: Callable, points: Points, counts: tuple[int, ...], capped: bool, *tables: Array) -> Curve:
    """Return the integrals of many single problems, in batches that fit in the cache; `[points, counts]`."""
    num_points = points.chance.shape[0]
    if num_points <= BATCH:
        return integrate(points, counts, capped, *tables)
    num_batches = -(-num_points // BATCH)
    fill = lambda values: jnp.pad(values, (0, num_batches * BATCH - num_points), mode="edge")  # noqa: E731
    batches = Points(*(fill(values).reshape(num_batches, BATCH) for values in points))
    curve = jax.lax.map(lambda batch: integrate(batch, counts, capped, *tables), batches)
    return Curve(*(values.reshape(-1, len(counts))[:num_points] for values in curve))


class _At(NamedTuple):
    """G, U and the densities at one node; `[points]` each."""

    tokens: Array
    running: Array
    silent: Array
    ending: Array
    answering: Array
    right: Array


class _AtCap(NamedTuple):
    """G and U at the cap, and the cap; `[points]` each, zeros without one."""

    tokens: Array
    running: Array
    silent: Array


def _integral(integrand: Callable[[_At], Sequence[Array]], point: Points, capped: bool) -> list[Array]:
    """Return the integrals of functions of the distribution over log tokens.

    By a loop over the nodes that carries the sums: only in this form does XLA neither store the distribution at all nodes nor
    compute it again for every integrand.
    """
    low = jnp.minimum(point.mean_right - 5.5 * point.scale_right, point.mean_wrong - 5.5 * point.scale_wrong)
    high = jnp.maximum(point.mean_right + 5.5 * point.scale_right, point.mean_wrong + 5.5 * point.scale_wrong)
    if capped:
        low, high = jnp.minimum(low, point.log_cap - 1), jnp.minimum(high, point.log_cap)
        node, weight = roots_legendre(NUM_NODES_CAPPED)
        node, weight = 0.5 + 0.5 * node, 0.5 * weight
    else:
        node, weight = (np.arange(NUM_NODES) + 0.5) / NUM_NODES, np.full(NUM_NODES, 1 / NUM_NODES)
    width = high - low

    def add(sums: list[Array], at: tuple[Array, Array]) -> tuple[list[Array], None]:
        y = low + width * at[0]
        values = integrand(_distribution(y, point, capped))
        return [total + at[1] * width * value for total, value in zip(sums, values, strict=True)], None

    shapes = jax.eval_shape(lambda: integrand(_distribution(low, point, capped)))
    start = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    return jax.lax.scan(add, start, (jnp.asarray(node, low.dtype), jnp.asarray(weight, low.dtype)))[0]


def _distribution(y: Array, point: Points, capped: bool) -> _At:
    p, q, silent = point.chance, 1 - point.chance, point.no_answer_prob
    right_density, _, right_above = _normal(y, point.mean_right, point.scale_right)
    wrong_density, wrong_above = _wrong(y, point)
    right, wrong = p * right_density, q * wrong_density
    if capped:  # right traces end below the cap: their distribution is truncated there
        log_by_cap = _log_below(point.log_cap, point)
        right_above = -jnp.expm1(jnp.minimum(_log_below(y, point) - log_by_cap, 0))
        z = (y - point.mean_right) / point.scale_right
        right = p * jnp.exp(-0.5 * z * z - log_by_cap) / (point.scale_right * np.sqrt(2 * np.pi))
    return _At(
        tokens=jnp.exp(y),
        running=p * right_above + q * wrong_above,
        silent=q * silent * (1 - wrong_above),
        ending=right + wrong,
        answering=right + (1 - silent) * wrong,
        right=right,
    )


def _at_cap(point: Points, capped: bool) -> _AtCap:
    q, silent = 1 - point.chance, point.no_answer_prob
    if not capped:
        return _AtCap(jnp.zeros_like(q), jnp.zeros_like(q), q * silent)
    wrong_above = _wrong(point.log_cap, point)[1]
    return _AtCap(jnp.exp(point.log_cap), q * wrong_above, q * silent * (1 - wrong_above))


def first_finish(point: Points, counts: tuple[int, ...], capped: bool) -> Curve:
    """Return accuracy and cost of the first of n answers on single problems; `[points, counts]`."""

    def integrand(at: _At) -> list[Array]:
        unanswered, values = at.running + at.silent, []
        for n in counts:
            rest = unanswered ** (n - 1)
            ends = at.answering * rest + (at.ending - at.answering) * at.silent ** (n - 1)
            falls = at.ending * rest
            if n > 1:
                falls += (n - 1) * at.running * at.answering * unanswered ** (n - 2)
            values += [n * at.right * rest, at.tokens * n * ends, at.tokens * n * falls]
        return values

    sums, cap = _integral(integrand, point, capped), _at_cap(point, capped)
    rows = []
    for i, n in enumerate(counts):
        unanswered = cap.running + cap.silent
        latency = sums[3 * i + 1] + cap.tokens * (unanswered**n - cap.silent**n)
        total = sums[3 * i + 2] + n * cap.tokens * cap.running * unanswered ** (n - 1)
        rows.append((sums[3 * i], latency, total))
    return Curve(*(jnp.stack(column, axis=-1) for column in zip(*rows, strict=True)))


def majority(point: Points, counts: tuple[int, ...], capped: bool, leads: Array) -> Curve:
    """Return accuracy and cost of the vote of n traces on single problems; `[points, counts]`. `leads` is `Answers.leads`."""

    def integrand(at: _At) -> list[Array]:
        ended = 1 - at.running
        return [at.tokens * n * at.ending * ended ** (n - 1) for n in (1, *counts)]

    sums, cap = _integral(integrand, point, capped), _at_cap(point, capped)
    wrong = 1 - point.chance - cap.running - cap.silent
    mean_tokens = sums[0] + cap.tokens * cap.running
    rows = []
    for latency, n in zip(sums[1:], counts, strict=True):
        accuracy = jnp.einsum("rwp,rw->p", _votes(n, point.chance, wrong), leads[: n + 1, : n + 1])
        rows.append((accuracy, latency + cap.tokens * (1 - (1 - cap.running) ** n), n * mean_tokens))
    return Curve(*(jnp.stack(column, axis=-1) for column in zip(*rows, strict=True)))


def _log_below(y: Array, point: Points) -> Array:
    """Return the log of the normal mass of right traces below y, exact also where the mass underflows."""
    z = (y - point.mean_right) / point.scale_right
    if z.dtype == jnp.float64:
        return jax.scipy.special.log_ndtr(z)
    tail = _mills(z)
    kernel = -0.5 * z * z - 0.5 * np.log(2 * np.pi)
    return jnp.where(z < 0, kernel + jnp.log(tail), jnp.log1p(-jnp.exp(kernel) * tail))


def _wrong(y: Array, point: Points) -> tuple[Array, Array]:
    density, _, above = _normal(y, point.mean_wrong, point.scale_wrong)
    return (1 - point.loop_prob) * density, point.loop_prob + (1 - point.loop_prob) * above


def _votes(n: int, right: Array, wrong: Array) -> Float[Array, "right wrong points"]:
    """Return P(so many right, so many wrong among n), the rest without an answer."""
    k = np.arange(n + 1)
    none = np.maximum(n - k[:, None] - k, 0)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways = np.exp(log_factorial[n] - log_factorial[k][:, None] - log_factorial[k] - log_factorial[none])
    ways = np.where(k[:, None] + k <= n, ways, 0.0)
    neither = jnp.maximum(1 - right - wrong, 0)
    power = lambda base, exponent: base ** exponent[..., None]  # noqa: E731
    return ways[..., None] * power(right, k)[:, None] * power(wrong, k) * power(neither, none)


def _normal(y: Array, mean: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Return the density of Normal(mean, scale) at y, and the mass below and above.

    In float32 the smaller mass is the density times Mills' ratio, at half the cost of `erfc` because both share an exponential.
    """
    z = (y - mean) / scale
    kernel = jnp.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    if kernel.dtype == jnp.float64:
        return kernel / scale, *(0.5 * jax.scipy.special.erfc(sign * z / np.sqrt(2)) for sign in (-1, 1))
    tail = kernel * _mills(z)
    return kernel / scale, jnp.where(z < 0, tail, 1 - tail), jnp.where(z < 0, 1 - tail, tail)


def _mills(z: Array) -> Array:
    """Return Mills' ratio at |z| as a polynomial in t = 1 / (1 + .3 |z|) fitted to `scipy.special.erfcx`: relative error 4e-9."""
    t = 1 / (1 + 0.3 * jnp.abs(z))
    return t * jnp.polyval(jnp.array(_MILLS, z.dtype), t, unroll=len(_MILLS))


_MILLS = (
    -0.0523340404, 0.285270631, -0.5800345, 0.491234434, -0.207668013,
    0.245538521, 0.194975219, 0.276634481, 0.299685562, 0.300011838,
)  # fmt: skip
