"""Are the predictions of tuning kept live, across deployments?

A rule for thinking is tuned on a log of the shipped reasoner, and its saving and change of accuracy are predicted from the part
of the log not used for tuning. Then the rule stops the reasoner live on new problems. This is done once for each of several
seeds, temperatures and mixes of easy and hard problems: a new log, a new rule, new problems.

A 95 % prediction interval should contain the observed figure in 19 of 20 deployments, and the slope of the observed on the
predicted figures should be 1.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import stopping
from sims.estimates import Estimate
from sims.studies import COMPONENTS, Part, predicted_and_observed
from stopping.reasoner import Plan, load_model, run_live
from stopping.reasoner.countdown import Difficulty
from stopping.reasoner.recording import draw_distinct, record
from stopping.traces import split
from stopping.traces.splits import FRACTIONS
from stopping.tuning.measurement import Prediction, observed, predict

SEEDS = (1, 2)
TEMPERATURES = (0.7, 1.0, 1.3)
THREE_NUMBER_PROBS = (0.3, 0.5, 0.7, 0.9)  # shares of easy problems
NUM_LOGGED, NUM_SAMPLES, NUM_LIVE = 500, 4, 1000  # problems, traces of each; problems run live, once each
MAX_ACCURACY_DROP = 0.05  # at 250 problems to certify on, .02 would leave few rules


class Deployment(NamedTuple):
    """One log, the rule tuned on it, and its live run.

    Attributes:
        name: seed, temperature and share of easy problems.
        temperature: of sampling.
        rule: name of the rule; None where the advice was not to use one.
        predicted, observed: by component, as shares.
    """

    name: str
    temperature: float
    rule: str | None
    predicted: dict[str, Prediction]
    observed: dict[str, Estimate]


def run() -> dict[str, Part]:
    """Run the study, which records its own logs."""
    plans = [
        Plan(NUM_LOGGED, NUM_SAMPLES, NUM_LOGGED, 0, temperature=temperature, difficulty=Difficulty(share), seed=seed)
        for seed in SEEDS
        for temperature in TEMPERATURES
        for share in THREE_NUMBER_PROBS
    ]
    return {"deployments": Part(str(deployments.__doc__), *deployments([deploy(plan) for plan in plans]))}


def deploy(
    plan: Plan, num_live: int = NUM_LIVE, report: Callable[[int], None] = lambda num_problems: None
) -> Deployment:
    """Record a log, tune a rule on it, predict its saving and accuracy, and run it on problems that are not in the log."""
    model, problem = load_model("target"), stopping.Thinking()
    with tempfile.TemporaryDirectory() as folder:
        log = record(model, plan, Path(folder) / "traces.parquet", report)
    found = stopping.tune(problem, log, max_loss=MAX_ACCURACY_DROP, seed=plan.seed)
    name = f"seed {plan.seed}, temperature {plan.temperature:g}, {plan.difficulty.three_number_prob:.0%} easy"
    if found.chosen is None:
        return Deployment(name, plan.temperature, None, {}, {})
    policy, worlds = found.chosen.policy, problem.worlds(split(log, FRACTIONS, seed=plan.seed)[2])
    predicted = predict(problem, found.reference, policy, worlds, num_live)

    everyone = draw_distinct(dataclasses.replace(plan, num_problems=plan.num_problems + num_live))
    index = range(plan.num_problems, len(everyone))
    own, stopped = (
        run_live(
            jax.random.key(plan.seed), model, everyone[plan.num_problems :], rule,
            problem_index=index, every_tokens=plan.probe_every_tokens, cap_tokens=plan.cap_tokens,
            temperature=plan.temperature, report=report,
        )
        for rule in (None, policy)
    )  # fmt: skip
    came = observed(stopped.correct, stopped.total_tokens, own.correct, own.total_tokens)
    return Deployment(name, plan.temperature, str(policy), predicted, came)


def deployments(done: list[Deployment]) -> tuple[dict[str, Estimate], Figure]:
    """How often the intervals contain the observed figure, and its slope on the predicted one."""
    used = [one for one in done if one.rule is not None]
    rows = {"a rule was chosen": Estimate.of(np.array([one.rule is not None for one in done]))}
    for name, title in COMPONENTS.items():
        held = [one.predicted[name].low <= one.observed[name].mean <= one.predicted[name].high for one in used]
        rows[f"{title}: within the 95 % interval"] = Estimate.of(np.array(held))
        predicted_points = 100 * np.array([one.predicted[name].mean for one in used])
        observed_points = 100 * np.array([one.observed[name].mean for one in used])
        rows[f"{title}: observed less predicted"] = Estimate.of(observed_points - predicted_points)
        if len(used) > 2:
            rows[f"{title}: slope of observed on predicted"] = slope(predicted_points, observed_points)
    for one in used:
        for name, title in COMPONENTS.items():
            told = one.predicted[name]
            span = f"{100 * told.mean:.1f} predicted, {100 * told.low:.1f} to {100 * told.high:.1f}"
            came = one.observed[name]
            rows[f"{one.name}: {one.rule}: {title} ({span})"] = Estimate(
                100 * came.mean, 100 * came.standard_error, came.num_independent
            )
    pairs = {
        title: {
            f"temperature {temperature:g}": [
                (one.predicted[name], one.observed[name]) for one in used if one.temperature == temperature
            ]
            for temperature in sorted({one.temperature for one in used})
        }
        for name, title in COMPONENTS.items()
    }
    return rows, predicted_and_observed(pairs)


def slope(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Return the least-squares slope, with a heteroscedasticity-robust error (HC3; MacKinnon and White, 1985)."""
    away = x - x.mean()
    square = np.sum(away**2)
    found = np.sum(away * y) / square
    rest = (y - y.mean() - found * away) / (1 - 1 / len(x) - away**2 / square)
    return Estimate(float(found), float(np.sqrt(np.sum((away * rest) ** 2)) / square), len(x))
