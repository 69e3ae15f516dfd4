"""What `.plot()` draws and `repr` says: the figures are those of the result."""

import jax
import numpy as np
import pytest

import sims
from sims import Estimate
from stopping import calibration, models, solvers, tuning
from stopping.plots import fitted
from stopping.policies import FixedSamples, Margin
from stopping.problems import Sampling
from tests.stopping.test_plots import drawn_log

PROBLEM = Sampling(4, model=models.LengthCorrectness(1.5, 1.0, effect=7.0), price_per_token=1e-5)


def test_a_result_shows_means_with_errors():
    result = sims.simulate(jax.random.key(0), PROBLEM, Margin(2), num_replicas=500)
    assert repr(result).startswith("Result of the simulation of Margin(2), 500 units:\n  correct ")
    assert f"total_tokens {result.total_tokens}, latency_tokens {result.latency_tokens}" in repr(result)
    assert "unsupported" not in repr(result)
    panels = result.plot().axes
    assert [axes.get_title(loc="right") for axes in panels] == [
        f"mean {result.total_tokens}", f"mean {result.latency_tokens}"
    ]  # fmt: skip
    for axes, name in zip(panels, ("total_tokens", "latency_tokens"), strict=True):
        assert sum(bar.get_height() for bar in axes.patches[:40]) == 500
        assert axes.lines[0].get_xdata()[0] == result.estimates[name].mean


def test_a_result_without_tokens_shows_its_utility():
    (axes,) = sims.Result({"utility": np.arange(5.0)}, "w", "replay of a rule").plot().axes
    assert axes.get_xlabel() == "utility"


def test_a_fit_shows_its_parameters_and_its_distribution():
    """Drawn from the model, the lengths of right and wrong traces lie over its distribution within their noise."""
    model = models.LengthCorrectness(
        [3.0, 1.0], [1.0, 2.0], effect=[6.0, 7.0], effect_scale=0.1, shift=0.4, cap_tokens=4000
    )
    problem = Sampling(4, model=model)
    log = problem.log(sims.draw(jax.random.key(1), problem, 2000))
    diagnostics = calibration.Diagnostics(np.zeros(0), np.zeros(0), 0.0, 0.0, 1.0, 1.0)
    fit = calibration.Fit(model, model, {"shift": 0.02, "centre": 0.1}, diagnostics, 2000, 8000, 0, 7, True)
    assert repr(fit) == (
        "Fit of LengthCorrectness to 8,000 traces of 2,000 problems, converged in 7 steps:\n  shift 0.400 ± 0.020"
    )
    (axes,) = fitted(fit, log).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "right",
        "wrong",
        "right, the model",
        "wrong, the model",
    ]
    drawn = np.array([bar.get_height() for bar in axes.patches[:80]]).reshape(2, 40)
    expected = np.array([stairs.get_data().values for stairs in axes.patches[80:]])
    assert expected.sum() == pytest.approx(8000)
    assert np.all(
        np.abs(drawn - expected) < 5 * np.sqrt(4 * expected + 4)
    )  # four traces of a problem may fall into one bin


def test_a_solution_shows_every_family_between_the_fixed_rule_and_the_bounds():
    def member(rule, value):
        return solvers.Member(rule, Estimate(value, 0.01, 500), Estimate(value - 0.6, 0.01, 500))

    family = {"FixedSamples": member(FixedSamples(3), 0.6), "Margin": member(Margin(2), 0.7)}
    found = solvers.Solution(
        Margin(2), family["Margin"].value, Estimate(0.8, 0.01, 500), Estimate(0.9, 0.01, 500), family["FixedSamples"],
        family["Margin"], family, solvers.Status.ADAPTIVE,
    )  # fmt: skip
    assert repr(found).splitlines()[0] == f"Solution: Margin(2), value 0.700 ± 0.010; {solvers.Status.ADAPTIVE.value}"
    (axes,) = found.plot().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FixedSamples(3)", "Margin(2)"]
    marks = {line.get_label(): line.get_xdata()[0] for line in axes.lines if not line.get_label().startswith("_")}
    assert marks == {"best fixed rule": 0.6, "bound: answers seen beforehand": 0.8, "bound: clairvoyant": 0.9}


def test_certificates_stand_in_the_order_of_testing():
    log, problem = drawn_log(), Sampling(8)
    rules = [FixedSamples(8), FixedSamples(1)]
    found = tuning.certify(problem, rules, log, max_loss=0.1, reference=FixedSamples(8))
    (axes,) = found.plot().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FixedSamples(1), none", "FixedSamples(8), proof"]
    assert axes.get_xlabel() == "loss of accuracy against FixedSamples(8), points"
