"""First Finish Search by quadrature, against the same 48-node rule in NumPy and SciPy."""

from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import numpy as np
from scipy.special import ndtr

from stopping.makespan.parallel import NUM_NODES, Points, evaluate, first_finish

NUM_PROBLEMS, NUM_TRACES = 4096, 16
REACH = 5.5  # scales, on either side: as in `stopping.makespan.parallel`
CHUNK = 256  # problems at once in NumPy: the best of 128 to 1024 on the machine of the first results


def run() -> Report:
    """Time both, and compare each with a float64 rule of eight times as many nodes."""
    drawn = _problems()
    inputs = {kind: {name: values.astype(kind) for name, values in drawn.items()} for kind in (np.float32, np.float64)}
    points = Points(**{name: jax.numpy.asarray(values) for name, values in inputs[np.float32].items()})

    def ours() -> Any:
        return jax.block_until_ready(evaluate(first_finish, points, (NUM_TRACES,), False))

    peers = {f"NumPy {kind.__name__}": partial(_in_chunks, inputs[kind]) for kind in inputs}
    with jax.enable_x64(True):
        wide = Points(**{name: jax.numpy.asarray(values) for name, values in inputs[np.float64].items()})

    def ours_wide() -> Any:
        with jax.enable_x64(True):
            return jax.block_until_ready(evaluate(first_finish, wide, (NUM_TRACES,), False))

    timings = time_together({"stopping float32": ours, **peers, "stopping float64": ours_wide}, repeats=40)
    compiled = ("stopping float32", "stopping float64")
    rows = rows_of(timings, 1e6 / NUM_PROBLEMS, compiled)
    exact = _in_chunks(inputs[np.float64], 8 * NUM_NODES, 8.0)
    results = {"stopping float32": ours(), "stopping float64": ours_wide()} | {name: f() for name, f in peers.items()}
    checks = {}
    for name, curve in results.items():
        accuracy, *tokens = (np.asarray(values, float).reshape(-1) for values in curve)
        checks[f"{name}, accuracy, largest error"] = float(np.abs(accuracy - exact[0]).max())
        relative = [np.abs(got / want - 1).max() for got, want in zip(tokens, exact[1:], strict=True)]
        checks[f"{name}, latency and tokens, largest relative error"] = float(max(relative))
    error = checks["stopping float32, accuracy, largest error"]
    return Report(
        title="First finish, quadrature",
        goal="at most .5 microseconds a problem, exact to float32, at least 4 times NumPy",
        unit="microseconds a problem",
        rows=rows,
        reached=[
            ("at most .5 microseconds", f"{rows[0].minimum:.3f}", rows[0].minimum <= 0.5),
            ("exact to float32 (accuracy within 3e-6)", f"{error:.1e}", error <= 3e-6),
            ("4 times NumPy float32", f"{rows[1].times:.1f}", rows[1].times >= 4),
            ("4 times NumPy float64", f"{rows[2].times:.1f}", rows[2].times >= 4),
        ],
        checks=checks,
        notes=[
            f"{NUM_PROBLEMS} problems, n = {NUM_TRACES}, accuracy, latency and tokens of all traces; {NUM_NODES} nodes "
            "of equal weight; chances .1 to .95, scales .3 to .6, no cap.",
            f"NumPy: {CHUNK} problems at a time (in cache), `scipy.special.ndtr`, powers by repeated squaring, in "
            "place where that is faster.",
            f"Errors are against {8 * NUM_NODES} nodes in float64, over a wider range.",
        ],
    )


def _problems() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    mean = random.uniform(7, 9, NUM_PROBLEMS)
    zeros = np.zeros(NUM_PROBLEMS)
    return {
        "chance": random.uniform(0.1, 0.95, NUM_PROBLEMS),
        "mean_right": mean,
        "mean_wrong": mean + random.normal(0.2, 0.3, NUM_PROBLEMS),
        "scale_right": random.uniform(0.3, 0.6, NUM_PROBLEMS),
        "scale_wrong": random.uniform(0.3, 0.6, NUM_PROBLEMS),
        "loop_prob": zeros,
        "no_answer_prob": zeros,
        "log_cap": zeros + np.inf,
    }


def _in_chunks(problems: dict[str, np.ndarray], num_nodes: int = NUM_NODES, reach: float = REACH) -> list[np.ndarray]:
    columns = [problems[name] for name in ("chance", "mean_right", "mean_wrong", "scale_right", "scale_wrong")]
    parts = [_numpy(*(c[i : i + CHUNK] for c in columns), num_nodes, reach) for i in range(0, NUM_PROBLEMS, CHUNK)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _numpy(
    p: np.ndarray, mr: np.ndarray, mw: np.ndarray, sr: np.ndarray, sw: np.ndarray, num_nodes: int, reach: float
) -> tuple:
    """Accuracy, latency and tokens of the first of n to finish; every trace answers, so S = G."""
    n, kind = NUM_TRACES, p.dtype
    low = np.minimum(mr - reach * sr, mw - reach * sw)
    width = np.maximum(mr + reach * sr, mw + reach * sw) - low
    y = low + width * ((np.arange(num_nodes, dtype=kind) + kind.type(0.5)) / kind.type(num_nodes))[:, None]
    zr, zw = (y - mr) / sr, (y - mw) / sw
    root = kind.type(np.sqrt(2 * np.pi))
    right = np.exp(kind.type(-0.5) * zr * zr) * (p / (sr * root))
    ending = np.exp(kind.type(-0.5) * zw * zw) * ((1 - p) / (sw * root))
    ending += right
    running = p * ndtr(-zr) + (1 - p) * ndtr(-zw)
    squared = running * running
    power = running * squared  # running ** 15 = (r^3)(r^12), r^12 = (r^3)^4
    fourth = power * power
    fourth *= fourth
    power *= fourth
    weight = width * kind.type(n / num_nodes)
    accuracy = np.einsum("np,np->p", right, power) * weight
    ends = np.exp(y)
    ends *= ending
    ends *= power
    latency = ends.sum(axis=0) * weight
    return accuracy, latency, latency * kind.type(n)  # without silent traces all n run until the first ends
