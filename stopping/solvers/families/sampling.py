"""The families of rules that are searched for a sampling problem: one class each, over a grid of its parameter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stopping.policies import (
    FirstFinish,
    FixedSamples,
    Margin,
    PosteriorVote,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
)
from stopping.policies.vote_table import CONFIDENCES
from stopping.problems import Sampling, SamplingWorld
from stopping.solvers.families.dispatch import families_of
from stopping.solvers.posterior_tables import posterior_vote

PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
HOPES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
NUM_BUDGETS = 16


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
