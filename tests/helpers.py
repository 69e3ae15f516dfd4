"""Tables that the tests cross with their laws, and strategies that feed them."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from stopping.policies import SamplingObservation, VoteTable
from stopping.policies.policy import INT32_MAX
from tests.stopping.policies.own_policies import RunningAgreement, WeightedVotes

# A user's own, defined outside the package: a float score with a memory, and a float table.
OWN_POLICIES = (
    RunningAgreement(threshold=0.8),
    RunningAgreement(0.6, 0.9, 2.5),
    WeightedVotes(np.array([0.5, 1.25, 3.0]), 2.1),
)

BIG = VoteTable.cannot_be_caught(9000)  # with weights in a file of their own


def name_of(value: Any) -> str | None:
    """Name a policy in the list of tests."""
    return repr(value).replace("\n", "")[:100] if hasattr(value, "signals") else None


def needs(backend: str) -> None:
    """Skip the test, visibly, where a backend's library is not installed."""
    library = {"jax": "jax", "torch": "torch"}.get(backend.split("_")[0])
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


@st.composite
def sampling_batches(draw: st.DrawFn, num_rows: int, max_steps: int = 10) -> list[SamplingObservation]:
    """Draw a stream of observations for each row: for each step, int32 `[rows]` fields.

    Counts and clocks of any size up to the largest int32; the leader has at least the votes of the runner-up.
    """
    counts = st.one_of(st.integers(0, 12), st.sampled_from([0, 1, 1000, INT32_MAX - 1, INT32_MAX]))
    tokens = st.one_of(st.integers(0, 10_000), st.sampled_from([0, 4095, 4096, 4097, INT32_MAX - 1, INT32_MAX]))
    answers = st.integers(-1, 2)

    def row() -> list[int]:
        leader, runner_up = sorted([draw(counts), draw(counts)], reverse=True)
        return [draw(counts), draw(counts), draw(counts), draw(answers), leader, runner_up, draw(tokens), draw(tokens)]

    num_steps = draw(st.integers(1, max_steps))
    steps = [np.array([row() for _ in range(num_rows)], np.int32) for _ in range(num_steps)]
    return [SamplingObservation(*step.T) for step in steps]
