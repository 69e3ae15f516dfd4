"""A log whose signals are permuted: whatever tuning finds in it is chance."""

import dataclasses

import numpy as np

from stopping.traces import TraceLog


def placebo(log: TraceLog, seed: int = 0) -> TraceLog:
    """Return the log with the signals of checkpoints permuted among all checkpoints at the same position.

    Answers, lengths and the distribution of every signal at every position stay as they are. Only the dependence of a signal
    on its trace is destroyed.

    Raises:
        ValueError: for a log without checkpoints.
    """
    probes = log.checkpoints
    if probes is None:
        raise ValueError("log: expected checkpoints, got none")
    random, order = np.random.default_rng(seed), np.arange(len(probes.position_tokens))
    by_position = np.argsort(probes.position_tokens, kind="stable")
    ends = np.flatnonzero(np.diff(probes.position_tokens[by_position])) + 1
    for rows in np.split(by_position, ends):
        order[rows] = random.permutation(rows)
    signals = {name: values[order] for name, values in probes.signals.items()}
    return dataclasses.replace(log, checkpoints=dataclasses.replace(probes, signals=signals))
