"""Expectations against closed forms, their errors and reductions against repetition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.scipy.special import ndtri
from scipy.stats import binom, norm

from sims import Estimate
from sims.variance import Antithetic, Independent, LatinHypercube, Sobol, expectation

POINTS = [Independent(), Antithetic(), LatinHypercube(16), Sobol(16)]
NUM_UNIFORMS, SCALE = 3, 0.4
SHARE = float(norm.sf(3**-0.5))
EXACT = {"growth": math.exp(NUM_UNIFORMS * SCALE**2 / 2), "inside": SHARE}
CONTROLS = {"score": 0.0, "square": 1.0, "constant": 5.0}
NUM_REPETITIONS = 120


def integrand(uniforms):
    """Log-normal growth; a side of a plane; two components that go along; one that does not vary."""
    z = ndtri(uniforms)
    return {
        "growth": jnp.exp(SCALE * jnp.sum(z)),
        "inside": z[0] + z[1] > z[2] + 1,
        "score": jnp.mean(z),
        "square": jnp.mean(z**2),
        "constant": 5.0,
    }


def repeated(points, controls, num_evaluations=512):
    keys = jax.random.split(jax.random.key(1), NUM_REPETITIONS)
    return [
        expectation(key, integrand, NUM_UNIFORMS, points=points, controls=controls, num_evaluations=num_evaluations)
        for key in keys
    ]


@pytest.mark.parametrize("controls", [None, CONTROLS], ids=["alone", "controls"])
@pytest.mark.parametrize("points", POINTS, ids=str)
def test_means_errors_coverage_and_reductions_are_those_of_repetition(points, controls):
    """Of 120 repetitions: no bias, the stated errors, intervals that cover, and the reduction that was claimed."""
    found = repeated(points, controls)
    assert all(not each.warnings for each in found)
    for name, exact in EXACT.items():
        estimates = [getattr(each, name) for each in found]
        means = np.array([estimate.mean for estimate in estimates])
        overall = Estimate.of(means)
        assert abs(overall.mean - exact) < 4 * overall.standard_error
        spread = means.std(ddof=1)  # its relative error is 1 / sqrt(2 x 120) = 6.5 %
        stated = math.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
        assert stated == pytest.approx(spread, rel=0.25)
        covered = sum(low <= exact <= high for low, high in (estimate.interval() for estimate in estimates))
        assert binom.cdf(covered, NUM_REPETITIONS, 0.95) > 1e-4, f"{name}: {covered} of {NUM_REPETITIONS}"
        variance = math.exp(2 * NUM_UNIFORMS * SCALE**2) - exact**2 if name == "growth" else SHARE * (1 - SHARE)
        observed = variance / 512 / spread**2
        claimed = 1 / np.mean([1 / each.reduction[name].mean for each in found])
        assert claimed == pytest.approx(observed, rel=0.4)


def test_plain_sampling_is_its_own_measure():
    found = expectation(jax.random.key(0), integrand, NUM_UNIFORMS, num_evaluations=1000)
    assert found.reduction["growth"].mean == pytest.approx(1, rel=1e-9)
    assert found.reduction["growth"].standard_error < 1e-9
    assert found.growth.num_independent == 1000


@pytest.mark.parametrize(("points", "least"), [(Antithetic(), 2), (LatinHypercube(16), 3), (Sobol(16), 20)], ids=str)
def test_reductions_on_a_smooth_integrand(points, least):
    found = expectation(jax.random.key(0), integrand, NUM_UNIFORMS, points=points, num_evaluations=2**13)
    gain = found.reduction["growth"]
    assert gain.mean - 2 * gain.standard_error > least


def test_controls_that_explain_all_leave_nothing():
    def linear(uniforms):
        z = ndtri(uniforms)
        return {"value": 3 * z[0] - z[1] + 7, "first": z[0], "second": z[1]}

    found = expectation(jax.random.key(0), linear, 2, num_evaluations=1000, controls={"first": 0, "second": 0})
    assert found.value.mean == pytest.approx(7, abs=1e-6)
    assert found.reduction["value"].mean > 1e10 and set(found.estimates) == {"value"}


def test_many_controls_of_which_some_say_the_same():
    def doubled(uniforms):
        z = ndtri(uniforms)[0]
        return {"value": jnp.exp(SCALE * z), "once": z, "twice": 2 * z, "five": 5.0, "shifted": z + 100}

    controls = {"once": 0.0, "twice": 0.0, "five": 5.0, "shifted": 100.0}
    found = expectation(jax.random.key(0), doubled, 1, num_evaluations=2000, controls=controls)
    alone = expectation(jax.random.key(0), doubled, 1, num_evaluations=2000, controls={"once": 0.0})
    assert found.value.mean == pytest.approx(alone.value.mean, abs=0.1 * alone.value.standard_error)
    assert abs(found.value.mean - math.exp(SCALE**2 / 2)) < 5 * found.value.standard_error


def test_a_control_whose_mean_is_not_the_one_stated_is_told():
    wrong = CONTROLS | {"score": 0.2}
    found = expectation(jax.random.key(0), integrand, NUM_UNIFORMS, num_evaluations=4000, controls=wrong)
    (warning,) = found.warnings
    assert warning.startswith("control score: expected the stated mean 0.2, got ") and warning in repr(found)
    (constant,) = expectation(
        jax.random.key(0), integrand, NUM_UNIFORMS, num_evaluations=4000, controls={"constant": 4.0}
    ).warnings
    assert constant == "control constant: expected the stated mean 4, got 5 ± 0"


def test_what_does_not_vary_has_no_reduction():
    def flat(uniforms):
        return {"constant": 5.0, "even": jnp.where(uniforms[0] < 0.5, 0.0, 1.0)}

    found = expectation(jax.random.key(0), flat, 1, points=Antithetic(), num_evaluations=100)
    assert found.constant == Estimate(5, 0, 50) and math.isnan(found.reduction["constant"].mean)
    assert found.even == Estimate(0.5, 0, 50) and math.isinf(found.reduction["even"].mean)
    assert "even      0.5, variance reduced to nothing" in repr(found)


FACTORS = st.floats(-10, 10, width=32, allow_subnormal=False)


@pytest.mark.parametrize("points", POINTS, ids=str)
@given(slope=FACTORS, intercept=FACTORS, seed=st.integers(0, 2**31 - 1))
@settings(max_examples=5, deadline=None)
def test_it_is_linear_and_a_factor_leaves_reductions_as_they_are(points, slope, intercept, seed):
    """The line is an argument of the compiled function (a pytree), not a part of it: it is compiled once."""
    found = expectation(
        jax.random.key(seed), jax.tree_util.Partial(_line, jnp.float32(slope), jnp.float32(intercept)), 2,
        points=points, num_evaluations=256, controls={"control": 0.5 + intercept},
    )  # fmt: skip
    value, line = found.value, found.line
    size = abs(intercept) + abs(slope)
    assert line.mean == pytest.approx(slope * value.mean + intercept, abs=1e-5 * size)
    assert line.standard_error == pytest.approx(abs(slope) * value.standard_error, abs=1e-5 * size)
    if abs(slope) > 0.1:  # else float32's rounding of the intercept counts
        assert found.reduction["line"].mean == pytest.approx(found.reduction["value"].mean, rel=0.02)


def _line(slope, intercept, uniforms):
    value = jnp.exp(uniforms[0] - uniforms[1] ** 2)
    return {"value": value, "line": slope * value + intercept, "control": uniforms[0] + intercept}


def test_an_integrand_is_compiled_once():
    traced = []

    def counted(uniforms):
        traced.append(uniforms)
        return uniforms[0]

    first = expectation(jax.random.key(0), counted, 1, num_evaluations=5000)
    once = len(traced)
    second = expectation(jax.random.key(1), counted, 1, num_evaluations=20_000)
    assert len(traced) == once and first.value.mean != second.value.mean


def test_named_tuples_and_scalars_are_taken_and_others_refused():
    assert expectation(jax.random.key(0), jnp.sum, 2, num_evaluations=100).value.num_independent == 100
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"expected scalars, got value of shape \(2,\)"):
        expectation(key, lambda uniforms: uniforms, 2, num_evaluations=100)
    with pytest.raises(ValueError, match="expected finite values, got inf in value"):
        expectation(key, lambda uniforms: 1 / (uniforms[0] * 0), 2, num_evaluations=100)
    with pytest.raises(ValueError, match="controls: expected components of the integrand, value, got other"):
        expectation(key, jnp.sum, 2, num_evaluations=100, controls={"other": 0})
    with pytest.raises(ValueError, match="controls: expected a component besides them, got none"):
        expectation(key, jnp.sum, 2, num_evaluations=100, controls={"value": 1})
    with pytest.raises(ValueError, match="controls: expected at most 2 with 8 independent units, got 3"):
        points = LatinHypercube(8)
        expectation(key, integrand, 2, points=points, num_evaluations=800, controls=CONTROLS)
    with pytest.raises(AttributeError, match="no component 'other'; it has value"):
        expectation(key, jnp.sum, 2, num_evaluations=100).other  # noqa: B018
