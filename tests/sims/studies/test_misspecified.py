"""The study of wrong distributions of lengths: distributions have the stated moments, and a small run."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import sims
import sims.studies.misspecified as study
from sims import Estimate
from stopping.models import LengthCorrectness
from stopping.policies import FixedSamples, Margin
from tests.stopping.cli.test_commands import run

PEERS = {
    "log-normal": lambda v: stats.lognorm(np.sqrt(np.log1p(v**2)), scale=1 / np.sqrt(1 + v**2)),
    "gamma": lambda v: stats.gamma(v**-2, scale=v**2),
    "inverse Gaussian": lambda v: stats.invgauss(v**2, scale=v**-2),
}


@pytest.mark.parametrize("name", study.DISTRIBUTIONS)
@pytest.mark.parametrize("variation", [0.3, 0.8])
def test_distributions_have_the_mean_and_the_coefficient_of_variation_stated(name, variation):
    count = 100_000
    drawn = study.DISTRIBUTIONS[name](np.random.default_rng(0), np.full(count, variation))
    assert drawn.mean() == pytest.approx(1, abs=5 * variation / count**0.5)
    assert drawn.std() == pytest.approx(variation, rel=0.02)
    if name in PEERS:
        assert stats.kstest(drawn, PEERS[name](variation).cdf).pvalue > 1e-3
    else:
        shape, _, scale = stats.weibull_min.fit(drawn[:10_000], floc=0)
        assert stats.kstest(drawn[10_000:], stats.weibull_min(shape, scale=scale).cdf).pvalue > 1e-3


def test_worlds_are_those_of_the_model_but_for_the_law_of_lengths():
    worlds = study.true_worlds(study.weibull, 20_000, 0)
    right, length = np.asarray(worlds.right)[:, 0], np.asarray(worlds.length_tokens)[:, 0]
    assert right.mean() == pytest.approx(0.6, abs=0.01)
    spread = study.EFFECT_SCALE**2
    for group, shift, scale in ((right, 0.0, study.SCALE_RIGHT), (~right, study.SHIFT, study.SCALE_WRONG)):
        mean = np.exp(study.EFFECT + shift + (spread + scale**2) / 2)
        assert length[group].mean() == pytest.approx(mean, rel=0.02)
    answer = np.asarray(worlds.answer)[:, 0]
    assert (answer >= 0).all()
    same = np.take_along_axis(right, answer, axis=1)
    assert (same == right).all()


def test_regrets_and_predictions_are_those_of_the_chosen_rules(tmp_path, monkeypatch):
    """With known rules: one trace from the model, margins by replay and as a stand-in for another posterior."""
    whole, parts = study.run, {}
    margins = [Margin(1), Margin(2)]
    monkeypatch.setattr(study, "fitted", lambda worlds: SimpleNamespace(population=LengthCorrectness()))
    monkeypatch.setattr(
        study, "solve", lambda *_, **__: SimpleNamespace(policy=FixedSamples(1), value=Estimate(0.9, 0.0, 1))
    )
    monkeypatch.setattr(study, "sampling_families", lambda *_: {"Margin": margins, "PosteriorVote": [Margin(8)]})
    monkeypatch.setattr(study, "run", lambda: parts.update(whole((30,), 2, 400, ("log-normal", "Weibull"))) or parts)
    run("study", "misspecified", "--out", tmp_path / "study")
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"README.md", *(f"{part}.png" for part in study.QUESTIONS)}

    worlds = study.true_worlds(study.weibull, 800, study.SEED + 1)
    fixed, *others = (
        sims.replay_worlds(study.problem(None), rule, worlds).utility.mean for rule in (FixedSamples(1), *margins)
    )
    regrets, predictions = parts["regret"].rows, parts["prediction"].rows
    (best,) = (
        row.mean for name, row in regrets.items() if name.startswith("Weibull: utility of the best rule, Margin")
    )
    assert best in others
    assert regrets["Weibull, 30 problems: rule from the model"].mean == pytest.approx(100 * (best - fixed))
    assert predictions["Weibull, 30 problems"].mean == pytest.approx(100 * (0.9 - fixed))
    assert regrets["Weibull, 30 problems: rule by replay"].mean >= 0
    less = regrets["Weibull, 30 problems: rule from the model, less with log-normal lengths"]
    alone = [regrets[f"{name}, 30 problems: rule from the model"] for name in ("Weibull", "log-normal")]
    assert less.mean == pytest.approx(alone[0].mean - alone[1].mean)


@pytest.mark.slow
def test_a_rule_from_the_model_loses_little():
    parts = study.run((100,), 2, 1024, ("Weibull",))
    for how in study.CHOSEN:
        regret = parts["regret"].rows[f"Weibull, 100 problems: rule {how}"]
        assert -4 * regret.standard_error < regret.mean < 20
