"""The objective against exact likelihoods, its derivatives against automatic ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from stopping.calibration.length_likelihood import PRIOR_MEAN, PRIOR_SCALE, Shared, derivatives, objective, share_wrong
from stopping.calibration.lengths import _newton, fit_lengths
from stopping.calibration.sufficient_statistics import Statistics
from tests.stopping.calibration.examples import made_up

POINTS = [
    (0.3, -0.8, -0.5, 8.1, 0.2, -0.7, -1.0),
    (-0.6, -0.4, 0.1, 7.8, -0.5, -1.2, 1.5),
    (1.0, -1.2, -0.9, 8.4, 0.9, -0.1, -5.0),
]


def shared_at(values: tuple[float, ...]) -> Shared:
    return Shared(*(jnp.asarray(value, float) for value in values))


@pytest.mark.parametrize("num_points", [0, 2])
def test_derivatives_are_those_of_the_objective(num_points: int) -> None:
    """All of it, Laplace's term included, at any point: and nothing outside the arrow."""
    num_problems = 7

    def flat(point: jax.Array, data: Statistics) -> jax.Array:
        return objective(point[:num_problems], Shared(*point[num_problems:]), data)

    @jax.jit
    def both(point: jax.Array, data: Statistics) -> tuple[Any, ...]:
        ours = derivatives(point[:num_problems], Shared(*point[num_problems:]), data)
        return ours, jax.grad(flat)(point, data), jax.hessian(flat)(point, data)

    with jax.enable_x64(True):
        data = made_up(0, num_problems, num_points)
        for seed, values in enumerate(POINTS):
            effect = 8 + 0.5 * np.random.default_rng(seed).normal(size=num_problems)
            ours, gradient, hessian = both(jnp.concatenate([effect, jnp.asarray(values)]), data)
            arrow = np.block([[np.diag(ours.diagonal), ours.border], [ours.border.T, ours.corner]])
            np.testing.assert_allclose(np.concatenate([ours.effect, ours.shared]), gradient, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(arrow, -hessian, rtol=1e-9, atol=1e-9)
            assert np.asarray(ours.curvature).min() > 0


def test_a_newton_step_solves_the_whole_system() -> None:
    with jax.enable_x64(True):
        data = made_up(2, 6, 2)
        fit = jax.jit(fit_lengths)(data)  # at the maximum nothing is turned round
        ours = jax.jit(derivatives)(fit.effect, fit.shared, data)
        ours = ours._replace(
            effect=jnp.linspace(-0.1, 0.1, 6), shared=0.01 * jnp.arange(7.0)
        )  # short enough for a whole one
        whole = jnp.block([[jnp.diag(ours.diagonal), ours.border], [ours.border.T, ours.corner]])
        expected = np.linalg.solve(whole, jnp.concatenate([ours.effect, ours.shared]))
        step = _newton(ours, jnp.ones(()))
        np.testing.assert_allclose(jnp.concatenate([step.effect, step.shared]), expected, rtol=1e-8)
        errors = np.sqrt(np.diag(np.linalg.inv(whole))[6:])
        np.testing.assert_allclose(step.error, errors, rtol=1e-8)
        in_errors = np.abs(expected) * np.append(np.sqrt(ours.diagonal), 1 / errors)
        np.testing.assert_allclose(step.largest, in_errors.max(), rtol=1e-8)


def test_a_small_fraction_of_a_step_climbs() -> None:
    """From wherever it is taken, also where the Hessian is indefinite and a whole step would be far too long."""
    with jax.enable_x64(True):
        data = made_up(2, 6, 2)
        height, gradient = jax.jit(objective), jax.jit(derivatives)
        indefinite = 0
        for seed in range(20):
            random = np.random.default_rng(seed)
            effect = jnp.asarray(8 + 2 * random.normal(size=6))
            shared = shared_at(POINTS[seed % 3] + 0.7 * random.normal(size=7))
            at = gradient(effect, shared, data)
            indefinite += bool(np.linalg.eigvalsh(at.corner - at.border.T @ (at.border / at.diagonal[:, None]))[0] < 0)
            step = _newton(at, jnp.asarray(1e-4))
            moved = Shared(*(jnp.stack(shared) + step.shared))
            assert height(effect + step.effect, moved, data) > height(effect, shared, data)
        assert indefinite > 3


def log_prior(values: tuple[float, ...]) -> float:
    return sum(
        -0.5 * ((value - mean) / scale) ** 2 for value, mean, scale in zip(values, PRIOR_MEAN, PRIOR_SCALE, strict=True)
    )


def test_without_a_cap_it_is_the_marginal_likelihood() -> None:
    """Lengths of a problem are jointly normal with the effect as common term; the best effects integrate it out."""
    rng = np.random.default_rng(3)
    right = [rng.random(4) < 0.5 for _ in range(5)] + [np.ones(3, bool), np.zeros(2, bool)]
    lengths = [rng.normal(8, 0.7, each.size) for each in right]

    def moments(wanted: bool) -> tuple[np.ndarray, ...]:
        parts = [y[mask == wanted] for y, mask in zip(lengths, right, strict=True)]
        return tuple(
            np.array([f(y) if y.size else 0.0 for y in parts]) for f in (np.size, np.mean, lambda y: y.size * y.var())
        )

    def exact(values: tuple[float, ...]) -> float:
        shift, scale_right, scale_wrong, centre, slope, spread, loop = values
        total = log_prior(values)
        for y, mask in zip(lengths, right, strict=True):
            mean = centre + slope * (~mask).mean() + np.where(mask, 0, shift)
            scale = np.exp(np.where(mask, scale_right, scale_wrong))
            covariance = np.diag(scale**2) + np.exp(2 * spread)
            total += multivariate_normal.logpdf(y, mean, covariance) - (~mask).sum() * np.log1p(np.exp(loop))
        return float(total)

    with jax.enable_x64(True):
        n1, m1, s1 = moments(True)
        n0, m0, s0 = moments(False)
        data = made_up(0, len(right), 0)._replace(
            num_right=n1, mean_right=m1, scatter_right=s1, num_wrong=n0, mean_wrong=m0, scatter_wrong=s0
        )
        data = Statistics(*(jnp.asarray(values, float) for values in data))

        def ours(values: tuple[float, ...]) -> float:
            shared = shared_at(values)
            wrong, right_, prior = (jnp.exp(-2 * shared[i]) for i in (2, 1, 5))
            sums = n1 * m1 * right_ + n0 * (m0 - shared.shift) * wrong
            sums += prior * (shared.centre + shared.slope * share_wrong(data))
            effect = sums / (n1 * right_ + n0 * wrong + prior)
            return float(objective(effect, shared, data))

        gaps = [ours(values) - exact(values) for values in POINTS]
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-8)


