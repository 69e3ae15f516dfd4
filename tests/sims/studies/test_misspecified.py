"""The study of wrong laws of lengths: the laws have the moments stated, and a small run."""

import numpy as np
import pytest
from scipy import stats

import sims.studies.misspecified as study
from tests.stopping.cli.test_commands import run

PEERS = {
    "log-normal": lambda v: stats.lognorm(np.sqrt(np.log1p(v**2)), scale=1 / np.sqrt(1 + v**2)),
    "gamma": lambda v: stats.gamma(v**-2, scale=v**2),
    "inverse Gaussian": lambda v: stats.invgauss(v**2, scale=v**-2),
}


@pytest.mark.parametrize("name", study.LAWS)
@pytest.mark.parametrize("variation", [0.3, 0.8])
def test_laws_have_the_mean_and_the_coefficient_of_variation_stated(name, variation):
    count = 100_000
    drawn = study.LAWS[name](np.random.default_rng(0), np.full(count, variation))
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


def test_the_study_runs(tmp_path, monkeypatch):
    whole, parts = study.run, {}
    monkeypatch.setattr(study, "NUM_WORLDS", 1024)
    monkeypatch.setattr(study, "run", lambda: parts.update(whole((100,), 2, 1024, 200, ("Weibull",))) or parts)
    run("study", "misspecified", "--out", tmp_path / "study")
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"README.md", *(f"{part}.png" for part in study.QUESTIONS)}
    rows = parts["regret"].rows
    for how in study.CHOSEN:
        regret = rows[f"Weibull, 100 problems: rule {how}"]
        assert regret.num_independent == 2
        assert -4 * regret.standard_error < regret.mean < 20
