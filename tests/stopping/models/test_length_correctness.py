"""`LengthCorrectness`: draws against closed forms, and the posterior of correctness against Bayes' rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betaln, logsumexp
from scipy.stats import beta, norm

from sims import Estimate
from stopping.models import Answers, LengthCorrectness, Traces
from stopping.policies import NO_ANSWER

NUM_WORLDS = 40_000
FREE = LengthCorrectness([2.0, 0.5], [1.0, 1.5], [8.0, 8.6], 0.4, shift=0.3, scale_right=0.3, scale_wrong=0.6)
CUT = LengthCorrectness(
    1.5, 1.5, 8.0, 0.4, shift=0.4, scale_right=0.35, scale_wrong=0.5, loop_prob=0.15, no_answer_prob=0.2,
    cap_tokens=6000.0, answers=Answers(0.2, 0.6),
)  # fmt: skip


def drawn(
    model: LengthCorrectness, num_traces: int, seed: int = 0, num_worlds: int = NUM_WORLDS
) -> tuple[np.ndarray, Traces]:
    keys = jr.split(jr.key(seed), num_worlds)
    problem, traces = jax.jit(jax.vmap(lambda key: model.draw(key, num_traces)))(keys)
    return np.asarray(problem), Traces(*(np.asarray(values) for values in traces))


def assert_mean(values: np.ndarray, exact: float, errors: float = 5) -> None:
    estimate = Estimate.of(values)
    assert 0 < estimate.standard_error
    assert abs(estimate.mean - exact) < errors * estimate.standard_error


def test_moments_of_what_is_drawn() -> None:
    problem, traces = drawn(FREE, 2)
    assert_mean(problem == 0, 0.5)
    chance = np.array([2 / 3, 1 / 4])
    for index, mean in enumerate((8.0, 8.6)):
        here = problem == index
        right, log_length = traces.right[here], np.log(traces.length_tokens[here])
        assert_mean(right[:, 0], chance[index])
        a, b = float(FREE.alpha[index]), float(FREE.beta[index])
        assert_mean(right.all(axis=1), beta(a, b).moment(2))  # traces of a problem share its chance
        for mask, shift, scale in ((right, 0.0, 0.3), (~right, 0.3, 0.6)):
            y = log_length[:, 0][mask[:, 0]] - mean - shift
            assert_mean(y, 0.0)
            assert_mean(y**2, 0.4**2 + scale**2)
            both = mask.all(axis=1)  # and its effect
            assert_mean((log_length[both] - mean - shift).prod(axis=1), 0.4**2)
    assert not traces.censored.any() and (traces.answer >= 0).all()


def test_the_cap() -> None:
    _, traces = drawn(CUT, 3)
    cap, length, right = 6000, traces.length_tokens, traces.right
    assert length.dtype == np.int32 and length.min() >= 1 and length.max() == cap
    assert not (traces.censored & right).any()
    assert (length[traces.censored] == cap).all()
    assert (traces.answer[traces.censored] == NO_ANSWER).all()
    assert (traces.answer[right] >= 0).all()
    assert (length[right] == cap).mean() < 2e-4  # below the cap, but for rounding to whole tokens
    spread = np.hypot(0.4, 0.5)
    above = norm.sf(np.log(cap - 0.5), 8.4, spread)  # lengths are rounded
    first_wrong = ~right[:, 0]
    assert_mean(traces.censored[:, 0][first_wrong], 0.15 + 0.85 * above)
    ended = first_wrong & ~traces.censored[:, 0]
    assert_mean(traces.answer[:, 0][ended] == NO_ANSWER, 0.2)

    def right_length(effect: float) -> float:  # the mean log-length of right traces below the cap, given the effect
        z = (np.log(cap) - effect) / 0.35
        return (effect - 0.35 * norm.pdf(z) / norm.cdf(z)) * norm.pdf(effect, 8.0, 0.4)

    assert_mean(np.log(length[:, 0][right[:, 0]]), quad(right_length, 5, 11)[0])


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("length", [300, 3000, 5999, 6000])
def test_one_trace_is_bayes_rule(length: int, answered: bool) -> None:
    """P(right | one length): densities of the log-length, the problem's effect integrated out."""
    with jax.enable_x64(True):
        model = jax.tree.map(lambda value: jnp.asarray(value, float), CUT)
        answer = jnp.array([0 if answered else NO_ANSWER])
        ours = float(model.right_probs(jnp.array(0), jnp.array([length]), answer)[0])
        weight = {name: float(getattr(model, name)) for name in ("loop_prob", "no_answer_prob", "shift")}
        scales = (float(model.effect_scale[0]), float(model.scale_right), float(model.scale_wrong))
    if not answered:
        assert ours == 0
        return
    y, log_cap = np.log(length), np.log(6000)

    def right_density(effect: float) -> float:
        density = norm.pdf(y, effect, scales[1]) / norm.cdf(log_cap, effect, scales[1])
        return density * norm.pdf(effect, 8.0, scales[0])

    right = quad(right_density, 4, 12, epsabs=1e-13)[0]
    wrong = norm.pdf(y, 8.0 + weight["shift"], np.hypot(scales[0], scales[2]))
    wrong *= (1 - weight["loop_prob"]) * (1 - weight["no_answer_prob"])
    np.testing.assert_allclose(ours, right / (right + wrong), rtol=1e-6)


