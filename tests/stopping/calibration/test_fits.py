"""Fits of logs drawn from the model: recovery, standard errors, edges, and each part against an independent maximum."""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import betabinom, binomtest

from stopping.calibration import Fit, fit, fit_all
from stopping.calibration.answer_distribution import fit_answers
from stopping.calibration.ascent import ascend
from stopping.calibration.length_correctness import estimate
from stopping.calibration.success import fit_success
from stopping.calibration.sufficient_statistics import stack, statistics
from stopping.models import Answers, LengthCorrectness
from stopping.traces import TraceLog, from_columns
from tests.stopping.calibration.examples import drawn_logs

PLAIN = LengthCorrectness(
    2.0, 1.5, 8.0, 0.5, shift=0.4, scale_right=0.35, scale_wrong=0.6, no_answer_prob=0.1, answers=Answers(0.3, 0.7)
)
CUT = LengthCorrectness(
    1.5, 1.5, 8.0, 0.4, shift=0.5, scale_right=0.3, scale_wrong=0.6, loop_prob=0.15, cap_tokens=12_000.0,
    answers=Answers(-1.0, 3.0),
)  # fmt: skip
TIGHT = LengthCorrectness(  # a third of the right traces and half of the wrong ones would be longer than the cap
    1.5,
    1.5,
    8.0,
    0.4,
    shift=0.3,
    scale_right=0.5,
    scale_wrong=0.5,
    no_answer_prob=0.1,
    cap_tokens=3500.0,
    answers=Answers(0.3, 0.7),
)
MODELS = {"plain": PLAIN, "cut": CUT}
NUM_LOGS, NUM_PROBLEMS, NUM_TRACES = 200, 60, 8


def parameters(model: LengthCorrectness) -> dict[str, float]:
    """The parameters that have a standard error, of a model with one entry."""
    alpha, beta, spread, discount, loop = (
        float(np.asarray(value).reshape(-1)[0])
        for value in (model.alpha, model.beta, model.effect_scale, model.answers.discount, model.loop_prob)
    )
    return {
        "shift": float(model.shift),
        "scale_right": float(model.scale_right),
        "scale_wrong": float(model.scale_wrong),
        "spread": spread,
        "logit_mean_chance": np.log(alpha / beta),
        "log_concentration_chance": np.log(alpha + beta),
        "no_answer_prob": float(model.no_answer_prob),
        "discount_answers": discount,
        "log_concentration_answers": np.log(float(model.answers.concentration) + max(discount, 0.0)),
    } | ({"logit_loop_prob": float(logit(loop))} if loop > 0 else {})


@lru_cache
def many_fits(name: str) -> list[Fit]:
    return fit_all(LengthCorrectness(), drawn_logs(MODELS[name], 0, NUM_LOGS, NUM_PROBLEMS, NUM_TRACES))


def num_kinds(answers: Answers) -> int:
    """How many kinds of wrong answers there are, 0 for no end of them."""
    discount = float(answers.discount)
    return 0 if discount >= 0 else round(-float(answers.concentration) / discount)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_standard_errors_cover(name: str) -> None:
    """Over 200 logs: the mean estimate, its spread against the standard errors stated, and how often two of them cover.

    The priors pull by a fifth of a standard error, Laplace's term by less.
    """
    every_fit = many_fits(name)
    assert all(one.converged for one in every_fit)
    # errors take the number of kinds of answers as known: a log in twenty (one in eight where there is no end of them) is
    # likelier under another, of which discount and concentration are other things
    kinds = num_kinds(MODELS[name].answers)
    of_these_kinds = [one for one in every_fit if num_kinds(one.population.answers) == kinds]
    assert len(of_these_kinds) > 0.8 * NUM_LOGS
    for parameter, true in parameters(MODELS[name]).items():
        fits = of_these_kinds if parameter.endswith("answers") else every_fit
        estimates = np.array([parameters(one.population)[parameter] for one in fits])
        errors = np.array([one.standard_errors[parameter] for one in fits])
        z = (estimates - true) / errors
        covered = int((np.abs(z) < 1.96).sum())
        if name == "cut" and parameter == "no_answer_prob":
            assert (estimates == 0).all() and (errors > 0).all()
            continue
        assert abs(z.mean()) < 0.3 + 5 / np.sqrt(NUM_LOGS)
        if not parameter.endswith("answers"):  # whose errors grow with the estimate, and whose logs were picked
            assert 0.85 < estimates.std() / errors.mean() < 1.15  # 3 standard errors of a spread over 200
        assert binomtest(covered, len(fits), 0.95).pvalue > 1e-3
    effects = np.array([float(one.population.effect[0]) for one in every_fit])
    assert abs(effects.mean() - 8.0) < 5 * effects.std() / np.sqrt(NUM_LOGS)


