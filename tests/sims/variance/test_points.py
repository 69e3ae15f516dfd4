"""Point sets: each point is uniform by itself, and jointly as its method states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from sims.variance import Antithetic, Independent, LatinHypercube, Sobol, expectation

ALL_POINTS = [Independent(), Antithetic(), LatinHypercube(16), Sobol(16)]


def drawn(points, num_evaluations=2**12, num_uniforms=3, seed=0):
    blocks = points.blocks(jax.random.key(seed), num_evaluations, num_uniforms)
    return np.concatenate([np.asarray(block) for block in blocks])[:num_evaluations]


@pytest.mark.parametrize("points", ALL_POINTS, ids=str)
def test_each_coordinate_is_uniform_and_off_the_faces(points):
    found = drawn(points)
    assert found.shape == (2**12, 3) and found.dtype == np.float32
    assert 0 < found.min() and found.max() < 1 and (1 - found).min() > 0
    for column in found.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    assert len(np.unique(found[:, 0])) > 0.99 * len(found)
    assert not np.array_equal(found, drawn(points, seed=1))
    np.testing.assert_array_equal(found, drawn(points))


@pytest.mark.parametrize("points", ALL_POINTS, ids=str)
def test_doubles_where_jax_has_them(points):
    with jax.enable_x64(True):
        found = drawn(points, 256)
    assert found.dtype == np.float64 and (found != found.astype(np.float32)).any()
    assert 0 < found.min() and found.max() < 1


def test_antithetic_pairs_are_exact():
    first, second = drawn(Antithetic()).reshape(-1, 2, 3).transpose(1, 0, 2)
    np.testing.assert_array_equal(second, 1 - first)
    np.testing.assert_array_equal(first, 1 - second)


def test_a_latin_hypercube_has_a_point_in_each_stratum():
    for replicate in drawn(LatinHypercube(4), 400, 2).reshape(4, 100, 2):
        strata = np.floor(replicate.astype(np.float64) * 100).astype(int)
        for column in strata.T:
            assert sorted(column) == list(range(100))
        assert abs(np.corrcoef(strata.T)[0, 1]) < 0.5  # coordinates are ordered apart: 5 errors of 1 / sqrt(100)


def test_sobol_points_lie_one_in_each_box():
    """A (0, 4, 2)-net in base 2: each of the 16 boxes of one shape and volume 1/16 holds one point."""
    replicates = drawn(Sobol(8), 8 * 16, 2).reshape(8, 16, 2)
    for replicate in replicates:
        for log_width in range(5):
            boxes = np.floor(replicate * [2**log_width, 2 ** (4 - log_width)]).astype(int)
            assert len(set(map(tuple, boxes))) == 16
    assert len(np.unique(replicates[:, 0, 0])) == 8  # scrambled one by one


def test_more_evaluations_begin_with_the_same():
    for points in (Independent(), Antithetic()):
        np.testing.assert_array_equal(drawn(points, 10_000)[:100], drawn(points, 100))


@pytest.mark.parametrize(("points", "number", "message"), [
    (Antithetic(), 101, "expected an even number, for pairs, got 101"),
    (LatinHypercube(8), 100, "expected a multiple of 8 replicates, got 100"),
    (Sobol(8), 8 * 24, "expected 8 replicates times a power of two, got 192"),
    (LatinHypercube(1), 100, "num_replicates: expected a whole number >= 2"),
    (Antithetic(), 2, "expected at least 4, two units, got 2"),
    (Independent(), 1, "num_evaluations: expected a whole number >= 2"),
], ids=str)  # fmt: skip
def test_numbers_that_cannot_be_had_are_refused(points, number, message):
    with pytest.raises(ValueError, match=message):
        expectation(jax.random.key(0), jnp.sum, 2, points=points, num_evaluations=number)
