"""Fitting the lengths of all cells at once, against L-BFGS on the same objective, one cell after another."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_ndtr

import sims
from stopping.calibration.length_likelihood import PRIOR_MEAN, PRIOR_SCALE, Shared, objective, share_wrong
from stopping.calibration.lengths import _start, fit_lengths
from stopping.calibration.sufficient_statistics import Statistics, stack, statistics
from stopping.models import LengthCorrectness
from stopping.problems import Sampling
from stopping.traces import TraceLog

NUM_SAMPLES, NUM_PROBLEMS = 8, (60, 198) * 6
MEAN, SCALE = np.array(PRIOR_MEAN, float), np.array(PRIOR_SCALE, float)
OPTIONS = {"maxiter": 2000, "maxfun": 4000}  # the defaults, without their limits


def run() -> Report:
    """Time the fit of twelve drawn logs, and of the real ones where they are; compare the maxima reached."""
    kinds = {"model logs": [statistics(log) for log in drawn_logs()]}
    if real := real_logs():
        kinds["real logs"] = [statistics(log) for log in real]
    rows, reached, checks, notes = [], [], {}, []
    for kind, cells in kinds.items():
        data = stack(cells)
        single, double = _compiled(data, np.float32), _compiled(data, np.float64)
        starts = [_start_of(cell) for cell in cells]
        peer = partial(_loop, cells, starts)
        contenders = {"stopping float32": single, "stopping float64": double, "L-BFGS float64": peer}
        timings = time_together({f"{kind}, {name}": f for name, f in contenders.items()}, repeats=11)
        own = rows_of(timings, 1e3, tuple(timings)[:2])
        rows += own
        reached.append((f"{kind}: 20 times L-BFGS, float32", f"{own[2].times:.0f}", own[2].times >= 20))
        notes.append(f"{kind}: float64 is {own[2].minimum / own[1].minimum:.1f} times as fast as L-BFGS.")
        found, fits = peer(), {"float32": single(), "float64": double()}
        checks[f"{kind}, gradient of the peer, largest difference from automatic"] = _gradient_gap(cells, starts)
        for name, fit in fits.items():
            ours = [_value(cell, _join(fit, i, cell)) for i, cell in enumerate(cells)]
            gap = np.array(ours) - [-result.fun for result in found]
            checks[f"{kind}, objective, stopping {name} less L-BFGS, least over cells"] = float(gap.min())
            checks[f"{kind}, the same, greatest"] = float(gap.max())
        checks[f"{kind}, steps of the slowest cell, float32"] = float(np.max(fits["float32"].num_steps))
        checks[f"{kind}, evaluations of L-BFGS, all cells"] = float(sum(result.nfev for result in found))
    return Report(
        title="Fit of all cells at once, lengths",
        goal="float32 at least 20 times a loop of scipy L-BFGS with analytic gradient; float64 beside it",
        unit="milliseconds for twelve cells",
        rows=rows,
        reached=reached,
        checks=checks,
        notes=[
            *notes,
            f"Twelve logs of 60 or 198 problems, {NUM_SAMPLES} samples each; model logs are drawn from "
            "`LengthCorrectness`.",
            "Both maximise the same objective, jointly over every problem's effect and the seven shared parameters, "
            f"from the same start and the same sufficient statistics. L-BFGS-B: {OPTIONS}. "
            "Objectives are compared in float64.",
            "Times the first: of the first row, over both kinds of logs.",
        ],
    )


def drawn_logs() -> list[TraceLog]:
    """Draw twelve logs, with caps and without, some of whose traces loop."""
    logs = []
    for cell, num_problems in enumerate(NUM_PROBLEMS):
        random = np.random.default_rng(cell)
        hardness = random.normal(0, 1, num_problems)
        chance = expit(0.8 - 1.5 * hardness)
        model = LengthCorrectness(
            alpha=6 * chance, beta=6 * (1 - chance), effect=8.5 + 0.4 * hardness + random.normal(0, 0.3, num_problems),
            effect_scale=0.1, shift=random.normal(0.15, 0.2), scale_right=random.uniform(0.3, 0.5),
            scale_wrong=random.uniform(0.3, 0.5), loop_prob=0.05, no_answer_prob=0.05,
            cap_tokens=(16_000, 32_000)[cell % 2],
        )  # fmt: skip
        problem = Sampling(NUM_SAMPLES, model=model)
        logs.append(problem.log(sims.draw(jax.random.key(cell), problem, num_problems)))
    return logs


def real_logs() -> list[TraceLog]:
    """Load the twelve logs that the tests use, where the data and pandas are there; else none."""
    try:
        from tests.shared import ART_OF_TTS, art_of_tts
    except ImportError:
        return []
    return list(art_of_tts().values()) if Path(ART_OF_TTS).exists() else []


def _compiled(data: Statistics, kind: type) -> Any:
    """Return a function that fits all cells in one precision."""
    wide = kind is np.float64
    with jax.enable_x64(wide):
        arrays = jax.tree.map(lambda values: jax.numpy.asarray(values, kind), data)
        fit = jax.jit(jax.vmap(fit_lengths))

    def call() -> Any:
        with jax.enable_x64(wide):
            return jax.block_until_ready(fit(arrays))

    return call


def _start_of(cell: Statistics) -> np.ndarray:
    with jax.enable_x64(True):
        effect, shared = _start(jax.tree.map(lambda values: jax.numpy.asarray(values, float), cell))
        return np.concatenate([np.asarray(effect), np.stack(shared)])


def _loop(cells: Sequence[Statistics], starts: Sequence[np.ndarray]) -> list[Any]:
    return [
        minimize(Negative(cell), start, jac=True, method="L-BFGS-B", options=OPTIONS)
        for cell, start in zip(cells, starts, strict=True)
    ]


class Negative:
    """Minus `length_likelihood.objective` of a cell and its gradient, in NumPy: `f(point) -> (value, gradient)`."""

    def __init__(self, cell: Statistics) -> None:
        self.cell, self.x = cell, np.asarray(share_wrong(cell), float)

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        d = self.cell
        a, (shift, log_right, log_wrong, centre, slope, log_spread, logit_loop) = point[:-7], point[-7:]
        of_right, of_wrong, of_spread = np.exp(-2 * np.array([log_right, log_wrong, log_spread]))
        inverse, inverse_right = np.exp(-log_wrong), np.exp(-log_right)
        off_right, off_wrong = d.mean_right - a, d.mean_wrong - a - shift
        right = d.scatter_right + d.num_right * off_right**2
        wrong = d.scatter_wrong + d.num_wrong * off_wrong**2
        off = a - centre - slope * self.x
        log_loop, log_end = -np.logaddexp(0, -logit_loop), -np.logaddexp(0, logit_loop)
        loop = np.exp(log_loop)

        z = (d.censoring_point - a[:, None] - shift) * inverse
        log_above = log_ndtr(-z)
        h = np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_above)
        would_end = expit(log_above - logit_loop)
        ends = d.num_censored * would_end
        h_slope = h * (h - z)
        bend = (ends * h_slope).sum(axis=1)
        w = np.clip((a - d.truncation_point) * inverse_right, -40, 40)  # right traces end below the cap
        log_below = log_ndtr(-w)
        g = np.exp(-0.5 * w * w - 0.5 * np.log(2 * np.pi) - log_below)
        g_slope = g * (g - w)
        g_bend = g_slope * (g - w) + g * (g_slope - 1)
        of_cut = d.num_right * of_right
        curvature = of_cut * (1 - g_slope) + (d.num_wrong + bend) * of_wrong + of_spread
        value = (
            -d.num_right * (log_right + log_below) - 0.5 * right * of_right
            + d.num_wrong * (log_end - log_wrong) - 0.5 * wrong * of_wrong
            + (d.num_censored * np.logaddexp(log_loop, log_end + log_above)).sum(axis=1)
            - log_spread - 0.5 * off**2 * of_spread - 0.5 * np.log(curvature)
        ).sum() - 0.5 * (((point[-7:] - MEAN) / SCALE) ** 2).sum()  # fmt: skip

        # of the bend, by z and by logit_loop; of the censored, by z
        doubt = ends * (1 - would_end)
        bend_z = -doubt * h * h_slope + ends * (h_slope * (h - z) + h * (h_slope - 1))
        pull = (ends * h).sum(axis=1)
        half = -0.5 / curvature
        by_position = pull * inverse - half * of_wrong * bend_z.sum(axis=1) * inverse
        shared_by_wrong = d.num_wrong * off_wrong * of_wrong + by_position
        gradient = np.empty_like(point)
        gradient[:-7] = of_cut * off_right + shared_by_wrong - off * of_spread
        gradient[:-7] += d.num_right * g * inverse_right - half * of_cut * g_bend * inverse_right
        gradient[-7] = shared_by_wrong.sum()
        gradient[-6] = (
            -d.num_right * (1 + w * g) + right * of_right + half * of_cut * (g_bend * w - 2 * (1 - g_slope))
        ).sum()
        gradient[-5] = (
            -d.num_wrong + wrong * of_wrong + (ends * h * z).sum(axis=1)
            - half * of_wrong * (2 * (d.num_wrong + bend) + (bend_z * z).sum(axis=1))
        ).sum()  # fmt: skip
        gradient[-4] = (off * of_spread).sum()
        gradient[-3] = (off * of_spread * self.x).sum()
        gradient[-2] = (-1 + off**2 * of_spread - 2 * half * of_spread).sum()
        gradient[-1] = (
            -d.num_wrong * loop + (d.num_censored * (1 - loop - would_end)).sum(axis=1)
            - half * of_wrong * (doubt * h_slope).sum(axis=1)
        ).sum()  # fmt: skip
        gradient[-7:] -= (point[-7:] - MEAN) / SCALE**2
        return -value, -gradient


def _value(cell: Statistics, point: np.ndarray) -> float:
    return -Negative(cell)(point)[0]


def _join(fit: Any, index: int, cell: Statistics) -> np.ndarray:
    """One cell's effects and shared parameters, in float64."""
    effect = np.asarray(fit.effect[index], float)[: cell.num_right.shape[0]]
    return np.concatenate([effect, [float(values[index]) for values in fit.shared]])


def _gradient_gap(cells: Sequence[Statistics], starts: Sequence[np.ndarray]) -> float:
    """The peer's gradient against JAX's own at the starts and a little beside them."""
    gaps = []
    with jax.enable_x64(True):
        for cell, start in zip(cells, starts, strict=True):
            point = start + 0.1 * np.random.default_rng(0).normal(size=start.size)
            shared = Shared(*map(jax.numpy.asarray, point[-7:]))
            effects, others = jax.grad(objective, argnums=(0, 1))(jax.numpy.asarray(point[:-7]), shared, cell)
            wanted = np.concatenate([np.asarray(effects), np.stack(others)])
            gaps.append(np.abs(-Negative(cell)(point)[1] - wanted).max())
    return float(max(gaps))
