"""What requests are like when nothing is stopped: the sample in a saved policy that a server tests for drift against."""

from typing import Any

import jax
import numpy as np

import sims
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.traces import TraceLog

MOST_VALUES = 2000  # of each quantity: what `policy.json` has room for


def traffic(problem: Replayable, policy: Any, reference: Policy, log: TraceLog) -> dict[str, np.ndarray]:
    """Return samples of a log's traffic by quantity, `[values]`: of each problem the value of its first trace, where it has one.

    Args:
        problem: in which both rules are played.
        policy: a rule that was not chosen on this log.
        reference: the rule in use before.
        log: its first `MOST_VALUES` problems are used.

    Raises:
        PolicyMismatch: if a rule needs a signal, an action or more traces than the log has.
        ValueError: as `problem.worlds`.
    """
    log = log.take(range(min(log.num_problems, MOST_VALUES)))
    first = {name: values[:, 0] for name, values in values_by_trace(problem, policy, reference, log).items()}
    return {name: values[np.isfinite(values)] for name, values in first.items() if np.isfinite(values).any()}


def values_by_trace(problem: Replayable, policy: Any, reference: Policy, log: TraceLog) -> dict[str, np.ndarray]:
    """Return, by quantity, the values of all traces, `[problems, samples]`; NaN where there is none.

    - `length_tokens`: the length of the trace when nothing stops it; int32.
    - `agreement`: whether the policy gives the answer that the reference gives; bool, one for each world, `[problems, orders]`,
      for a problem whose outcomes have an `answer`.
    - for a log with checkpoints, each of their signals that the policy reads, by name: its value at the trace's last decision
      point; float32. A trace without a decision point has none.

    A server measures the same on its holdout, and `stopping.adapters.drift` compares the two.
    """
    worlds, found = problem.worlds(log), {"length_tokens": log.length_tokens}
    outcome: Any = jax.eval_shape(problem.hindsight, jax.tree.map(lambda leaf: leaf[0, 0], worlds))
    if hasattr(outcome, "answer"):
        played = sims.play_rules(problem, [policy, reference], worlds, ("answer",))["answer"]
        found["agreement"] = played[0] == played[1]
    if (probes := log.checkpoints) is not None:
        rows = np.flatnonzero(probes.position_tokens > 0)
        trace = probes.problem_index[rows] * np.int64(log.num_samples) + probes.sample_index[rows]
        last = rows[np.diff(trace, append=-1) != 0]
        for name in (name for name in policy.signals if name in probes.signals):
            values = np.full(log.present.shape, np.nan, np.float32)
            values[probes.problem_index[last], probes.sample_index[last]] = probes.signals[name][last]
            found[name] = values
    return found
