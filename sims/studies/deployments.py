"""Is the promise kept, whatever is deployed?

A rule for thinking is tuned on a log of the shipped reasoner, and its saving and change of accuracy are predicted from the part
of the log that had no say in it. Then the rule stops the reasoner live on problems that nobody has seen. All of it is done
once for each of several seeds, temperatures and mixes of easy and hard problems: a new log, a new rule, new problems.

An interval at 95 % should hold what is realised in 19 of 20 deployments, and what is realised should grow by one point with each
point that was predicted.
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
from sims.studies import Part
from stopping.plots import COLOURS, MARKERS
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
COMPONENTS = {"saving_share": "tokens saved, %", "accuracy_change": "change of accuracy, points"}


class Deployment(NamedTuple):
    """One log, the rule tuned on it, and what came of it.

    Attributes:
        name: seed, temperature and mix.
        rule: None where the advice was not to bother.
        predicted, realised: by component.
    """

    name: str
    temperature: float
    rule: str | None
    predicted: dict[str, Prediction]
    realised: dict[str, Estimate]


def run() -> dict[str, Part]:
    """The one part. It records its logs itself."""
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
    """Record a log, tune a rule on it, predict what it does, and run it on problems that are not in the log."""
    from stopping.cli.rules import name_of

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
    return Deployment(name, plan.temperature, name_of(policy), predicted, came)


def deployments(done: list[Deployment]) -> tuple[dict[str, Estimate], Figure]:
    """How often the intervals hold what is realised, and how it grows with what was predicted."""
    used = [one for one in done if one.rule is not None]
    rows = {"a rule was chosen": Estimate.of(np.array([one.rule is not None for one in done]))}
    for name, title in COMPONENTS.items():
        held = [one.predicted[name].low <= one.realised[name].mean <= one.predicted[name].high for one in used]
        rows[f"{title}: held by the interval at 95 %"] = Estimate.of(np.array(held))
        predicted = 100 * np.array([one.predicted[name].mean for one in used])
        realised = 100 * np.array([one.realised[name].mean for one in used])
        rows[f"{title}: realised less predicted"] = Estimate.of(realised - predicted)
        if len(used) > 2:
            rows[f"{title}: slope of realised on predicted"] = slope(predicted, realised)
    for one in used:
        for name, title in COMPONENTS.items():
            told = one.predicted[name]
            span = f"{100 * told.mean:.1f} predicted, {100 * told.low:.1f} to {100 * told.high:.1f}"
            came = one.realised[name]
            rows[f"{one.name}: {one.rule}: {title} ({span})"] = Estimate(
                100 * came.mean, 100 * came.standard_error, came.num_independent
            )
    return rows, _picture(used)


def slope(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Least squares with an intercept; its error allows for spread that differs (HC3; MacKinnon and White, 1985)."""
    away = x - x.mean()
    square = np.sum(away**2)
    found = np.sum(away * y) / square
    rest = (y - y.mean() - found * away) / (1 - 1 / len(x) - away**2 / square)
    return Estimate(float(found), float(np.sqrt(np.sum((away * rest) ** 2)) / square), len(x))


def _picture(used: list[Deployment]) -> Figure:
    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2), COMPONENTS.items(), strict=True):
        for index, temperature in enumerate(sorted({one.temperature for one in used})):
            chosen = [one for one in used if one.temperature == temperature]
            told = 100 * np.array([one.predicted[name] for one in chosen])
            came = [one.realised[name] for one in chosen]
            axes.errorbar(
                told[:, 0], [100 * one.mean for one in came], [100 * one.standard_error for one in came],
                np.abs(told[:, 1:] - told[:, :1]).T, color=COLOURS[index], marker=MARKERS[index], markersize=4,
                linestyle="none", elinewidth=0.6, label=f"temperature {temperature:g}",
            )  # fmt: skip
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        axes.set(xlim=(min(low), max(high)), ylim=(min(low), max(high)))
        axes.set_xlabel(f"{title}, predicted (95 %)", fontsize=8)
        axes.set_ylabel("realised live (± one standard error)", fontsize=8)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    return figure
