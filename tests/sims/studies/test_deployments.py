"""The study of deployments: its pieces, and one small deployment of the real model."""

import numpy as np
import pytest

import sims.studies.deployments as study
from sims import Estimate
from stopping.reasoner import Plan
from stopping.reasoner.countdown import Difficulty
from stopping.tuning.measurement import Prediction
from tests.stopping.cli.test_commands import refused, run


def deployment(number: int, observed: float, held: bool = True) -> study.Deployment:
    told = (
        Prediction(number / 100, (number - 2) / 100, (number + 2) / 100) if held else Prediction(number / 100, 0.9, 1.0)
    )
    came = Estimate(observed / 100, 0.01, 100)
    return study.Deployment(
        f"seed {number}", (0.7, 1.0)[number % 2], "TokenBudget(64)",
        dict.fromkeys(study.COMPONENTS, told), dict.fromkeys(study.COMPONENTS, came),
    )  # fmt: skip


def test_coverage_and_slope_by_hand():
    done = [deployment(number, 3 + 0.5 * number) for number in range(4, 8)] + [deployment(8, 7, held=False)]
    done.append(study.Deployment("seed 9", 1.0, None, {}, {}))
    rows, figure = study.deployments(done)
    assert rows["a rule was chosen"].mean == pytest.approx(5 / 6)
    title = "tokens saved, %"
    assert rows[f"{title}: within the 95 % interval"].mean == pytest.approx(4 / 5)
    assert rows[f"{title}: slope of observed on predicted"].mean == pytest.approx(0.5)
    assert rows[f"{title}: slope of observed on predicted"].standard_error == pytest.approx(0, abs=1e-9)
    assert rows[f"{title}: observed less predicted"].mean == pytest.approx(3 - 0.5 * 6)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        f"{name}, predicted (95 %)" for name in study.COMPONENTS.values()
    ]


def test_error_of_the_slope_is_that_of_repeated_draws():
    random = np.random.default_rng(0)
    x = np.linspace(0, 3, 24)
    found = [study.slope(x, 1 + 2 * x + (0.2 + 0.3 * x) * random.normal(size=24)) for _ in range(2000)]
    slopes, errors = np.array([(one.mean, one.standard_error) for one in found]).T
    assert abs(slopes.mean() - 2) < 4 * slopes.std() / np.sqrt(2000)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(slopes.std(), rel=0.15)


@pytest.mark.slow
def test_a_small_deployment_is_predicted_and_run(monkeypatch):
    monkeypatch.setattr(study, "MAX_ACCURACY_DROP", 0.4)  # that something may be certified on so few problems
    plan = Plan(60, 2, 60, 0, cap_tokens=224, difficulty=Difficulty(1.0), seed=5)
    reported: list[int] = []
    done = study.deploy(plan, 40, reported.append)
    assert sum(reported) == 60 + 2 * 40  # recorded, then run with the rule and without
    assert done.rule is not None and done.observed["saving_share"].num_independent == 40
    assert (
        done.predicted["saving_share"].low < done.predicted["saving_share"].mean < done.predicted["saving_share"].high
    )
    assert 0 < done.observed["saving_share"].mean < 1
    study.deployments([done, done])


def test_it_takes_no_log(tmp_path):
    assert "--log: deployments draws its problems" in refused("study", "deployments", "--log", tmp_path / "x.parquet")


def test_its_page_says_whose_problems_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(
        study, "deploy", lambda plan: deployment(int(10 * plan.difficulty.three_number_prob), plan.seed)
    )
    run("study", "deployments", "--out", tmp_path / "study")
    page = (tmp_path / "study" / "README.md").read_text()
    assert "from problems that it draws" in page and "slope of observed on predicted" in page
    assert (tmp_path / "study" / "deployments.png").exists()
