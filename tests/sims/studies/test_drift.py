"""The study of drift: its runs against a server's test, its sums by hand, and a small run."""

import functools

import jax
import numpy as np
import pytest

import sims.studies.drift as study
from sims import Estimate
from stopping.adapters.drift import Drift, Traffic, coarse
from stopping.reasoner import load_shipped_log
from tests.helpers import sized
from tests.stopping.reasoner.examples import untrained

UNCHANGED = study.UNCHANGED


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in {"NUM_RUNS": 12, "NUM_UNCHANGED": 12, "REFERENCE": 40, "BEFORE": 30, "AFTER": 100}.items():
        monkeypatch.setattr(study, name, size)


def drawn(shift, seed):
    random = np.random.default_rng(seed)
    values = {"length_tokens": random.geometric(0.1, 500) + shift, "signal": random.normal(shift / 4, 1, 500)}
    values["signal"][random.random(500) < 0.2] = np.nan
    return study.Requests(
        {name: coarse(each).astype(np.float32) for name, each in values.items()}, random.random(60) < 0.05 + shift / 40
    )


def test_its_runs_are_those_of_a_server():
    before, after = drawn(0, 0), drawn(4, 1)
    found = study.p_values_of(before, after, 3, seed=7)
    assert found.shape == (3, 2, 130) and found.min() < 0.05
    random = np.random.default_rng(7)  # the same draws
    rows = random.integers(500, size=(3, 70)), random.integers(500, size=(3, 100))
    uniforms = random.random((3, 170))
    for run in range(3):
        values = {
            name: np.r_[before.values[name][rows[0][run]], after.values[name][rows[1][run]]].astype(float)
            for name in before.values
        }
        test = Drift(Traffic({name: each[:40][np.isfinite(each[:40])] for name, each in values.items()}), 1e-300)
        state = test.init()
        for index in range(40, 170):
            for index_of_name, name in enumerate(
                values
            ):  # a server's uniform also chooses which value to drop: undo that
                if np.isfinite(values[name][index]):
                    number = uniforms[run, index] / (len(state[name].kept) + 1)
                    state = test.step(state, {name: values[name][index]}, number)
                p_value = min(2 / state[name].most_capital, 1)
                assert p_value == pytest.approx(found[run, index_of_name, index - 40], rel=1e-6)


def test_delays_and_losses_by_hand():
    p_values = np.ones((3, 2, 130))
    p_values[0, 1, 29:] = 0.01  # before the change: left out
    p_values[1, 0, 49:], p_values[1, 1, 60:] = 0.01, 0.01
    np.testing.assert_array_equal(study.delays_of(p_values, 0.05), [20, 100])
    delays = np.tile([20.0, 100.0], 200)
    lost = study._lost(Estimate(0.02, 0.01, 50), delays, 0.02)
    assert lost.mean == pytest.approx(0.02 * 60 * 49)
    assert lost.standard_error == pytest.approx(49 * np.hypot(0.01 * 60, 0.02 * delays.std(ddof=1) / 20))


def test_a_change_is_noticed_and_none_is_not(tmp_path):
    rows, figure = study.drift({UNCHANGED: drawn(0, 0), "longer": drawn(6, 1)})
    assert rows["no change, alpha 0.05: alarm within 130 requests held out"].mean <= 0.25
    assert rows["longer, alpha 0.05: alarm within 100 requests held out"].mean == 1
    raised = [rows[f"longer, alpha 0.05: {name} raised the alarm"].mean for name in ("length_tokens", "signal")]
    assert 1 <= sum(raised) < 1.5
    losses = [
        rows[f"longer, alpha 0.05, holdout {share}: right answers lost before the alarm"].mean for share in ("1%", "5%")
    ]
    assert losses[0] / losses[1] == pytest.approx(99 / 19)
    figure.savefig(tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 10_000


def test_rounded_weights():
    model = untrained()
    for bits in (8, 4):
        rounded = study.quantised(model, bits)
        for whole, few in zip(jax.tree.leaves(model), jax.tree.leaves(rounded), strict=True):
            if np.ndim(whole) == 2:
                assert max(len(np.unique(column)) for column in np.asarray(few).T) <= 2**bits - 1
                step = np.abs(whole).max(axis=0) / (2 ** (bits - 1) - 1)
                assert (np.abs(np.asarray(whole - few)) <= 0.5001 * step).all()


def test_the_study_runs_on_the_shipped_log(tmp_path, monkeypatch):
    log = load_shipped_log()
    monkeypatch.setattr(study, "changed_models", lambda num_recorded: {"the log again": log.take(log.probed)})
    part = study.run(log.take(np.flatnonzero(log.probed)[:200]))["drift"]
    assert part.rows["harder tasks: excess loss of a request, points"].num_independent < 100
    assert any("log_close_prob raised" in name for name in part.rows)


@pytest.mark.slow
def test_a_model_that_is_not_as_it_was_is_recorded(monkeypatch):
    """With a low cap, because every 64 slots of the cache need another compiled program."""
    monkeypatch.setattr(study, "BITS", (4,))
    monkeypatch.setattr(study, "Plan", functools.partial(study.Plan, cap_tokens=sized(64, 480)))
    logs = study.changed_models(8)
    assert [log.num_problems for log in logs.values()] == [8, 8]
    assert all(log.checkpoints is not None for log in logs.values())
    assert not np.array_equal(*(next(iter(log.checkpoints.signals.values())) for log in logs.values()))
