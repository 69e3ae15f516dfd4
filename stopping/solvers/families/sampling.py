"""The families of rules that are searched for a sampling problem: one class each, over a grid of its parameter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stopping.policies import (
    NO_ANSWER,
    FirstFinish,
    FixedSamples,
    Margin,
    Policy,
    PosteriorVote,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
)
from stopping.policies.vote_table import CONFIDENCES
from stopping.problems import Sampling, SamplingWorld
from stopping.solvers.families.dispatch import default_rules, distinct, families_of
from stopping.solvers.posterior_tables import posterior_vote

PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
HOPES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
NUM_BUDGETS = 16
BUDGET_QUANTILES = (0.25, 0.5, 0.75)  # of lengths, for the budgets that are compared by default


@families_of.register
def sampling_families(problem: Sampling, worlds: SamplingWorld) -> dict[str, Sequence[Any]]:
    """Return the members of each family for a sampling problem.

    Args:
        problem: says how many traces there may be; without a model there is no `PosteriorVote`.
        worlds: stacked; the budgets are quantiles of their lengths.
    """
    counts = range(1, problem.num_traces + 1)
    there = np.asarray(worlds.length_tokens)[np.asarray(worlds.logged)]  # what was not logged has no length
    quantiles = np.quantile(there, (np.arange(NUM_BUDGETS) + 0.5) / NUM_BUDGETS)
    posterior = None if problem.model is None else posterior_vote(problem.model, problem, 1.0)
    tables = [VoteTable.adaptive_consistency(confidence, problem.num_traces) for confidence in CONFIDENCES]
    return {
        "FixedSamples": [FixedSamples(n) for n in counts],
        "FirstFinish": [FirstFinish(k) for k in counts],
        "Margin": [Margin(votes) for votes in counts],
        "VoteTable": [*tables, VoteTable.cannot_be_caught(problem.num_traces)],
        "UnanimousWindow": [UnanimousWindow(size) for size in counts],
        **({} if posterior is None else {"PosteriorVote": _posterior_votes(posterior)}),
        "TokenBudget": [TokenBudget(int(tokens)) for tokens in np.unique(np.ceil(quantiles))],
    }


def _posterior_votes(posterior: PosteriorVote) -> list[PosteriorVote]:
    surely = [replace(posterior, threshold=prob) for prob in PROBABILITIES]
    return surely + [replace(posterior, least_hope=hope) for hope in HOPES]


@default_rules.register
def default_sampling_rules(problem: Sampling, worlds: SamplingWorld) -> list[Policy]:
    """Return published rules and powers of two of samples: those that vote, only where the answers can be compared."""
    num_traces, logged = problem.num_traces, np.asarray(worlds.logged)
    answers = np.asarray(worlds.answer)[logged]
    can_vote = logged[..., 1:].any() and (answers >= 0).any() and (answers >= NO_ANSWER).all()  # all given are known
    rules: list[Any] = [FixedSamples(1), FirstFinish(1)]
    if can_vote:
        rules = [FixedSamples(2**k) for k in range(num_traces.bit_length()) if 2**k < num_traces]
        rules += [FixedSamples(num_traces), *(FirstFinish(k) for k in (1, 3) if k <= num_traces)]
        rules += [Margin(votes) for votes in (2, 3) if votes <= num_traces]
        rules += [VoteTable.adaptive_consistency(confidence, num_traces) for confidence in (0.8, 0.95)]
        rules += [VoteTable.cannot_be_caught(num_traces), *([UnanimousWindow(3)] if num_traces >= 3 else [])]
    if problem.decision_interval_tokens is not None:
        lengths = np.quantile(np.asarray(worlds.length_tokens)[logged], BUDGET_QUANTILES)
        rules += [TokenBudget(int(np.ceil(length))) for length in lengths]
    return distinct(rules)