WIDE = LengthCorrectness(3.0, 1.0, 8.0, 1.0, shift=0.3, scale_right=0.3, scale_wrong=0.5, answers=Answers(0.2, 1.0))
WIDE_CUT = eqx.tree_at(
    lambda m: (m.loop_prob, m.no_answer_prob, m.cap_tokens), WIDE, tuple(map(jnp.float32, (0.1, 0.1, 4000.0)))
)


@pytest.mark.parametrize("model", [WIDE, WIDE_CUT], ids=["free", "cut"])
@pytest.mark.parametrize("num_traces", [4, 64])
def test_many_traces_know_the_effect_well(model: LengthCorrectness, num_traces: int) -> None:
    """The lengths' part of Bayes' rule against a dense grid of effects: the distribution of the effect narrows as 1 / sqrt(n)."""
    problem, traces = drawn(model, num_traces, seed=2, num_worlds=40)
    posterior = jax.jit(jax.vmap(model.right_probs))(problem, traces.length_tokens, traces.answer)
    parameters = {name: float(np.asarray(getattr(model, name)).reshape(-1)[0]) for name in PARAMETERS}
    with np.errstate(divide="ignore"):
        for world in range(40):
            length, answer = traces.length_tokens[world], traces.answer[world]
            exact = dense_posterior(model, parameters, np.asarray(length), np.asarray(answer))
            np.testing.assert_allclose(posterior[world], exact, atol=2e-4)  # single precision: sums of 64 logs


PARAMETERS = (
    "alpha", "beta", "effect", "effect_scale", "shift", "scale_right", "scale_wrong", "loop_prob", "no_answer_prob",
    "cap_tokens",
)  # fmt: skip


def dense_posterior(
    model: LengthCorrectness, parameters: dict[str, float], length: np.ndarray, answer: np.ndarray
) -> np.ndarray:
    """P(each trace is right), from the definition: trace by trace on 4,001 effects, in double precision."""
    effect = parameters["effect"] + parameters["effect_scale"] * np.linspace(-7, 7, 4001)[:, None]
    y, log_cap, mean = np.log(length), np.log(parameters["cap_tokens"]), effect + parameters["shift"]
    if_right = norm.logpdf(y, effect, parameters["scale_right"]) - norm.logcdf(
        log_cap, effect, parameters["scale_right"]
    )
    end, silent = 1 - parameters["loop_prob"], parameters["no_answer_prob"]
    if_wrong = np.log(end) + norm.logpdf(y, mean, parameters["scale_wrong"])
    if_wrong = if_wrong + np.where(answer >= 0, np.log1p(-silent), np.log(silent))
    if_cut = np.log(parameters["loop_prob"] + end * norm.sf(log_cap, mean, parameters["scale_wrong"]))
    if_wrong = np.where((answer < 0) & (length >= parameters["cap_tokens"]), if_cut, if_wrong)
    prior = norm.logpdf(effect[:, 0], parameters["effect"], parameters["effect_scale"])
    labels, sizes = np.unique(answer[answer >= 0], return_counts=True)
    scores = []
    for label in (*labels, None):
        right = answer == label if label is not None else np.zeros(answer.shape, bool)
        others = [int(size) for other, size in zip(labels, sizes, strict=True) if other != label]
        lengths = logsumexp(np.where(right, if_right, if_wrong).sum(axis=1) + prior)
        votes = betaln(parameters["alpha"] + right.sum(), parameters["beta"] + (~right).sum())
        scores.append(lengths + votes + log_partition(model, others))
    weight = np.exp(np.array(scores) - logsumexp(scores))
    worth = dict(zip(labels.tolist(), weight, strict=False))
    return np.array([worth.get(int(label), 0.0) for label in answer])