@lru_cache
def large_logs(name: str) -> list[tuple[TraceLog, Fit]]:
    logs = drawn_logs({**MODELS, "tight": TIGHT}[name], 1, 3, 1000, 8)
    return list(zip(logs, fit_all(LengthCorrectness(), logs), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_large_logs_give_the_parameters_back(name: str) -> None:
    for _, one in large_logs(name):
        assert one.converged
        for parameter, true in parameters(MODELS[name]).items():
            found, error = parameters(one.population)[parameter], one.standard_errors[parameter]
            assert abs(found - true) < 4.5 * error
            assert error < 0.2
        assert abs(float(one.population.no_answer_prob) - float(MODELS[name].no_answer_prob)) < 0.03
        assert float(one.population.cap_tokens) == float(MODELS[name].cap_tokens)
        assert (float(one.population.answers.discount) < 0) == (name == "cut")


def test_a_cap_that_most_traces_feel_gives_the_parameters_back() -> None:
    """Right traces are those that ended below it: taken as they are, their scale would come out near .3."""
    for _, one in large_logs("tight"):
        assert one.converged and float(one.population.loop_prob) < 0.02
        for parameter, true in parameters(TIGHT).items():
            found, error = parameters(one.population)[parameter], one.standard_errors[parameter]
            assert abs(found - true) < 4.5 * error
            assert error < 0.2


@pytest.mark.parametrize("name", MODELS)
def test_problems_are_shrunk_towards_their_population(name: str) -> None:
    """Chances and effects, and the means and errors of the effects add up to the spread over problems."""
    spread = float(MODELS[name].effect_scale[0])
    for log, one in large_logs(name):
        observed, chance = log.correct.mean(axis=1), np.asarray(one.model.alpha / (one.model.alpha + one.model.beta))
        assert np.corrcoef(observed, chance)[0, 1] > 0.99
        assert chance.std() < observed.std()
        effect, error = np.asarray(one.model.effect), np.asarray(one.model.effect_scale)
        assert effect.std() < spread
        assert np.sqrt(effect.var() + (error**2).mean()) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_is_enough(name: str) -> None:
    logs = drawn_logs(MODELS[name], 3, 4, NUM_PROBLEMS, NUM_TRACES)
    single = fit_all(LengthCorrectness(), logs)
    double = fit_all(LengthCorrectness(), logs, float64=True)
    for one, other in zip(single, double, strict=True):
        assert other.converged and other.model.shift.dtype == np.float64
        for parameter, value in parameters(one.population).items():
            error = other.standard_errors[parameter]
            assert abs(value - parameters(other.population)[parameter]) < 0.005 * error
            assert one.standard_errors[parameter] == pytest.approx(error, rel=5e-3)


def test_twice_the_problems_halve_the_variances() -> None:
    part = statistics(drawn_logs(CUT, 4, 1, 400, 8)[0])
    twice = part._replace(
        **{
            name: np.concatenate([values, values]) if values.shape[:1] == (400,) else 2 * values
            for name, values in part._asdict().items()
        }
    )
    with jax.enable_x64(True):
        found = estimate(jax.tree.map(lambda values: jnp.asarray(values, float), stack([part, twice])))
        length_errors, success_errors = np.array(found.lengths.shared_error), np.array(found.success[2:4])
        errors = np.concatenate([length_errors, success_errors, np.array([found.answers.log_concentration_error])])
    np.testing.assert_allclose((errors[:, 0] / errors[:, 1]) ** 2, 2, rtol=0.06)  # but for the priors


def columns_of(right: list[list[bool]], cut: bool = False) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    table: dict[str, list[Any]] = {"problem": [], "length_tokens": [], "correct": [], "answer": [], "censored": []}
    for problem, row in enumerate(right):
        for correct in row:
            censored = cut and not correct
            table["problem"].append(problem)
            table["correct"].append(correct)
            table["length_tokens"].append(5000 if censored else int(rng.lognormal(7.5, 0.3)))
            table["answer"].append("right" if correct else None if censored else "wrong")
            table["censored"].append(censored)
    return table


EDGES = {
    "all right": from_columns(columns_of([[True] * 4] * 10)),
    "all wrong": from_columns(columns_of([[False] * 4] * 10)),
    "all censored": from_columns(columns_of([[False] * 4] * 10, cut=True)),
    "one problem": from_columns(columns_of([[True, False, True, False]])),
    "one trace": from_columns(columns_of([[True]])),
    "one censored trace": from_columns(columns_of([[False]], cut=True)),
    "right or censored": from_columns(columns_of([[True, False] * 2] * 10, cut=True)),
    "problems all right or all wrong": from_columns(columns_of([[True] * 4, [False] * 4] * 5)),
    "ragged": from_columns(columns_of([[True], [False] * 7, [True, False]])),
}


@lru_cache
def edge_fits(pooled: bool) -> dict[str, Fit]:
    return dict(zip(EDGES, fit_all(LengthCorrectness(), list(EDGES.values()), pooled=pooled), strict=True))


@pytest.mark.parametrize("name", EDGES)
def test_odd_logs_stay_finite_and_converge(name: str) -> None:
    log = EDGES[name]
    for pooled in (False, True):
        one = edge_fits(pooled)[name]
        assert one.converged
        for model in (one.model, one.population):
            finite = dataclasses.replace(model, cap_tokens=jnp.ones(())) if log.cap_tokens is None else model
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(finite))
        assert all(np.isfinite(error) and error > 0 for error in one.standard_errors.values())
        for scale in (one.model.scale_right, one.model.scale_wrong, *one.model.effect_scale):
            assert 0.01 < scale < 10


def test_more_logs_and_longer_ones_beside_it_change_nothing() -> None:
    small, large = drawn_logs(CUT, 5, 1, 7, 8)[0], drawn_logs(CUT, 6, 1, 60, 8)[0]
    alone, beside = fit(LengthCorrectness(), small), fit_all(LengthCorrectness(), [large] * 3 + [small])[3]
    assert beside.model.num_problems == 7
    for parameter, value in parameters(alone.population).items():
        assert value == pytest.approx(
            parameters(beside.population)[parameter], abs=0.01 * alone.standard_errors[parameter]
        )
        assert alone.standard_errors[parameter] == pytest.approx(beside.standard_errors[parameter], rel=5e-3)


def test_unknown_correctness_is_counted_and_left_out() -> None:
    table = columns_of([[True, False, True, False]] * 20)
    known = from_columns(table)
    extra = {name: values + values[:40] for name, values in table.items()}
    extra["correct"] = table["correct"] + [None] * 40
    extra["length_tokens"] = table["length_tokens"] + [1] * 40
    one, other = fit_all(LengthCorrectness(), [known, from_columns(extra)])
    assert (other.num_unjudged, other.num_traces, other.num_problems) == (40, 80, 20)
    assert one.num_unjudged == 0
    assert parameters(one.population) == pytest.approx(parameters(other.population), abs=1e-3)


def test_no_judged_trace_is_an_error() -> None:
    log = from_columns({"problem": ["a", "b"], "length_tokens": [10, 20]})
    with pytest.raises(ValueError, match="log 1: expected traces of known correctness"):
        fit_all(LengthCorrectness(), [from_columns(columns_of([[True]])), log])


def test_a_model_no_fit_is_known_of_is_an_error() -> None:
    with pytest.raises(TypeError, match="expected one of LengthCorrectness, got Answers"):
        fit(Answers(), EDGES["one problem"])


def test_pooled_fit_is_simple_moments() -> None:
    """Without censoring, with many traces: shares, means and deviations of each class, as if of one problem."""
    log = drawn_logs(PLAIN, 7, 1, 800, 8)[0]
    one = fit(LengthCorrectness(), log, pooled=True)
    assert one.model.num_problems == 1
    y, right = np.log(log.length_tokens), log.correct
    assert float(one.model.alpha[0] / (one.model.alpha[0] + one.model.beta[0])) == pytest.approx(right.mean(), abs=1e-3)
    assert float(one.model.effect[0]) == pytest.approx(y[right].mean(), abs=2e-3)
    assert float(one.model.shift) == pytest.approx(y[~right].mean() - y[right].mean(), abs=2e-3)
    assert float(one.model.scale_right) == pytest.approx(y[right].std(), rel=2e-3)
    assert float(one.model.scale_wrong) == pytest.approx(y[~right].std(), rel=2e-3)


def test_chances_against_betabinom() -> None:
    rng = np.random.default_rng(0)
    num_traces = rng.integers(1, 9, 300)
    right = rng.binomial(num_traces, rng.beta(0.8, 1.7, 300))
    table = columns_of([[i < k for i in range(n)] for n, k in zip(num_traces, right, strict=True)])
    part = statistics(from_columns(table))

    def loss(point: np.ndarray) -> float:
        mean, total = expit(point[0]), np.exp(point[1])
        prior = 0.5 * (point[0] / 2) ** 2 + 0.5 * ((point[1] - np.log(2)) / 1.5) ** 2
        return prior - betabinom.logpmf(right, num_traces, mean * total, (1 - mean) * total).sum()

    best = minimize(loss, np.array([0.0, 0.7]), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    with jax.enable_x64(True):
        ours = jax.jit(fit_success)(jax.tree.map(lambda values: jnp.asarray(values, float), part))
    np.testing.assert_allclose(ours[:2], best.x, atol=1e-5)
    step = 1e-4
    hessian = [
        [
            (sum(s * t * loss(best.x + step * (s * u + t * v)) for s in (1, -1) for t in (1, -1))) / (4 * step**2)
            for v in np.eye(2)
        ]
        for u in np.eye(2)
    ]
    np.testing.assert_allclose(ours[2:4], np.sqrt(np.diag(np.linalg.inv(hessian))), rtol=1e-4)


@pytest.mark.parametrize("answers", [Answers(0.5, 0.5), Answers(0.0, 2.0), Answers(-1.0, 3.0), Answers(-0.4, 2.0)])
def test_both_branches_of_the_distribution_of_answers(answers: Answers) -> None:
    """The same maximum from any start by another method, and the right branch."""
    log = drawn_logs(LengthCorrectness(0.5, 4.0, answers=answers), 8, 1, 600, 8)[0]
    part = statistics(log)
    with jax.enable_x64(True):
        data = jax.tree.map(lambda values: jnp.asarray(values, float), part)
        ours = jax.jit(fit_answers)(data).answers
        value = float(ours.log_likelihood(data.more_kinds, data.more_wrong, data.more_copies))
        likelihood = jax.jit(lambda answers: answers.log_likelihood(data.more_kinds, data.more_wrong, data.more_copies))

        def loss(point: np.ndarray, kinds: int) -> float:
            weight, discount = np.exp(point[0]), expit(point[1])
            found = Answers(-weight, kinds * weight) if kinds else Answers(discount, weight - discount)
            return -float(likelihood(found)) + (0 if kinds else ((point[1] + 1) / 2) ** 2 / 2) + (point[0] / 2) ** 2 / 2

        searched = [
            minimize(loss, np.array([0.3, 0.2]), args=(kinds,), method="Nelder-Mead").fun for kinds in (0, 2, 3, 5)
        ]
    finite = float(ours.discount) < 0
    assert finite == (float(answers.discount) < 0)
    if finite:
        assert float(ours.concentration) == pytest.approx(
            -float(ours.discount) * float(-answers.concentration / answers.discount)
        )
    assert -value < min(searched) + 1e-3  # the searched values carry the priors


def test_the_ascent_leaves_a_start_where_the_surface_bends_up() -> None:
    """Moves are shortened as a whole: cut parameter by parameter, this one would go downhill and stay."""

    def surface(at: jax.Array) -> jax.Array:
        return -0.3 * jnp.log1p((at[0] - 4) ** 2) - jnp.log1p(100 * (at[1] - 0.95 * at[0]) ** 2)

    found = jax.jit(lambda start: ascend(surface, start))(jnp.array([0.0, 0.3]))
    np.testing.assert_allclose(found.point, [4, 3.8], atol=1e-3)
    assert np.isfinite(found.standard_error).all() and found.converged


def test_an_ascent_without_a_maximum_says_so() -> None:
    found = jax.jit(lambda start: ascend(lambda at: jnp.sum(at), start))(jnp.zeros(2))
    assert not found.converged


def test_one_trace_a_shape() -> None:
    """And sizes that differ a little count as one."""
    estimate.clear_cache()
    for num_problems, shape in ((21, 24), (23, 24)):
        logs = drawn_logs(PLAIN, 9, 1, num_problems, 4)
        fit_all(LengthCorrectness(), logs)
        assert stack([statistics(log) for log in logs]).num_right.shape == (1, shape)
    assert estimate._cache_size() == 1
