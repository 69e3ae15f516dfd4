"""Logs drawn from the model, and statistics made up, for the tests of calibration."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from stopping.calibration.sufficient_statistics import NO_CAP, Statistics
from stopping.models import LengthCorrectness
from stopping.problems import Sampling
from stopping.traces import TraceLog


def drawn_logs(
    model: LengthCorrectness, seed: int, num_logs: int, num_problems: int, num_traces: int
) -> list[TraceLog]:
    """Logs of problems drawn from a model: of one entry, then every problem is a new one of its population."""
    problem = Sampling(num_traces, model=model)
    worlds = jax.jit(jax.vmap(problem.draw))(jr.split(jr.key(seed), num_logs * num_problems))
    whole = problem.log(worlds)
    return [whole.take(range(first, first + num_problems)) for first in range(0, whole.num_problems, num_problems)]


def made_up(seed: int, num_problems: int, num_points: int) -> Statistics:
    """Statistics of lengths at random, in the present precision; without a cap for `num_points` 0."""
    rng = np.random.default_rng(seed)

    def counts(*shape: int) -> np.ndarray:
        return rng.integers(0, 5, shape)

    numbers: dict[str, Any] = {
        "num_right": counts(num_problems),
        "num_wrong": counts(num_problems),
        "mean_right": rng.normal(8.0, 0.6, num_problems),
        "mean_wrong": rng.normal(8.3, 0.7, num_problems),
        "scatter_right": rng.gamma(2.0, 0.3, num_problems),
        "scatter_wrong": rng.gamma(2.0, 0.3, num_problems),
        "truncation_point": rng.normal(8.8, 0.5, num_problems) if num_points else np.full(num_problems, NO_CAP),
        "num_censored": counts(num_problems, num_points) if num_points else np.zeros((num_problems, 1)),
        "censoring_point": rng.normal(8.8, 0.5, (num_problems, max(num_points, 1))),
    }
    votes = {name: np.zeros(3) for name in Statistics._fields if name.startswith("more")}
    everything = numbers | votes | {"num_silent": np.zeros(())}
    return Statistics(**{name: jnp.asarray(values, float) for name, values in everything.items()})
