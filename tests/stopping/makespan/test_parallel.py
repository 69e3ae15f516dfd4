"""Curves of parallel traces against golden values, quadrature in double precision, wider rules and simulation."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import erfc
from scipy.stats import norm

import sims
from sims import Estimate
from stopping.makespan import first_finish_curve, majority_curve, parallel
from stopping.makespan.parallel import Points, first_finish, majority
from stopping.models import Answers, LengthCorrectness
from stopping.policies import FirstFinish, FixedSamples
from stopping.problems import Sampling

COUNTS = (1, 2, 4, 8, 16)
NODES_ERROR = 3e-6  # of the quadrature, relative, with as many nodes as single precision deserves
SETTLED = settings(max_examples=25, deadline=None, derandomize=True)


def point(**numbers: Any) -> Points:
    known = {"loop_prob": 0.0, "no_answer_prob": 0.0, "log_cap": np.inf} | numbers
    values = np.broadcast_arrays(*(np.atleast_1d(np.asarray(known[name], float)) for name in Points._fields))
    return Points(*(jnp.asarray(value, float) for value in values))


def normal_logs(chance: float, right: tuple[float, float], wrong: tuple[float, float], unit: float = 1.0) -> Points:
    (mean_right, scale_right), (mean_wrong, scale_wrong) = np.array([right, wrong]) * unit
    return point(
        chance=chance, mean_right=mean_right, mean_wrong=mean_wrong, scale_right=scale_right, scale_wrong=scale_wrong
    )


# pi, (m1, s1), (m0, s0) -> A(n) and E[min] for n = 1, 2, 4, 8, 16; lengths are normal, not their logs
CARD = [
    ((0.6, (8, 2), (12, 2)), (0.6000, 0.8022, 0.9286, 0.9774, 0.9917), (9.600, 8.005, 6.753, 5.778, 4.987)),
    ((0.6, (8, 2), (12, 6)), (0.6000, 0.7135, 0.6988, 0.5988, 0.4509), None),
]


@pytest.mark.parametrize(("parameters", "accuracy", "shortest"), CARD)
def test_first_finish_search_on_normal_lengths(
    parameters: Any, accuracy: Any, shortest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With us the logs of lengths are normal. The mean of a normal length y is the slope of E exp(u y) at u = 0."""
    unit = 1e-8
    with jax.enable_x64(True):
        usual, twice = (first_finish(normal_logs(*parameters, u), COUNTS, False) for u in (unit, 2 * unit))
        monkeypatch.setattr(parallel, "NUM_NODES", 96)  # A(16) = .45095 of the second case is hard to round
        curve = first_finish(normal_logs(*parameters, unit), COUNTS, False)
    assert [f"{value:.4f}" for value in curve.accuracy[0]] == [f"{value:.4f}" for value in accuracy]
    np.testing.assert_allclose(usual.accuracy[0], accuracy, atol=1e-4)
    if shortest is not None:
        slope = np.subtract(twice.latency_tokens[0], usual.latency_tokens[0]) / unit
        assert [f"{value:.3f}" for value in slope] == [f"{value:.3f}" for value in shortest]


def test_dispersed_wrong_traces_make_the_very_short_ones_suspect() -> None:
    """The posterior peaks at l* = (m1 s0^2 - m0 s1^2) / (s0^2 - s1^2) = 7.5 and falls to 0 below."""
    length = np.arange(-40, 20, 0.01)
    with jax.enable_x64(True):
        at = parallel._distribution(jnp.asarray(length), normal_logs(*CARD[1][0]), False)
        posterior = np.asarray(at.right / at.ending)
    assert length[posterior.argmax()] == pytest.approx(7.5, abs=0.01)
    assert posterior[0] < 1e-12


@pytest.mark.parametrize("no_answer_prob", [0.0, 0.3])
def test_length_that_says_nothing_gives_the_chance_itself(no_answer_prob: float) -> None:
    parameters = {"mean_right": 8.0, "mean_wrong": 8.0, "scale_right": 0.5, "scale_wrong": 0.5}
    with jax.enable_x64(True):
        curve = first_finish(point(chance=0.3, no_answer_prob=no_answer_prob, **parameters), COUNTS, False)
    if no_answer_prob == 0:
        np.testing.assert_allclose(curve.accuracy[0], 0.3, rtol=NODES_ERROR)
    else:  # silent traces step aside: P(some trace answers) times the share of right ones among those that do
        silent, n = 0.7 * no_answer_prob, np.array(COUNTS)
        np.testing.assert_allclose(curve.accuracy[0], (1 - silent**n) * 0.3 / (1 - silent), rtol=NODES_ERROR)