def test_with_a_cap_laplace_is_close() -> None:
    """One problem, three complete traces and two cut ones: the integral over the effect, up to the same constant."""
    one_problem = jax.jit(derivatives)
    with jax.enable_x64(True):
        data = made_up(0, 1, 1)._replace(
            num_right=jnp.array([2.0]), num_wrong=jnp.array([1.0]), num_censored=jnp.array([[2.0]]),
            mean_right=jnp.array([8.0]), mean_wrong=jnp.array([8.4]), censoring_point=jnp.array([[9.0]]),
            truncation_point=jnp.array([9.0]),
            scatter_right=jnp.array([0.1]), scatter_wrong=jnp.array([0.0]),
        )  # fmt: skip
        gaps = []
        for values in POINTS:
            shift, right, wrong, centre, slope, spread, loop = values
            end, scale_right, scale_wrong = 1 / (1 + np.exp(loop)), np.exp(right), np.exp(wrong)

            def likelihood(a: float) -> float:
                cut = (1 - end) + end * norm.sf(9.0, a + shift, scale_wrong)  # noqa: B023
                one = norm.pdf(8.0, a, scale_right) / norm.cdf(9.0, a, scale_right)  # noqa: B023
                two = one**2 * np.exp(-0.1 / (2 * scale_right**2))  # noqa: B023
                return two * end * norm.pdf(8.4, a + shift, scale_wrong) * cut**2 * norm.pdf(a, mean, np.exp(spread))  # noqa: B023

            mean, shared = centre + slope * 0.6, shared_at(values)
            effect = jnp.array([8.0])
            for _ in range(30):  # the effect alone, at its maximum
                at = one_problem(effect, shared, data)
                effect = effect + at.effect / jnp.maximum(at.diagonal, 0.25 * at.curvature)
            exact = np.log(quad(likelihood, 4, 12, epsabs=0, epsrel=1e-10, points=[8.0])[0]) + log_prior(values)
            gaps.append(float(objective(effect, shared, data)) - exact)
    assert np.ptp(gaps) < 0.1  # in nats; the greatest measured is near .05
