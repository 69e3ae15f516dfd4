"""Tails against SciPy in double precision, derivatives against differences, quantiles against the distribution itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import norm

from stopping.models.normal_tails import DEEP, FAR, quantile_below, upper_tail


def test_upper_tail() -> None:
    z = np.linspace(-12, 30, 85)
    with jax.enable_x64(True):
        tail = upper_tail(jnp.asarray(z))
        np.testing.assert_allclose(tail.log_mass, norm.logsf(z), rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(tail.hazard, np.exp(norm.logpdf(z) - norm.logsf(z)), rtol=1e-8)
        derivative = lambda f: jax.vmap(jax.grad(f))(jnp.asarray(z))  # noqa: E731
        np.testing.assert_allclose(derivative(lambda x: upper_tail(x).log_mass), -tail.hazard, rtol=1e-8)
        np.testing.assert_allclose(derivative(lambda x: upper_tail(x).hazard), tail.bend, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(derivative(lambda x: upper_tail(x).bend), tail.twist, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(derivative(lambda x: upper_tail(x).twist), tail.warp, rtol=1e-2, atol=1e-6)


def test_far_out_single_precision_keeps_its_digits_and_curvatures_their_sign() -> None:
    z = np.concatenate([np.linspace(-12, 7, 200), np.linspace(7, FAR, 400)]).astype(np.float32)
    single = jax.tree.map(lambda leaf: np.asarray(leaf, float), jax.jit(upper_tail)(jnp.asarray(z)))
    with jax.enable_x64(True):
        double = jax.tree.map(np.asarray, upper_tail(jnp.asarray(z, float)))
    np.testing.assert_allclose(single.hazard, double.hazard, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(1 - single.bend, 1 - double.bend, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(single.twist, double.twist, rtol=5e-2, atol=2e-3)
    np.testing.assert_allclose(single.warp, double.warp, rtol=5e-2, atol=2e-2)
    assert (single.bend < 1).all()
    high = z > 7.1
    np.testing.assert_allclose(1 - single.bend[high], 1 - double.bend[high], rtol=2e-3)


def test_no_cap_is_finite() -> None:
    tail = upper_tail(jnp.array([-np.inf, np.inf]))
    assert all(np.isfinite(np.asarray(values)).all() for values in tail)
    np.testing.assert_array_equal(tail.z, [-FAR, FAR])
    assert tail.log_mass[0] == tail.hazard[0] == tail.bend[0] == 0


@pytest.mark.parametrize("limit", [np.inf, 6.0, 0.0, -5.0, -7.9, -8.1, -13.0, -30.0])
def test_quantiles_below_a_limit(limit: float) -> None:
    """In single precision, by the share of mass that lies below the score returned."""
    share = np.concatenate([np.geomspace(1e-12, 0.1, 12), np.linspace(0.1, 0.999, 30)])
    score = quantile_below(jnp.float32(limit), jnp.asarray(share, jnp.float32), jnp.asarray(1 - share, jnp.float32))
    score = np.asarray(score, float)
    assert (score <= limit).all() and (np.diff(score) >= 0).all()
    expected = np.array([_quantile(np.log(s) + log_ndtr(limit)) for s in share])
    np.testing.assert_allclose(score, expected, rtol=3e-6, atol=5e-5 if limit < DEEP else 2e-5)


def _quantile(log_mass: float) -> float:
    low, high = -60.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if log_ndtr(middle) < log_mass else (low, middle)
    return low
