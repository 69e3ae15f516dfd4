"""The families of rules that are searched for a thinking problem: one class each, over a grid taken from the worlds.

A rule that probes does so every 1, 2, 4 or 8 decision points; a threshold is a quantile of the signals of the traces.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stopping.policies import (
    AnswerAgreement,
    CandidateStop,
    CloseTokenThreshold,
    ConfidenceExit,
    EntropySlope,
    Policy,
    TokenBudget,
    WindowedConfidence,
)
from stopping.problems import Thinking, ThinkingWorld
from stopping.problems.thinking_worlds import NEVER
from stopping.solvers.families.dispatch import Families, a_few_of_each, default_rules, families_of, fitted_families
from stopping.solvers.value_regression import exit_values

INTERVALS = (1, 2, 4, 8)  # decision points
HIGH, LOW = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99), (0.01, 0.03, 0.1, 0.2)
GAINS = (0.0, 0.02, 0.1)  # nats
NUM_BUDGETS = 24
NUM_FITTED = 3  # intervals of probes that rules are fitted for
MOST_CANDIDATES = 6
NEVER_LOG_PROB = -1e4


def probe_intervals(worlds: ThinkingWorld) -> list[int]:
    """Return `INTERVALS` in tokens, at the median distance of the worlds' decision points."""
    positions = np.asarray(worlds.position_tokens)
    there = positions < NEVER
    gaps = np.diff(positions, axis=-1)[there[..., 1:]]
    gap = int(np.median(gaps)) if gaps.size else int(positions[there].min())
    return [gap * number for number in INTERVALS]


def thinking_families(worlds: ThinkingWorld) -> dict[str, Sequence[Any]]:
    """Return the members of each family that the worlds have the signals for.

    Args:
        worlds: with any leading axes.
    """
    there = np.asarray(worlds.position_tokens) < NEVER
    positions = np.asarray(worlds.position_tokens)[there]
    intervals = probe_intervals(worlds)
    patience = sorted({0, *(int(at) for at in np.quantile(positions, (0.25, 0.5, 0.75)))})

    def thresholds(signal: str, quantiles: tuple[float, ...]) -> list[float]:
        values = np.quantile(np.asarray(worlds.signals[signal])[there], quantiles)
        return [float(f"{value:.4g}") for value in np.unique(values)]

    budgets = np.unique(np.quantile(positions, np.linspace(0, 1, NUM_BUDGETS), method="nearest"))
    agreements = [AnswerAgreement(number, interval) for number in (2, 3, 4) for interval in intervals]
    families: dict[str, Sequence[Any]] = {
        "TokenBudget": [TokenBudget(int(tokens)) for tokens in budgets],
        "AnswerAgreement": agreements,
    }
    if "num_candidates" in worlds.signals:
        families["CandidateStop"] = [CandidateStop(number) for number in range(1, MOST_CANDIDATES + 1)]
    if "log_close_prob" in worlds.signals:
        high = thresholds("log_close_prob", HIGH)
        low = thresholds("log_close_prob", LOW)
        families["CloseTokenThreshold"] = [CloseTokenThreshold(value, NEVER_LOG_PROB, 0) for value in high] + [
            CloseTokenThreshold(value, give_up, tokens)
            for value in high[2:]
            for give_up in low
            for tokens in patience[1:]
        ]
    if "mean_log_prob" in worlds.signals:
        families["WindowedConfidence"] = [
            WindowedConfidence(value, tokens) for value in thresholds("mean_log_prob", LOW) for tokens in patience
        ]
    if "answer_mean_log_prob" in worlds.signals:
        families["ConfidenceExit"] = [
            ConfidenceExit(value, interval)
            for value in thresholds("answer_mean_log_prob", HIGH)
            for interval in intervals
        ]
        families["EntropySlope"] = [
            EntropySlope(gain, number, interval) for gain in GAINS for number in (1, 2) for interval in intervals
        ]
    return families


@families_of.register
def all_thinking_families(problem: Thinking, worlds: ThinkingWorld) -> Families:
    """Return the families with thresholds read off the worlds, and those fitted to them."""
    return {**thinking_families(worlds), **fitted_families(problem, worlds)}


@fitted_families.register
def fitted_thinking_families(problem: Thinking, worlds: ThinkingWorld) -> Families:
    """Return the families that are fitted to the worlds; none where signals are missing."""
    return exit_values(problem, worlds, probe_intervals(worlds)[:NUM_FITTED])


@default_rules.register
def default_thinking_rules(problem: Thinking, worlds: ThinkingWorld) -> list[Policy]:
    """Return a few of each family that is not fitted to the worlds themselves."""
    return a_few_of_each(thinking_families(worlds))