def scattered(num_points: int, scales: tuple[float, float], capped: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    draw = lambda low, high: rng.uniform(low, high, num_points)  # noqa: E731
    mean = draw(7, 9)
    numbers = {
        "chance": draw(0.1, 0.95), "mean_right": mean, "mean_wrong": mean + draw(-1, 1),
        "scale_right": draw(*scales), "scale_wrong": draw(*scales), "no_answer_prob": draw(0, 0.3),
    }  # fmt: skip
    return numbers | ({"loop_prob": draw(0, 0.3), "log_cap": mean + draw(0, 2)} if capped else {})


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("integrate", [first_finish, majority])
def test_single_precision_is_enough(integrate: Any, capped: bool) -> None:
    """Rounding alone: 2e-6 of accuracies, 4e-6 of lengths, relative."""
    numbers = scattered(300, (0.3, 0.6), capped)

    def curve() -> list[np.ndarray]:
        table = (Answers(0.2, 0.5).leads(16),) * (integrate is majority)
        return [np.asarray(values) for values in parallel.evaluate(integrate, point(**numbers), COUNTS, capped, *table)]

    single = curve()
    with jax.enable_x64(True):
        double = curve()
    assert single[0].dtype == np.float32 and double[0].dtype == np.float64
    assert np.abs(single[0] - double[0]).max() < 2e-6
    np.testing.assert_allclose(single[1], double[1], rtol=4e-6)
    np.testing.assert_allclose(single[2], double[2], rtol=4e-6)


@pytest.mark.parametrize(
    ("scales", "capped", "error"),
    [((0.3, 0.6), False, NODES_ERROR), ((0.3, 0.6), True, NODES_ERROR), ((0.2, 0.9), False, 5e-3)],
)
@pytest.mark.parametrize("integrate", [first_finish, majority])
def test_number_of_nodes(
    integrate: Any, scales: Any, capped: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against ten times the nodes, in double precision. Scales that differ by more than four still give two digits."""
    with jax.enable_x64(True):
        points = point(**scattered(300, scales, capped))
        table = (Answers().leads(16),) * (integrate is majority)
        few = integrate(points, COUNTS, capped, *table)
        monkeypatch.setattr(parallel, "NUM_NODES", 480)
        monkeypatch.setattr(parallel, "NUM_NODES_CAPPED", 480)
        many = integrate(points, COUNTS, capped, *table)
    assert np.abs(few.accuracy - many.accuracy).max() < error
    np.testing.assert_allclose(few.latency_tokens, many.latency_tokens, rtol=error)
    np.testing.assert_allclose(few.total_tokens, many.total_tokens, rtol=error)


PARAMETERS = {
    "plain": {},
    "cap": {"log_cap": 8.6},
    "loops": {"log_cap": 9.5, "loop_prob": 0.2},
    "silent": {"no_answer_prob": 0.25},
    "all": {"log_cap": 8.4, "loop_prob": 0.1, "no_answer_prob": 0.3},
}


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
def test_against_adaptive_quadrature(parameters: dict[str, float]) -> None:
    """From the survival functions alone: expectations of minima and maxima as integrals of tails."""
    numbers = {
        "chance": 0.55,
        "mean_right": 8.0,
        "mean_wrong": 8.3,
        "scale_right": 0.35,
        "scale_wrong": 0.5,
    } | parameters
    p, q = numbers["chance"], 1 - numbers["chance"]
    loop, silent, log_cap = (
        numbers.get("loop_prob", 0),
        numbers.get("no_answer_prob", 0),
        numbers.get("log_cap", np.inf),
    )
    right, wrong = norm(8.0, 0.35), norm(8.3, 0.5)
    top = min(log_cap, 14.0)
    running_right = lambda y: 1 - right.cdf(y) / right.cdf(log_cap)  # noqa: E731
    running_wrong = lambda y: loop + (1 - loop) * wrong.sf(y)  # noqa: E731
    running = lambda y: p * running_right(y) + q * running_wrong(y)  # noqa: E731
    mute = lambda y: q * silent * (1 - running_wrong(y))  # noqa: E731
    unanswered = lambda y: running(y) + mute(y)  # noqa: E731

    def integral(values: Any) -> float:
        return quad(values, 3.0, top, epsabs=1e-11, epsrel=1e-11, limit=400, points=[7.5, 8.0, 8.3])[0]

    def finisher(n: int) -> tuple[float, float, float]:
        accuracy = integral(lambda y: n * p * right.pdf(y) / right.cdf(log_cap) * unanswered(y) ** (n - 1))
        # the clock runs while nobody has answered and somebody runs; each trace while it runs and no other has answered
        latency = integral(lambda y: np.exp(y) * (unanswered(y) ** n - mute(y) ** n))
        total = integral(lambda y: np.exp(y) * n * running(y) * unanswered(y) ** (n - 1))
        return accuracy, latency + np.exp(3.0), total + n * np.exp(3.0)

    def everyone(n: int) -> tuple[float, float]:
        latency = integral(lambda y: np.exp(y) * (1 - (1 - running(y)) ** n))
        total = integral(lambda y: np.exp(y) * n * running(y))
        return latency + np.exp(3.0), total + n * np.exp(3.0)

    capped = bool(np.isfinite(log_cap))
    error = 1e-7 if capped else NODES_ERROR  # without a cap, what lies beyond 5.5 scales is left out
    with jax.enable_x64(True):
        first = first_finish(point(**numbers), (1, 4, 8), capped)
        vote = majority(point(**numbers), (1, 4, 8), capped, Answers().leads(8))
    for column, n in enumerate((1, 4, 8)):
        np.testing.assert_allclose([field[0, column] for field in first], finisher(n), rtol=error)
        np.testing.assert_allclose([field[0, column] for field in vote[1:]], everyone(n), rtol=error)


MODELS = {
    "plain": LengthCorrectness(2.0, 1.5, 7.5, 0.5, shift=0.3, scale_right=0.35, answers=Answers(0.3, 0.8)),
    "shorter wrong, silent": LengthCorrectness(
        [1.0, 4.0, 8.0], [3.0, 1.0, 8.0], [7.5, 8.0, 7.0], 0.3, shift=-0.4, scale_wrong=0.7, no_answer_prob=0.3,
        answers=Answers(-1.0, 3.0),
    ),
    "cap": LengthCorrectness(2.0, 2.0, 7.5, 0.3, shift=0.4, cap_tokens=3000.0),
    "loops": LengthCorrectness(1.0, 2.0, 7.5, 0.2, shift=0.2, loop_prob=0.3, no_answer_prob=0.2, cap_tokens=6000.0),
}  # fmt: skip
NUM_REPLICAS = 16_384


def assert_within_errors(estimate: Estimate, exact: float, errors: float = 5) -> None:
    assert 0 < estimate.standard_error
    assert abs(estimate.mean - exact) < errors * estimate.standard_error


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_first_finish_against_simulation(model: LengthCorrectness) -> None:
    for n in (1, 4):
        curve = first_finish_curve(model, (n,))
        result = sims.simulate(jr.key(0), Sampling(n, model=model), FirstFinish(1), num_replicas=NUM_REPLICAS)
        assert_within_errors(result.correct, curve.accuracy.mean())
        assert_within_errors(result.latency_tokens, curve.latency_tokens.mean())
        assert_within_errors(result.total_tokens, curve.total_tokens.mean())


def test_first_finish_against_simulation_far_beyond_the_cap() -> None:
    """Effects up to 13 scales and more above the cap: right traces end just below it."""
    parameters: dict[str, Any] = dict(shift=0.3, scale_right=0.2, scale_wrong=0.3, loop_prob=0.1, cap_tokens=1500.0)
    model = LengthCorrectness(2.0, 1.5, 8.5, 1.0, **parameters)
    curve = first_finish_curve(model, (4,))
    played = sims.simulate(jr.key(2), Sampling(4, model=model), FirstFinish(1), num_replicas=NUM_REPLICAS)
    for result in (played, sims.first_finish(jr.key(3), model, 4, num_replicas=NUM_REPLICAS)):
        assert_within_errors(result.correct, curve.accuracy.mean())
    assert_within_errors(played.latency_tokens, curve.latency_tokens.mean())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_majority_against_simulation(model: LengthCorrectness) -> None:
    n = 6
    curve, problem = majority_curve(model, (n,)), Sampling(n, model=model)
    result = sims.simulate(jr.key(1), problem, FixedSamples(n), num_replicas=NUM_REPLICAS)
    assert_within_errors(result.latency_tokens, curve.latency_tokens.mean())
    assert_within_errors(result.total_tokens, curve.total_tokens.mean())
    world = sims.draw(jr.key(1), problem, NUM_REPLICAS)
    votes = (world.answer[:, :, None] == np.arange(n)).sum(axis=1)
    right_votes = (world.right & (world.answer >= 0)).sum(axis=1)
    leads = (right_votes == votes.max(axis=1)) & (right_votes > 0)
    ties = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1)
    assert_within_errors(Estimate.of(leads / ties), curve.accuracy.mean())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_one_trace_leaves_nothing_to_choose(model: LengthCorrectness) -> None:
    first, vote = first_finish_curve(model, (1,)), majority_curve(model, (1,))
    for one, other in zip(first, vote, strict=True):
        np.testing.assert_allclose(one, other, rtol=5e-6)
    np.testing.assert_allclose(vote.accuracy[:, 0], model.alpha / (model.alpha + model.beta), rtol=5e-6)


@SETTLED
@given(
    st.floats(0.05, 0.95), st.floats(-1, 1), st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0, 0.5), st.booleans()
)
def test_laws_of_the_curves(p: float, shift: float, right: float, wrong: float, silent: float, capped: bool) -> None:
    model = LengthCorrectness(
        8 * p, 8 * (1 - p), 8.0, 0.2, shift, right, wrong, loop_prob=0.1 * capped, no_answer_prob=silent,
        cap_tokens=8000.0 if capped else np.inf,
    )  # fmt: skip
    first, vote = first_finish_curve(model, COUNTS), majority_curve(model, COUNTS)
    assert (np.diff(vote.latency_tokens) > 0).all() and (np.diff(first.total_tokens) > 0).all()
    if silent == 0:  # else more traces may wait longer for an answer
        assert (np.diff(first.latency_tokens) < 0).all()
    assert (first.latency_tokens <= vote.latency_tokens * (1 + 1e-5)).all()
    assert (first.total_tokens <= vote.total_tokens * (1 + 1e-5)).all()
    for curve in (first, vote):
        assert (curve.accuracy > 0).all() and (curve.accuracy < 1 + 1e-6).all()


def test_problems_are_averaged_one_by_one() -> None:
    model = MODELS["shorter wrong, silent"]
    for curve in (first_finish_curve, majority_curve):
        together = curve(model, (2, 5))
        for index in range(model.num_problems):
            for all_of_them, alone in zip(together, curve(model.problem(index), (2, 5)), strict=True):
                np.testing.assert_allclose(all_of_them[index], alone[0], rtol=1e-5)


@pytest.mark.parametrize(("effect_scale", "scale", "error"), [(0.5, 0.4, 2e-5), (0.5, 0.2, 2e-5), (1.0, 0.2, 1e-4)])
@pytest.mark.parametrize("cap_tokens", [1500.0, 3000.0, 12_000.0])
def test_with_a_cap_the_effect_is_integrated_out(
    effect_scale: float, scale: float, error: float, cap_tokens: float
) -> None:
    """Against the mean over a dense grid of problems whose effects are known: at the far end most traces reach the cap."""
    z = np.linspace(-6.5, 6.5, 521)
    parameters: dict[str, Any] = dict(
        shift=0.4, scale_right=scale, scale_wrong=scale + 0.1, loop_prob=0.05, cap_tokens=cap_tokens
    )
    with jax.enable_x64(True):
        dense = first_finish_curve(LengthCorrectness(2.0, 1.5, 8.0 + effect_scale * z, 0.0, **parameters), (1, 8))
        curve = first_finish_curve(LengthCorrectness(2.0, 1.5, 8.0, effect_scale, **parameters), (1, 8))
    weight = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    np.testing.assert_allclose(curve.accuracy[0], weight @ dense.accuracy, atol=error)
    for ours, exact in zip(curve[1:], dense[1:], strict=True):
        np.testing.assert_allclose(ours[0], weight @ exact, rtol=error)
    single = first_finish_curve(LengthCorrectness(2.0, 1.5, 8.0, effect_scale, **parameters), (1, 8))
    for one, other in zip(single, curve, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = point(**scattered(50, (0.3, 0.6), True))
    whole = first_finish(points, (1, 3), True)
    monkeypatch.setattr(parallel, "BATCH", 16)
    jax.clear_caches()
    for one, other in zip(whole, parallel.evaluate(first_finish, points, (1, 3), True), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6)
    jax.clear_caches()


def test_normal_tails_in_single_precision() -> None:
    """Relative errors of rounding z^2 / 2, and a few units in the last place."""
    z = np.linspace(-12, 12, 20_001).astype(np.float32)
    density, below, above = parallel._normal(jnp.asarray(z), jnp.float32(0), jnp.float32(1))
    wide, unit = z.astype(float), np.finfo(np.float32).eps
    for ours, exact in (
        (density, norm.pdf(wide)),
        (below, 0.5 * erfc(-wide / np.sqrt(2))),
        (above, 0.5 * erfc(wide / np.sqrt(2))),
    ):
        error = np.abs(ours / exact - 1)
        assert (error < unit * (4 + 0.5 * wide**2)).all()
        assert error[np.abs(wide) < 3].max() < 1e-6
