"""The study of schedules: its pieces by hand, and a small run."""

import numpy as np
import pytest

import sims.studies.latency as study
from sims.studies import crossing
from stopping.cli.rules import parse
from tests.stopping.cli.test_commands import run


def test_a_crossing_is_read_off_a_straight_line():
    places, means, errors = [0.0, 1.0, 2.0, 3.0], np.array([-1.0, 3.0, -1.0, -5.0]), np.full(4, 0.4)
    assert crossing(places, means, errors) == pytest.approx((1.75, 0.1))
    assert crossing(places, -means, errors) is None  # above at the end
    assert crossing(places, np.minimum(means, 0), errors) is None  # never above


def test_the_error_of_a_crossing_is_that_of_repeated_draws():
    random, found = np.random.default_rng(0), []
    places = np.arange(4.0)
    for _ in range(2000):
        means = 2.5 - 2 * places + 0.1 * random.normal()  # all points share their error
        found.append(crossing(places, means, np.full(4, 0.1)))
    at, error = np.array(found).T
    assert at.std() == pytest.approx(error.mean(), rel=0.1)
    assert at.mean() == pytest.approx(1.25, abs=0.01)


def test_differences_are_paired_and_hold_at_once():
    random = np.random.default_rng(0)
    shared = random.normal(size=500)
    utility = {
        name: np.stack([shared + index + 0.1 * random.normal(size=500) for _ in range(3)])
        for index, name in enumerate("abc")
    }
    bands = study.differences(utility)
    assert list(bands) == [("b", "a"), ("c", "a"), ("c", "b")]
    for (one, other), band in bands.items():
        paired = study.UNIT * (utility[one] - utility[other])
        assert band.mean == pytest.approx(paired.mean(axis=1))
        assert band.standard_error == pytest.approx(paired.std(axis=1, ddof=1) / 500**0.5)
        assert band.critical > 2.4  # of nine intervals at 95 %, and not of one


def test_prices_decide_between_schedules(tmp_path, monkeypatch):
    """With uninformative lengths, sequential sampling is best while latency is cheap, parallel when it is expensive."""
    whole, parts = study.run, {}
    monkeypatch.setattr(study, "WORLDS", {"lengths_tell_nothing": study.WORLDS["lengths_tell_nothing"]})
    monkeypatch.setattr(study, "SCHEDULES", {"in parallel": 16, "in sequence": 1})
    monkeypatch.setattr(study, "RULES", [parse(text) for text in ("Margin(1)", "Margin(2)", "Margin(3)")])
    prices = (0.01, 0.1, 1.0, 10.0)
    monkeypatch.setattr(study, "run", lambda: parts.update(whole(prices, 4096, 8192)) or parts)
    run("study", "latency", "--out", tmp_path / "study")
    assert (tmp_path / "study" / "lengths_tell_nothing.png").exists()
    rows = parts["lengths_tell_nothing"].rows
    cheap, dear = (rows[f"an hour costs {price}: in sequence less in parallel, hundredths"] for price in ("0.01", "10"))
    assert cheap.mean > 4 * cheap.standard_error
    assert dear.mean < -4 * dear.standard_error
    upto = rows["in sequence against in parallel: worth more up to a price of"]
    assert 0.01 < upto.mean < 10
    assert upto.standard_error < 0.3 * upto.mean
