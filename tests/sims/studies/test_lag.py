"""The study of lag: exact utilities of budgets with a lag, and a small run."""

import jax
import numpy as np
import pytest

import sims
import sims.studies.lag as study
from stopping.models import AnswerChain
from stopping.policies import TokenBudget
from stopping.problems import Thinking
from stopping.solvers import induced_point
from tests.stopping.cli.drawn import drawn_log
from tests.stopping.cli.test_commands import refused

CHAIN = AnswerChain(0.2, 0.15, 0.05, 0.1, num_points=8)
PROBLEM = Thinking(model=CHAIN, price_per_token=8e-4)
LAGS = (0, 1, 32, 33, 100, 300)


def test_the_exact_utility_of_a_budget_with_a_lag_is_what_simulation_gives():
    for lag in LAGS:
        lagging = Thinking(model=CHAIN, price_per_token=8e-4, lag_tokens=lag)
        for point in (1, 3, 8):
            drawn = sims.simulate(jax.random.key(lag), lagging, TokenBudget(32 * point), num_replicas=4096).utility
            assert abs(drawn.mean - study.budget_value(PROBLEM, lag, point)) < 5 * drawn.standard_error


def test_the_budget_derived_for_a_lag_is_the_best_there_is():
    best = induced_point(PROBLEM)
    assert study.derived_point(PROBLEM, 0) == best[0] > 2
    assert study.budget_value(PROBLEM, 0, best[0]) == pytest.approx(best[1], abs=1e-6)
    for lag in LAGS:
        values = [study.budget_value(PROBLEM, lag, point) for point in range(1, 9)]
        assert values[study.derived_point(PROBLEM, lag) - 1] == pytest.approx(max(values), abs=1e-9)
    assert study.budget_value(PROBLEM, 32, study.derived_point(PROBLEM, 32)) == pytest.approx(best[1], abs=1e-6)
    assert max(values) < best[1]  # a lag that no decision is early enough for


def test_what_looks_loses_by_a_lag_and_a_budget_makes_up_for_it(monkeypatch):
    monkeypatch.setattr(study, "LAGS", (0, 64, 256))
    monkeypatch.setattr(study, "PROBING", study.PROBING[:6])
    part = study.chain(4096)
    lost = {name.partition(":")[0]: row for name, row in part.rows.items() if name.endswith("of lag, hundredths")}
    assert lost["budget, for the lag"].mean == 0  # it decides so much earlier
    ignored, looking = lost["budget, lag ignored"], lost["rule that looks, for the lag"]
    assert ignored.mean > 4 * ignored.standard_error
    assert looking.mean > ignored.mean + 4 * np.hypot(looking.standard_error, ignored.standard_error)
    (away,) = (row.mean for name, row in part.rows.items() if "discrepancies" in name)
    assert 0 < away < 5


def test_the_study_runs_on_a_log(tmp_path, monkeypatch):
    drawn = sims.draw(jax.random.key(0), Thinking(model=study.CHAIN), 60)
    log = Thinking().log(drawn)
    monkeypatch.setattr(study, "LAGS", (0, 128))
    monkeypatch.setattr(
        study,
        "thinking_families",
        lambda worlds: {"TokenBudget": [study.END, TokenBudget(96)], "looking": study.PROBING[:2]},
    )
    part = study.on_log(log)
    assert part.rows["thinking to the end: utility"].num_independent == 30
    part.figure.savefig(tmp_path / "log.png")


def test_a_log_without_forced_answers_is_refused(tmp_path):
    assert "expected checkpoints" in refused("study", "lag", "--log", drawn_log(tmp_path / "drawn.parquet"))
