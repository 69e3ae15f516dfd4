"""How much accuracy is lost before drift is detected, and how often are there false alarms?

A rule fitted to one part of the log (`stopping.solvers.fitted_value`) runs on requests like those of the rest, until the traffic
changes: harder tasks (four numbers), another temperature, or weights rounded to 8 or 4 bits; all traces are from the shipped
reasoner. A share of the requests is held out and never stopped. On it `stopping.adapters.drift` tests lengths, agreement with the
answer at the end of the thought, and the signals that the rule reads, against a reference sample as small as the one that tuning
on this log saves. Excess loss is the accuracy that the rule costs after the change, less what it costs on the log. It accumulates
over requests that are not held out, until the alarm or, without one, to the end of the run.

Runs sample their requests from the recorded traces with replacement. Without a change every alarm is false, and their share must
not exceed alpha. The average loss before an alarm includes the error of the excess loss, which all holdouts and alphas of one
change share.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sims
from sims.estimates import Estimate
from sims.studies import Part
from stopping.adapters.drift import DIRECTIONS, capital, coarse, rank, staked
from stopping.plots import COLOURS, MARKERS
from stopping.policies import ExitValue, ProbedExitValue
from stopping.problems import Thinking
from stopping.reasoner import Llama, Plan, load_model
from stopping.reasoner.recording import record
from stopping.solvers import fitted_value
from stopping.traces import TraceLog, split
from stopping.tuning.traffic_sample import values_by_trace

NUM_RUNS, NUM_UNCHANGED = 250, 750  # with a change, and without one
REFERENCE, BEFORE, AFTER = 200, 300, 1200  # held-out requests: in the reference sample, before the change and after
ALPHAS, SHOWN_ALPHA = (0.01, 0.05, 0.1), 0.05
HOLDOUTS = (0.01, 0.02, 0.05)
NUM_RECORDED = 192  # problems, one trace each, with a changed model
TEMPERATURE, BITS = 1.3, (8, 4)
THOUGHT_COST = 0.1  # price of thinking to the end that the rule is fitted at, in right answers
SEED = 0
UNCHANGED = "no change"


class Requests(NamedTuple):
    """The traces of one kind of traffic.

    Attributes:
        values: of each monitored quantity, float32 `[traces]`; NaN where a trace has none.
        loss: accuracy lost by the rule, averaged over samples; float64 `[problems]`.
    """

    values: dict[str, np.ndarray]
    loss: np.ndarray


def run(log: TraceLog, num_recorded: int = NUM_RECORDED) -> dict[str, Part]:
    """Run the study.

    Args:
        log: of the shipped reasoner, with labels and checkpoints, and a group `numbers`.
        num_recorded: problems recorded for each change of the model.
    """
    log = log.take(log.probed)
    fit_part, *others = split(log, (0.3, 0.7), seed=SEED)
    problem = Thinking(price_per_token=THOUGHT_COST / float(log.length_tokens[log.present].mean()))
    rule = fitted_value(problem, problem.worlds(fit_part))
    kinds = {UNCHANGED: others[0], "harder tasks": others[0].where(numbers="4")} | changed_models(num_recorded)
    requests = {name: requests_of(problem, rule, one) for name, one in kinds.items()}
    return {"drift": Part(str(drift.__doc__), *drift(requests))}


def changed_models(num_recorded: int) -> dict[str, TraceLog]:
    """Record new problems with a changed model."""
    model = load_model("target")
    changes = {f"temperature {TEMPERATURE}": (model, TEMPERATURE)}
    changes |= {f"weights of {bits} bits": (quantised(model, bits), 1.0) for bits in BITS}
    found = {}
    for name, (changed, temperature) in changes.items():
        plan = Plan(num_recorded, 1, num_recorded, 0, temperature=temperature, seed=SEED + 1)
        with tempfile.TemporaryDirectory() as folder:
            found[name] = record(changed, plan, Path(folder) / "traces.parquet")
    return found


def quantised(model: Llama, bits: int) -> Llama:
    """Return the model with each column of its matrices rounded to 2^bits - 1 equally spaced values around 0."""
    arrays, rest = eqx.partition(model, eqx.is_array)
    most = 2 ** (bits - 1) - 1

    def rounded(weight: jax.Array) -> jax.Array:
        if weight.ndim < 2:
            return weight
        step = jnp.max(jnp.abs(weight), axis=0) / most
        return jnp.round(weight / step) * step

    return eqx.combine(jax.tree.map(rounded, arrays), rest)


def requests_of(problem: Thinking, rule: ExitValue | ProbedExitValue, log: TraceLog) -> Requests:
    """Return the monitored quantities of a log's traces, and the accuracy that the rule loses on them."""
    reference = problem.reference_rule(log)
    correct = sims.play_rules(problem, [rule, reference], problem.worlds(log), ("correct",))["correct"].astype(float)
    values = {
        name: coarse(each)[log.present].astype(np.float32)
        for name, each in values_by_trace(problem, rule, reference, log).items()
    }
    return Requests(values, (correct[1] - correct[0]).mean(axis=1))


