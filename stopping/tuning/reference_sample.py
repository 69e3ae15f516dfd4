"""What requests are like when nothing is stopped: the reference sample of a saved policy, from which drift is told."""

from typing import Any

import jax
import numpy as np

import sims
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.traces import TraceLog

MOST_VALUES = 2000  # a law: what `policy.json` has room for


def traffic(problem: Replayable, policy: Any, reference: Policy, log: TraceLog) -> dict[str, np.ndarray]:
    """Return the laws of a log's traffic, each a value of one trace a problem, `[values]`: the first, where it has one.

    Args:
        problem: in which both rules are played.
        policy: a rule that the log was not used for, nor the rule for the log.
        reference: the rule in use before.
        log: of which the first `MOST_VALUES` problems are taken.

    Raises:
        PolicyMismatch: if a rule needs a signal, an action or more traces than the log has.
        ValueError: as `problem.worlds`.
    """
    log = log.take(range(min(log.num_problems, MOST_VALUES)))
    first = {name: values[:, 0] for name, values in laws(problem, policy, reference, log).items()}
    return {name: values[np.isfinite(values)] for name, values in first.items() if np.isfinite(values).any()}


def laws(problem: Replayable, policy: Any, reference: Policy, log: TraceLog) -> dict[str, np.ndarray]:
    """Return, by law, the values of all traces, `[problems, samples]`; NaN where there is none.

    - `length_tokens`: of the trace, left alone; int32.
    - `agreement`: whether the policy would give the answer that the reference gives; bool, one a world: `[problems, orders]`;
      for a problem whose outcomes have an `answer`.
    - for a log with checkpoints, each of their signals that the policy reads, by its name: its value at the trace's last decision
      point; float32. A trace without a decision point has none.

    A server measures the same on its holdout, and `stopping.adapters.drift` compares.
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
