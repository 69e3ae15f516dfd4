"""Tables that the tests cross with their laws, and strategies that feed them."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from stopping.policies import SamplingObservation, ThinkingObservation, VoteTable
from stopping.policies.checks import INT32_MAX
from stopping.policies.decisions import THINKING, decision_of
from tests.stopping.policies.own_policies import RunningAgreement, WeightedVotes

# A user's own, defined outside the package: a float score with a memory, and a float table.
OWN_POLICIES = (
    RunningAgreement(threshold=0.8),
    RunningAgreement(0.6, 0.9, 2.5),
    WeightedVotes(np.array([0.5, 1.25, 3.0]), 2.1),
)

NIGHTLY = os.environ.get("STOPPING_NIGHTLY") == "1"  # `make nightly` sets it


def sized(usual: Any, full: Any) -> Any:
    """Return the size of a test: the full one in `make nightly`, the usual one otherwise."""
    return full if NIGHTLY else usual


def array_of(backend: str) -> Any:
    """Return the function that makes an array of a backend."""
    if backend == "torch":
        import torch

        return torch.tensor
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.asarray
    return np.asarray


# A test's parameter for what runs on torch; the marker skips the test, visibly, where torch is not installed.
TORCH = pytest.param("torch", marks=pytest.mark.torch)

BIG = VoteTable.cannot_be_caught(9000)  # with weights in a separate file


def name_of(value: Any) -> str | None:
    """Name a policy in the list of tests."""
    return repr(value).replace("\n", "")[:100] if hasattr(value, "signals") else None


def observation_batches(policy: Any, num_rows: int, max_steps: int = 10) -> st.SearchStrategy[list[Any]]:
    """Streams of what a policy reads: for each step, fields of their types `[rows]`."""
    return {SamplingObservation: sampling_batches, ThinkingObservation: thinking_batches}[
        decision_of(policy).observation
    ](num_rows, max_steps)


@st.composite
def sampling_batches(draw: st.DrawFn, num_rows: int, max_steps: int = 10) -> list[SamplingObservation]:
    """Draw a stream of observations for each row: for each step, int32 `[rows]` fields.

    Counts and clocks of any size up to the largest int32; the leader has at least the votes of the runner-up.
    """
    counts = st.one_of(st.integers(0, 12), st.sampled_from([0, 1, 1000, INT32_MAX - 1, INT32_MAX]))
    answers = st.integers(-1, 2)

    def row() -> list[int]:
        leader, runner_up = sorted([draw(counts), draw(counts)], reverse=True)
        return [draw(counts), draw(counts), draw(counts), draw(answers), leader, runner_up, draw(TOKENS), draw(TOKENS)]

    num_steps = draw(st.integers(1, max_steps))
    steps = [np.array([row() for _ in range(num_rows)], np.int32) for _ in range(num_steps)]
    return [SamplingObservation(*step.T) for step in steps]


TOKENS = st.one_of(st.integers(0, 10_000), st.sampled_from([0, 4095, 4096, 4097, INT32_MAX - 1, INT32_MAX]))


@st.composite
def thinking_batches(draw: st.DrawFn, num_rows: int, max_steps: int = 10) -> list[ThinkingObservation]:
    """Draw a stream of observations for each row, probed or not as it comes; clocks of any size."""
    num_steps = draw(st.integers(1, max_steps))
    log_probs = st.floats(-20, 0, width=32)
    strategies = {
        **dict.fromkeys(ThinkingObservation._fields, log_probs),
        "elapsed_tokens": TOKENS, "mean_entropy": st.floats(0, 5, width=32), "num_candidates": st.integers(0, 5),
        "probed": st.booleans(), "probed_answer": st.integers(-1, 2),
    }  # fmt: skip
    return [
        ThinkingObservation(
            *(
                np.array([draw(strategies[name]) for _ in range(num_rows)], THINKING.dtype_of(name))
                for name in ThinkingObservation._fields
            )
        )
        for _ in range(num_steps)
    ]


def one_observation(policy: Any, value: int = 1, shape: tuple[int, ...] = ()) -> Any:
    """Every field of what a policy reads, set to a number, in its type; plain numbers for no shape."""
    decision = decision_of(policy)
    fields = (np.full(shape, value, decision.dtype_of(name)) for name in decision.signals)
    return decision.observation(*(field if shape else field.item() for field in fields))