def drift(requests: dict[str, Requests]) -> tuple[dict[str, Estimate], Figure]:
    """False alarms without a change; after a change, the delay until the alarm and the loss by then."""
    before = requests[UNCHANGED]
    p_values: dict[str, np.ndarray] = {
        name: p_values_of(before, after, NUM_RUNS if name != UNCHANGED else NUM_UNCHANGED, seed)
        for seed, (name, after) in enumerate(requests.items())
    }
    false_alarms = {alpha: Estimate.of(np.any(p_values[UNCHANGED] <= alpha, axis=(1, 2))) for alpha in ALPHAS}
    rows = {
        f"no change, alpha {alpha:g}: alarm within {BEFORE + AFTER:,} requests held out": each
        for alpha, each in false_alarms.items()
    }
    rows["the rule's loss on the log, points"] = Estimate.of(100 * before.loss)
    lost: dict[str, dict[float, list[Estimate]]] = {}
    curves = {UNCHANGED: np.any(p_values[UNCHANGED] <= SHOWN_ALPHA, axis=1)[:, BEFORE:]}
    for name, after in requests.items():
        if name == UNCHANGED:
            continue
        excess = _excess(after.loss, before.loss)
        rows[f"{name}: excess loss of a request, points"] = Estimate(
            100 * excess.mean, 100 * excess.standard_error, excess.num_independent
        )
        delays = {alpha: delays_of(p_values[name], alpha) for alpha in ALPHAS}
        for alpha, delay in delays.items():
            rows[f"{name}, alpha {alpha:g}: alarm within {AFTER:,} requests held out"] = Estimate.of(delay < AFTER)
            rows[f"{name}, alpha {alpha:g}: requests held out until then, {AFTER:,} at most"] = Estimate.of(delay)
        lost[name] = {share: [_lost(excess, delays[alpha], share) for alpha in ALPHAS] for share in HOLDOUTS}
        for share, each in lost[name].items():
            for alpha, one in zip(ALPHAS, each, strict=True):
                rows[f"{name}, alpha {alpha:g}, holdout {share:.0%}: right answers lost before the alarm"] = one
        alarms = p_values[name] <= SHOWN_ALPHA
        curves[name] = np.any(alarms[delays_with(alarms) >= BEFORE], axis=1)[:, BEFORE:]
        first = alarms.any(axis=2) & (alarms.argmax(axis=2) == delays_with(alarms)[:, None])
        for quantity, firsts in zip(before.values, first.T, strict=True):
            rows[f"{name}, alpha {SHOWN_ALPHA:g}: {quantity} raised the alarm"] = Estimate.of(firsts)
    return rows, _picture(curves, false_alarms, lost)


def p_values_of(before: Requests, after: Requests, num_runs: int, seed: int) -> np.ndarray:
    """Return each quantity's p-value after each held-out request, `[runs, quantities, requests]`, as `adapters.drift` has it.

    Each run samples its reference sample and `BEFORE` requests from one kind of traffic, and `AFTER` requests from the other.
    """
    random = np.random.default_rng(seed)
    num_before, num_after = (len(each.values["length_tokens"]) for each in (before, after))
    drawn = (
        random.integers(num_before, size=(num_runs, REFERENCE + BEFORE)),
        random.integers(num_after, size=(num_runs, AFTER)),
    )
    uniforms = random.random((num_runs, REFERENCE + BEFORE + AFTER))
    found = []
    for name in before.values:
        values = np.concatenate(
            [each.values[name][rows] for each, rows in zip((before, after), drawn, strict=True)], axis=1
        )
        stakes, num_seen, most = np.zeros((num_runs, len(DIRECTIONS))), np.zeros(num_runs, int), np.ones(num_runs)
        for index in range(REFERENCE, values.shape[1]):
            there = ~np.isnan(values[:, index])
            num_seen += there
            ranks = rank(values[:, :index], values[:, index], uniforms[:, index])
            stakes = np.where(there[:, None], staked(stakes, ranks, np.maximum(num_seen, 1)), stakes)
            most = np.maximum(most, capital(stakes, num_seen))
            found.append(most)
    paths = np.stack(found, axis=1).reshape(num_runs, len(before.values), BEFORE + AFTER)
    return np.minimum(len(before.values) / paths, 1)


