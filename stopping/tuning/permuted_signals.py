"""A log whose signals tell nothing: what tuning finds in it is chance."""

import dataclasses

import numpy as np

from stopping.traces import TraceLog


def placebo(log: TraceLog, seed: int = 0) -> TraceLog:
    """Return the log with the signals of checkpoints permuted among all that stand at the same position.

    Answers, lengths and the law of every signal at every position are kept; that a signal has to do with its trace is not.

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
