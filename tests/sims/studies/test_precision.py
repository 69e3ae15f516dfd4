"""The study of precision on demand, at a small size: who peeks fails on a rare event, and `simulate`'s rule does not."""

import numpy as np
import pytest

import sims.studies.precision as study
from sims.moments import Moments


def test_who_peeks_fails_and_who_is_certain_does_not():
    parts = study.run(num_runs=600)
    held = {
        title: [estimate for name, estimate in part.rows.items() if "hold the mean" in name]
        for title, part in parts.items()
    }
    for certain, as_it_seems, peeking, fixed in held.values():
        gap = np.hypot(certain.standard_error, fixed.standard_error)
        assert certain.mean > fixed.mean - 4 * gap
        assert certain.mean > 0.95 - 5 * certain.standard_error
        assert as_it_seems.mean <= certain.mean + 4 * gap
        assert peeking.mean <= 0.97
    certain, as_it_seems, peeking, _ = held["rare"]
    assert peeking.mean < 0.95 - 5 * peeking.standard_error
    assert peeking.mean < as_it_seems.mean < certain.mean


def test_a_path_is_the_engines_own_account():
    values = np.random.default_rng(1).gamma(2.0, 3.0, 1000)
    path = study._path(study.Law("gamma", values, 100), np.random.default_rng(0), 5)
    drawn = np.random.default_rng(0).choice(values - values.mean(), (5, study.STEP)).reshape(1, -1) + values.mean()
    moments = Moments.of(("x",), drawn)
    assert path.num_worlds[-1] == moments.count == 5 * study.STEP
    estimate = moments.estimate("x")
    assert (path.mean[-1], path.error[-1]) == pytest.approx((estimate.mean, estimate.standard_error))
    assert path.largest_error[-1] == pytest.approx(
        moments.largest_error("x"), rel=1e-2
    )  # fourth powers about another centre