def delays_of(p_values: np.ndarray, alpha: float) -> np.ndarray:
    """Return the held-out requests from the change to the alarm, of runs without an earlier alarm; `AFTER` where none comes."""
    alarms = p_values <= alpha
    at = delays_with(alarms)
    return np.where(alarms.any(axis=(1, 2)), at + 1 - BEFORE, AFTER)[at >= BEFORE]


def delays_with(alarms: np.ndarray) -> np.ndarray:
    """Return the request, from 0, at which the first quantity raises an alarm; the number of requests where none does."""
    some = np.any(alarms, axis=1)
    return np.where(np.any(some, axis=1), np.argmax(some, axis=1), some.shape[1])


def _excess(after: np.ndarray, before: np.ndarray) -> Estimate:
    one, other = Estimate.of(after), Estimate.of(before)
    error = np.hypot(one.standard_error, other.standard_error)
    return Estimate(one.mean - other.mean, float(error), min(one.num_independent, other.num_independent))


def _lost(excess: Estimate, delay: np.ndarray, share: float) -> Estimate:
    """Return the excess loss over all requests that are not held out, in right answers; its error is by the delta method."""
    served, wait = (1 - share) / share, Estimate.of(delay)
    error = np.hypot(excess.standard_error * wait.mean, excess.mean * wait.standard_error)
    return Estimate(excess.mean * wait.mean * served, float(error * served), excess.num_independent)


def _picture(
    curves: dict[str, np.ndarray], false_alarms: dict[float, Estimate], lost: dict[str, dict[float, list[Estimate]]]
) -> Figure:
    figure = Figure(figsize=(9.2, 4.6), dpi=150, layout="constrained")
    names, half = list(lost), (len(lost) + 1) // 2
    places = [names[:half], [*names[half:], *["."] * (len(lost) % 2)]]
    grid = figure.subplot_mosaic([[UNCHANGED, *row] for row in places], width_ratios=[1.5, *[1.0] * half])
    for index, (name, alarms) in enumerate(curves.items()):
        colour = "0.5" if name == UNCHANGED else COLOURS[index - 1]
        share = 100 * np.maximum.accumulate(alarms, axis=1).mean(axis=0)
        grid[UNCHANGED].plot(share, color=colour, linewidth=1.2, label=name)
    grid[UNCHANGED].axhline(100 * SHOWN_ALPHA, color="0.5", linewidth=0.8, linestyle="--")
    grid[UNCHANGED].set(
        xlabel="requests held out since the change",
        ylabel=f"alarm by then, % of runs (alpha {SHOWN_ALPHA:g})",
        ylim=(0, 103),
    )
    grid[UNCHANGED].legend(frameon=False, fontsize=7, loc="center right")
    rates, errors = (
        [100 * getattr(each, part) for each in false_alarms.values()] for part in ("mean", "standard_error")
    )
    for name, each in lost.items():
        axes = grid[name]
        for index, (share, estimates) in enumerate(each.items()):
            heights, spreads = ([getattr(one, part) for one in estimates] for part in ("mean", "standard_error"))
            axes.errorbar(
                np.array(rates) + 0.12 * (index - 1), heights, spreads, errors, color=COLOURS[index], marker=MARKERS[index],
                linewidth=1, markersize=4, elinewidth=0.6, capsize=2, label=f"{share:.0%}",
            )  # fmt: skip
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.set_title(name, fontsize=8)
        axes.set(xlabel="false alarms, % of runs", ylabel="right answers lost")
    grid[next(iter(lost))].legend(frameon=False, fontsize=7, title="held out", title_fontsize=7)
    for axes in grid.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    return figure
