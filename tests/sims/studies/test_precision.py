"""The study of precision on demand, at a small size: frequent checks undercover on a rare event, `simulate` does not."""

import numpy as np
import pytest

import sims.studies.precision as study
from sims.moments import Moments


def test_checking_often_undercovers_and_an_upper_bound_on_the_error_does_not():
    parts = study.run(num_runs=600)
    held = {
        title: [estimate for name, estimate in part.rows.items() if "coverage" in name] for title, part in parts.items()
    }
    for bounded, estimated, often, fixed in held.values():
        gap = np.hypot(bounded.standard_error, fixed.standard_error)
        assert bounded.mean > fixed.mean - 4 * gap
        assert bounded.mean > 0.95 - 5 * bounded.standard_error
        assert estimated.mean <= bounded.mean + 4 * gap
        assert often.mean <= 0.97
    bounded, estimated, often, _ = held["rare"]
    assert often.mean < 0.95 - 5 * often.standard_error
    assert often.mean < estimated.mean < bounded.mean


def test_a_path_agrees_with_moments():
    values = np.random.default_rng(1).gamma(2.0, 3.0, 1000)
    path = study._path(study.Target("gamma", values, 100), np.random.default_rng(0), 5)
    drawn = np.random.default_rng(0).choice(values - values.mean(), (5, study.STEP)).reshape(1, -1) + values.mean()
    moments = Moments.of(("x",), drawn)
    assert path.num_worlds[-1] == moments.count == 5 * study.STEP
    estimate = moments.estimate("x")
    assert (path.mean[-1], path.error[-1]) == pytest.approx((estimate.mean, estimate.standard_error))
    assert path.largest_error[-1] == pytest.approx(
        moments.largest_error("x"), rel=1e-2
    )  # fourth powers about another centre
