"""Fitting 1,000 resamples of one log at once, against fitting them one after another."""

from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together
from benchmarks.length_fit import OPTIONS, Negative, _start_of, drawn_logs

import jax  # isort: skip
import numpy as np
from scipy.optimize import minimize

from stopping.calibration.length_correctness import estimate
from stopping.calibration.sufficient_statistics import Statistics, stack, statistics

NUM_RESAMPLES, NUM_PROBLEMS = 1000, 100
SUBSET = 50  # every so many resamples by L-BFGS; scaled


def run() -> Report:
    """Time the fit of resampled logs: all at once, a call each, and their lengths alone by L-BFGS."""
    log = drawn_logs()[1]
    random = np.random.default_rng(0)
    resamples = [log.take(random.choice(log.num_problems, NUM_PROBLEMS, replace=False)) for _ in range(NUM_RESAMPLES)]
    parts = [statistics(each) for each in resamples]
    data = jax.tree.map(lambda values: jax.numpy.asarray(values, np.float32), stack(parts))
    some = parts[::SUBSET]
    singles = [jax.tree.map(lambda values, i=i: values[i : i + 1], data) for i in range(0, NUM_RESAMPLES, SUBSET)]
    peer = partial(_loop, some)
    contenders: dict[str, Any] = {
        "stopping, all at once": lambda: jax.block_until_ready(estimate(data)),
        "stopping, one call each": lambda: [jax.block_until_ready(estimate(one)) for one in singles],
        "L-BFGS float64, lengths alone": peer,
        "statistics of the logs, for all of these": lambda: [statistics(each) for each in resamples[::SUBSET]],
    }
    timings = time_together(contenders, repeats=5)
    fits = {name: NUM_RESAMPLES if "at once" in name else len(some) for name in contenders}
    rows = rows_of(timings, {name: NUM_RESAMPLES / number for name, number in fits.items()}, tuple(timings)[:2])
    found, settled = peer(), estimate(data).lengths
    gap = np.array(settled.objective)[::SUBSET] - [-result.fun for result in found]
    return Report(
        title="1,000 recalibrations",
        goal="about a second for all, after compiling",
        unit="seconds for 1,000 logs",
        rows=rows,
        reached=[("about a second", f"{rows[0].minimum:.2f}", rows[0].minimum < 1.5)],
        checks={
            "share of the resamples that did not converge": float(1 - np.mean(settled.converged)),
            "objective of the lengths, stopping less L-BFGS, least": float(gap.min()),
            "the same, greatest": float(gap.max()),
            "steps of the slowest resample": float(np.max(settled.num_steps)),
        },
        notes=[
            f"{NUM_RESAMPLES} samples of {NUM_PROBLEMS} problems x 8 traces, without replacement, of a drawn log of "
            f"{log.num_problems}, from their sufficient statistics; lengths, chances and answers are fitted, float32.",
            f"What is not done all at once is timed for every {SUBSET}th resample and scaled. L-BFGS-B: {OPTIONS}.",
        ],
    )


def _loop(parts: list[Statistics]) -> list[Any]:
    return [minimize(Negative(part), _start_of(part), jac=True, method="L-BFGS-B", options=OPTIONS) for part in parts]