def log_partition(model: LengthCorrectness, sizes: list[int]) -> float:
    """Pitman's distribution of block sizes, block by block and customer by customer."""
    discount, concentration = float(model.answers.discount), float(model.answers.concentration)
    total, seated = 0.0, 0
    for kinds, size in enumerate(sizes):
        for copies in range(size):
            weight = concentration + discount * kinds if copies == 0 else copies - discount
            total += np.log(weight / (seated + concentration)) if seated else 0.0
            seated += 1
    return total


@pytest.mark.parametrize("model", [FREE, CUT], ids=["free", "cut"])
def test_posterior_of_correctness_is_calibrated(model: LengthCorrectness) -> None:
    problem, traces = drawn(model, 5, seed=1)
    probs = np.asarray(jax.jit(jax.vmap(model.right_probs))(problem, traces.length_tokens, traces.answer))
    assert (probs[traces.answer == NO_ANSWER] == 0).all()
    answered = traces.answer[:, 0] >= 0
    predicted, right = probs[:, 0][answered], traces.right[:, 0][answered]
    assert predicted.std() > 0.2  # it says something
    edges = np.quantile(predicted, np.linspace(0, 1, 11)[1:-1])
    for bin_index in range(10):
        here = np.digitize(predicted, edges) == bin_index
        if here.any():
            gap, spread = (right - predicted)[here], np.sqrt((predicted * (1 - predicted))[here].sum())
            assert abs(gap.sum()) < 5 * spread
    index = np.arange(5)
    candidate = (traces.answer == index) & (traces.answer >= 0)  # the first trace of each group
    total = np.where(candidate, probs, 0).sum(axis=1)
    assert total.max() < 1 + 1e-5 and total.min() >= 0
    same = (traces.answer[:, :, None] == traces.answer[:, None, :]) & (traces.answer[:, :, None] >= 0)
    assert np.abs(np.where(same, probs[:, :, None] - probs[:, None, :], 0)).max() == 0


def test_posterior_with_nothing_to_tell_is_the_prior() -> None:
    """Equal distributions of length, and a single answer each: the posterior mean of the chance."""
    with jax.enable_x64(True):
        model = LengthCorrectness(2.0, 3.0, 8.0, 0.5)
        prob = model.right_probs(jnp.array(0), jnp.array([2000]), jnp.array([0]))
        np.testing.assert_allclose(prob, 2 / 5, rtol=1e-10)


@pytest.mark.parametrize("degree", [0, 1, 5, 8, 40])
def test_chance_nodes_integrate_polynomials_exactly(degree: int) -> None:
    model = LengthCorrectness([0.3, 2.0, 30.0, 2.0], [0.7, 5.0, 4.0, 5.0], 8.0, 0.5)
    nodes, weights = model.chance_nodes(degree)
    assert nodes.shape == weights.shape == (4, degree // 2 + 1) and nodes.dtype == np.float64
    for index in range(4):
        a, b = float(model.alpha[index]), float(model.beta[index])
        moment = 1.0
        for power in range(degree + 1):
            np.testing.assert_allclose((weights[index] * nodes[index] ** power).sum(), moment, rtol=1e-10)
            moment *= (a + power) / (a + b + power)


def test_one_of_several_problems() -> None:
    assert FREE.num_problems == 2
    one = FREE.problem(1)
    assert one.num_problems == 1
    assert (one.alpha[0], one.effect[0]) == (FREE.alpha[1], FREE.effect[1])
    assert one.shift == FREE.shift
