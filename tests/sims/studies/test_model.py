"""The study of the model against a grid of rules: its pieces, and a small run with models that are true."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest

import sims.studies.model as study
from stopping.cli.output import StudyOutput
from stopping.models import Answers, LengthCorrectness
from stopping.traces import from_columns
from tests.stopping.cli.drawn import MODEL, drawn_log
from tests.stopping.cli.test_commands import refused, run

CUT = from_columns(
    {
        "problem": [0, 0, 0, 0, 1, 1, 1],
        "length_tokens": [9, 4, 5, 6, 3, 8, 2],
        "correct": [True, True, True, False, False, False, True],
        "answer": ["a", "a", "a", "b", "c", None, "d"],
        "censored": [False] * 7,
    },
    cap_tokens=10,
)


def test_traces_longer_than_the_cap_are_cut_there():
    log = study.cut_at(CUT, 5)
    assert log.cap_tokens == 5
    assert log.length_tokens.tolist() == [[5, 4, 5, 5], [3, 5, 2, 0]]
    assert log.correct.tolist() == [[False, True, True, False], [False, False, True, False]]
    assert log.censored.tolist() == [[True, False, False, True], [False, True, False, False]]
    assert log.answer.tolist() == [[-1, 1, 1, -1], [0, -1, 2, -1]]
    assert np.array_equal(log.answered, log.answer >= 0)
    assert study.cut_at(CUT, 10).answer.tolist() == CUT.answer.tolist()


def test_the_first_samples_are_those_of_each_problem():
    log = study.first_samples(CUT, 2)
    assert log.length_tokens.tolist() == [[9, 4], [3, 8]] and log.answer.tolist() == [[0, 0], [0, -1]]


def test_a_chance_at_another_cap_is_that_of_the_traces_that_end_by_then():
    """Traces are drawn without a cap, and counted at two caps."""
    random, num_traces = np.random.default_rng(0), 200_000
    right = random.random(num_traces) < random.beta(1.2, 0.8, num_traces)
    length = np.exp(5 + random.normal(0, 0.3, num_traces) + random.normal(0, 0.5, num_traces))
    low, high = (np.mean(right & (length <= cap)) for cap in (120, 240))
    model = LengthCorrectness(
        alpha=2 * low, beta=2 * (1 - low), effect=5.0, effect_scale=0.3, scale_right=0.5, cap_tokens=120
    )
    moved = study.at_cap(model, 240)
    chance = float(moved.alpha[0] / (moved.alpha[0] + moved.beta[0]))
    assert chance == pytest.approx(high, abs=5 * high / low * (low * (1 - low) / num_traces) ** 0.5)
    assert float(moved.cap_tokens) == 240 and float(moved.alpha[0] + moved.beta[0]) == pytest.approx(2)
    assert jnp.allclose(study.at_cap(model, 120).alpha, model.alpha)


def test_the_error_of_a_mean_regret_is_that_of_the_draws_and_of_the_problems():
    """The stated errors agree with repetition, for regrets that are means over drawn problems and vary with held-out ones."""
    random, num_pool, size, num_draws, num_runs = np.random.default_rng(0), 60, 30, 5, 3000
    means, variances = np.empty((2, num_runs))
    for index in range(num_runs):
        pool, held_out = random.normal(size=num_pool), random.normal(size=100)
        drawn = [pool[random.permutation(num_pool)[:size]].mean() for _ in range(num_draws)]
        estimate = study.mean_regret(np.add.outer(drawn, held_out), size / num_pool)
        means[index], variances[index] = estimate.mean, estimate.standard_error**2
    assert variances.mean() == pytest.approx(means.var(), rel=5 * (2 / num_runs) ** 0.5)


def test_with_true_models_the_study_runs(tmp_path, monkeypatch):
    fits = []

    def true_fits(model, logs, *, pooled=False):
        fits.extend((log.num_problems, log.num_samples, log.cap_tokens, pooled) for log in logs)
        models = (
            LengthCorrectness(alpha=1.5, beta=1.0, cap_tokens=log.cap_tokens, answers=Answers(0.1, 1.0), **MODEL)
            for log in logs
        )
        return [SimpleNamespace(model=model, converged=True) for model in models]

    for name, value in {"SIZES": (20, 40), "NUM_DRAWS": 2, "NUM_WORLDS": 1024, "fit_all": true_fits}.items():
        monkeypatch.setattr(study, name, value)
    log, out = drawn_log(tmp_path / "drawn.parquet"), tmp_path / "study"
    run("study", "model", "--log", log, "--out", out, "--json", tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    jsonschema.validate(content, StudyOutput.model_json_schema())
    seen = [(4, 20_000, False), (2, 20_000, False), (4, 10_000, False), (4, 20_000, True)]
    assert sorted(fits) == sorted((size, *rest) for rest in seen for size in (20, 20, 40, 40))

    means = {name: figure["mean"] for name, figure in content["rows"].items()}
    regrets = {name: mean for name, mean in means.items() if name.endswith((": model", ": grid", ": pooled model"))}
    assert len(regrets) == len(study.COSTS) * 2 * (3 + 1 + 2) and min(regrets.values()) >= 0
    for start in (
        f"as logged, vote of all for {cost:g}, {size} problems: " for cost in study.COSTS for size in (20, 40)
    ):
        assert means[start + "model less pooled model"] == pytest.approx(
            means[start + "model"] - means[start + "pooled model"]
        )
    assert {path.name for path in out.iterdir()} == {"README.md", *(f"{part}.png" for part in study.QUESTIONS)}


def test_logs_that_are_too_small_are_refused(tmp_path):
    few = drawn_log(tmp_path / "few.parquet", 80)
    assert "expected more than 83 problems, got 80" in refused("study", "model", "--log", few)
