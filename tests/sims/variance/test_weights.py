"""Importance sampling: rare events against SciPy, and exploding weights are reported."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtri
from scipy.stats import genpareto, norm

from sims.variance import Independent, Sobol, WeightReport, expectation
from sims.variance.weights import pareto_shape

MEAN, SCALE, NUM_TRACES = 8.0, 0.5, 4  # of log-lengths


def tilted_length(shift):
    """Whether a log-normal length exceeds e^(MEAN + SCALE shift), its score drawn with mean `shift`: exponential tilting."""

    def integrand(uniforms):
        score = ndtri(uniforms[0]) + shift
        rare = MEAN + SCALE * score > MEAN + SCALE * shift
        return {"rare": rare, "log_weight": shift**2 / 2 - shift * score}

    return integrand


@pytest.mark.parametrize("points", [Independent(), Sobol()], ids=str)
@pytest.mark.parametrize("chance", [1e-6, 1e-9])
def test_a_length_that_is_hardly_ever_exceeded(chance, points):
    cap = float(norm.isf(chance))
    found = expectation(jax.random.key(0), tilted_length(cap), 1, points=points, num_evaluations=2**14)
    assert abs(found.rare.mean - chance) < 5 * found.rare.standard_error + 1e-5 * chance  # float32's cap
    assert found.rare.standard_error < 0.03 * chance
    least = {1e-6: 1e5, 1e-9: 1e8}[chance]
    assert found.reduction["rare"].mean > least
    assert not found.weights["rare"].explodes
    assert found.weights["log_weight"].explodes  # far below the cap they are huge, where nothing is counted


def test_the_longest_of_several_by_a_mixture():
    """P(the longest of 4 log-normal lengths exceeds a cap) = 1e-7: one score, any of them, is drawn about the cap."""
    exact = 1e-7
    cap = float(norm.isf(-math.expm1(math.log1p(-exact) / NUM_TRACES)))

    def integrand(uniforms):
        score = ndtri(uniforms[1:])
        which = jnp.arange(NUM_TRACES) == jnp.floor(uniforms[0] * NUM_TRACES)
        score = score + cap * which
        log_density = jax.nn.logsumexp(cap * score - cap**2 / 2) - jnp.log(
            NUM_TRACES
        )  # of what was drawn, over the target's
        return {"rare": jnp.max(score) > cap, "log_weight": -log_density}

    found = expectation(jax.random.key(0), integrand, 1 + NUM_TRACES, points=Sobol(), num_evaluations=2**14)
    assert abs(found.rare.mean - exact) < 5 * found.rare.standard_error and not found.weights["rare"].explodes
    assert found.rare.standard_error < 0.02 * exact and found.reduction["rare"].mean > 1e6


def normal_from(scale, constant=0.0):
    """The second moment of a normal distribution from draws of another scale."""

    def integrand(uniforms):
        score = ndtri(uniforms[0]) * scale
        log_weight = -(score**2) / 2 + (score / scale) ** 2 / 2 + jnp.log(scale)
        return {"square": score**2, "one": 1.0, "log_weight": log_weight + constant}

    return integrand


def test_a_wide_sampler_is_well_behaved_and_a_narrow_one_explodes():
    wide = expectation(jax.random.key(0), normal_from(1.3), 1, num_evaluations=10_000)
    assert not wide.warnings and "Warning" not in repr(wide)
    narrow = expectation(jax.random.key(0), normal_from(0.5), 1, num_evaluations=10_000)
    assert "square: its weighted terms explode" in repr(narrow) and "the weights explode" in repr(narrow)
    assert narrow.weights["square"].pareto_shape > 0.7 > wide.weights["square"].pareto_shape


def test_both_estimates_and_the_mean_weight_as_a_control():
    found = expectation(jax.random.key(0), normal_from(1.3), 1, num_evaluations=20_000, controls={"one": 1.0})
    for estimate in (found.square, found.self_normalised["square"]):
        assert abs(estimate.mean - 1) < 5 * estimate.standard_error < 0.1
    plain = expectation(jax.random.key(0), normal_from(1.3), 1, num_evaluations=20_000)
    assert found.square.standard_error < plain.square.standard_error
    # a fourth moment of 3: the variance of the square is 2
    assert plain.reduction["square"].mean == pytest.approx(2 / 20_000 / plain.square.standard_error**2, rel=0.05)


@pytest.mark.parametrize("constant", [-5000.0, 5000.0])
def test_weights_known_up_to_a_factor_beyond_float64(constant):
    """In float32 5,000 is known to 5e-4, and so are the weights, each by itself."""
    found = expectation(jax.random.key(0), normal_from(1.3, constant), 1, num_evaluations=20_000)
    exact = expectation(jax.random.key(0), normal_from(1.3), 1, num_evaluations=20_000)
    assert found.self_normalised["square"].mean == pytest.approx(exact.self_normalised["square"].mean, abs=1e-3)
    assert math.isnan(found.square.mean) and math.isnan(found.reduction["square"].mean)


def test_a_weight_of_nothing_hides_what_stands_there():
    def integrand(uniforms):
        return {"value": 1 / uniforms[0], "log_weight": jnp.where(uniforms[0] > 0.5, jnp.log(2.0), -jnp.inf)}

    found = expectation(jax.random.key(0), integrand, 1, num_evaluations=10_000)  # 2 log 2 over the upper half
    assert abs(found.value.mean - 2 * math.log(2)) < 5 * found.value.standard_error

    def never(uniforms):
        return {"value": uniforms[0], "log_weight": -jnp.inf}

    with pytest.raises(ValueError, match="expected a log_weight above -inf at some point, got none"):
        expectation(jax.random.key(0), never, 1, num_evaluations=100)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_the_shape_of_pareto_terms_is_found(shape):
    """The tail of a generalised Pareto distribution has its shape; means over 50 samples, beside maximum likelihood."""
    random = np.random.default_rng(0)
    samples = genpareto.rvs(shape, size=(50, 10_000), random_state=random)
    found = [pareto_shape(sample) for sample in samples]
    weighted = (300 * shape + 5) / 310  # drawn towards 1/2
    assert np.mean(found) == pytest.approx(weighted, abs=5 * np.std(found) / math.sqrt(50) + 0.02)
    tail = np.sort(samples[0])[-301:]
    likeliest = genpareto.fit(tail[1:] - tail[0], floc=0)[0]
    assert (found[0] * 310 - 5) / 300 == pytest.approx(likeliest, abs=0.02)


def test_reports_by_hand():
    assert WeightReport.of(np.full(100, 1e-200)) == WeightReport(100, 100, 0.01, -math.inf)
    one = WeightReport.of(np.array([0.0, 0.0, 3.0, 0.0]))
    assert (one.effective_size, one.largest_share) == (1, 1) and math.isnan(one.pareto_shape) and one.explodes
    two = WeightReport.of(np.array([1.0, 3.0]))
    assert (two.effective_size, two.largest_share) == (pytest.approx(1.6), 0.75)
    none = WeightReport.of(np.zeros(100))
    assert none.effective_size == 0 and none.explodes
    assert not WeightReport.of(np.random.default_rng(0).random(1000)).explodes


def test_a_scale_changes_no_report():
    terms = genpareto.rvs(0.6, size=1000, random_state=np.random.default_rng(0))
    report, scaled = WeightReport.of(terms), WeightReport.of(terms * 1e250)
    for name, value in vars(report).items():
        assert getattr(scaled, name) == pytest.approx(value, rel=1e-9)
