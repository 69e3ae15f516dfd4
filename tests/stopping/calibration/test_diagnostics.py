"""Ranks are uniform on logs drawn from the model, and are not if the distribution of lengths is another one."""

import dataclasses

import numpy as np
from scipy.stats import kstest

from stopping.calibration import diagnose, fit
from stopping.models import LengthCorrectness
from tests.stopping.calibration.examples import drawn_logs

PLAIN = LengthCorrectness(2.0, 1.5, 8.0, 0.5, shift=0.4, scale_right=0.35, scale_wrong=0.6)
CUT = LengthCorrectness(
    1.5, 1.5, 8.0, 0.4, shift=0.4, scale_right=0.3, scale_wrong=0.5, loop_prob=0.2, cap_tokens=12_000.0
)

TIGHT = LengthCorrectness(2.0, 1.5, 8.0, 0.4, shift=0.3, scale_right=0.5, scale_wrong=0.5, cap_tokens=3500.0)


def test_uniform_on_the_model_s_own_logs() -> None:
    log = drawn_logs(PLAIN, 0, 1, 400, 8)[0]
    found = fit(LengthCorrectness(), log).diagnostics
    assert found.pit_right.size + found.pit_wrong.size == 3200
    assert found.pit_right.size == log.correct.sum()
    for pit, p_value in ((found.pit_right, found.p_value_right), (found.pit_wrong, found.p_value_wrong)):
        assert 0 <= pit.min() < 0.01 and 0.99 < pit.max() <= 1
        assert kstest(pit, "uniform").pvalue == p_value > 1e-3


def test_uniform_with_censoring() -> None:
    log = drawn_logs(CUT, 1, 1, 400, 8)[0]
    found = fit(LengthCorrectness(), log).diagnostics
    assert found.pit_wrong.size == (~log.correct & ~log.censored).sum()
    assert found.p_value_right > 1e-3 and found.p_value_wrong > 1e-3


def test_uniform_with_a_cap_at_the_median() -> None:
    """Where most right traces feel the cap: in the plain distribution, not the truncated one, ranks would pile up below .6."""
    log = drawn_logs(TIGHT, 1, 1, 400, 8)[0]
    found = fit(LengthCorrectness(), log, float64=True)
    assert found.diagnostics.p_value_right > 1e-3 and found.diagnostics.p_value_wrong > 1e-3


def test_not_uniform_where_lengths_are_not_log_normal() -> None:
    """Exponential lengths of the same mean and spread, roughly: the logs are skewed."""
    log = drawn_logs(PLAIN, 2, 1, 400, 8)[0]
    rng = np.random.default_rng(0)
    length = np.maximum(1, rng.exponential(3000.0, log.present.shape)).astype(np.int32)
    found = fit(LengthCorrectness(), dataclasses.replace(log, length_tokens=length)).diagnostics
    assert found.p_value_right < 1e-6 and found.p_value_wrong < 1e-6


def test_not_uniform_under_another_model() -> None:
    log = drawn_logs(PLAIN, 3, 1, 400, 8)[0]
    one = fit(LengthCorrectness(), log)
    narrow = LengthCorrectness(
        one.model.alpha, one.model.beta, one.model.effect, one.model.effect_scale, one.model.shift, 0.6, 0.6
    )
    assert diagnose(narrow, log).p_value_right < 1e-6


def test_an_empty_class_has_no_test() -> None:
    log = drawn_logs(LengthCorrectness(1e4, 1e-4), 4, 1, 400, 8)[0]
    found = fit(LengthCorrectness(), log).diagnostics
    assert log.correct.all() and found.pit_wrong.size == 0
    assert np.isnan(found.p_value_wrong) and np.isnan(found.ks_wrong) and np.isfinite(found.p_value_right)
