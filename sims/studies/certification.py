"""How often are rules certified wrongly, and how often are good rules certified?

Certification is repeated many times on drawn problems. A certificate is wrong if the rule's true loss is the limit or more; this
may happen in at most a share 1 - confidence of all runs. On held-out problems of a log the true loss is unknown. So losses are
drawn from distributions whose mean is exactly the limit, and by resampling a log's problems, where a rule's true loss is its loss
on the whole log.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import beta

from sims.estimates import Estimate
from sims.studies import Part
from stopping.plots import COLOURS, MARKERS
from stopping.policies import FirstFinish, FixedSamples, Margin, UnanimousWindow, VoteTable
from stopping.problems import Sampling
from stopping.traces import TraceLog
from stopping.tuning.betting import p_values, problems_used
from stopping.tuning.certification import losses_on
from stopping.tuning.planning import drawn_losses

NUM_RUNS = 1000
NUM_PROBLEMS = 400
LIMIT, CONFIDENCE = 0.02, 0.95
SURE = 0.99  # confidence of lower limits of shares
DISCORDANCES = (
    0.0,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
)  # share of changed outcomes, of rules that lose nothing on average
SIZES = (150, 200, 300, 400, 600, 800, 1200)
LOSSES = {"losses of 1": LIMIT, "both signs, 6 % changed": 0.06, "both signs, 30 % changed": 0.3}  # share changed


def run(log: TraceLog) -> dict[str, Part]:
    """Run the study on a log with labels.

    Raises:
        ValueError: as `sims.compare`.
    """
    rows, figure = certification(log)
    return {"certification": Part(str(certification.__doc__), rows, figure)}


def certification(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """How often rules at or above the limit are certified, and how often rules that lose nothing are."""
    wrongly = {
        f"{name}, losing {LIMIT:g}": _passes(drawn_losses(share, LIMIT, (NUM_RUNS, NUM_PROBLEMS), seed), LIMIT)
        for seed, (name, share) in enumerate(LOSSES.items())
    }
    rules, problem = _rules(log), Sampling(log.num_samples)
    losses = losses_on(problem, rules, log, problem.reference_rule(log))
    truth = losses.mean(axis=1)
    chosen = np.random.default_rng(0).integers(0, log.num_problems, (NUM_RUNS, NUM_PROBLEMS))
    for rule, values, loss in zip(rules, losses, truth, strict=True):
        if 0 < loss < 1:
            wrongly[f"{rule}, with its loss as the limit"] = _passes(values[chosen], loss)
    passes = np.logical_and.accumulate([_passes(values[chosen], LIMIT) for values in losses])
    wrongly[f"any of the {len(rules)} rules in order"] = passes[truth >= LIMIT].any(axis=0)

    rows: dict[str, Estimate] = {}
    for name, broken in wrongly.items():
        rows[f"certified wrongly: {name}"] = Estimate.of(broken)
        rows[f"the same, {SURE:.0%} lower limit: {name}"] = Estimate(lower_limit(broken), 0.0, broken.size)
    for rule, loss, passed in zip(rules, truth, passes, strict=True):
        rows[f"certified in order: {rule}, which loses {loss:.4f}"] = Estimate.of(passed)
    given: dict[float, list[Estimate]] = {}
    for share in DISCORDANCES:
        used = problems_used(drawn_losses(share, 0.0, (NUM_RUNS, max(SIZES)), seed=1), LIMIT, CONFIDENCE)
        given[share] = [Estimate.of(used <= size) for size in SIZES]
        rows[f"certified: no loss on average, {share:.2%} changed"] = given[share][SIZES.index(NUM_PROBLEMS)]
    return rows, _picture(wrongly, given)


def lower_limit(happened: np.ndarray) -> float:
    """Return the one-sided lower limit of a share at confidence `SURE`, exact (Clopper and Pearson, 1934)."""
    count = int(happened.sum())
    return float(beta.ppf(1 - SURE, count, happened.size - count + 1)) if count else 0.0


def _passes(losses: np.ndarray, limit: float) -> np.ndarray:
    return p_values(losses, limit) <= 1 - CONFIDENCE


def _rules(log: TraceLog) -> list[Any]:
    """Return rules from the most careful to the boldest, an order fixed without looking at any log."""
    num_samples = log.num_samples
    rules = [Margin(3), VoteTable.adaptive_consistency(0.8, num_samples), UnanimousWindow(3), Margin(2)]
    return [*rules, FixedSamples(max(num_samples // 2, 1)), FirstFinish(1), FixedSamples(1)]


def _picture(wrongly: dict[str, np.ndarray], given: dict[float, list[Estimate]]) -> Figure:
    figure = Figure(figsize=(7.2, 3.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, broken in enumerate(reversed(wrongly.values())):
        estimate = Estimate.of(broken)
        left.errorbar(
            100 * estimate.mean, place, xerr=100 * estimate.standard_error, color=COLOURS[0], marker=MARKERS[0]
        )
    left.axvline(100 * (1 - CONFIDENCE), color="0.5", linewidth=0.8, linestyle="--")
    left.set_yticks(range(len(wrongly)), [name.replace(", with", ",\nwith") for name in reversed(wrongly)])
    left.set(xlabel="certified wrongly, % of runs")
    left.set_xlim(left=0)
    for index, (share, estimates) in enumerate(given.items()):
        heights, errors = ([100 * getattr(one, part) for one in estimates] for part in ("mean", "standard_error"))
        right.errorbar(
            SIZES, heights, errors, color=COLOURS[index], marker=MARKERS[index], linewidth=1, markersize=4,
            label=f"{100 * share:.3g} %",
        )  # fmt: skip
    right.set(xlabel="problems", ylabel="certified, % of runs")
    right.legend(frameon=False, fontsize=7, title="outcomes changed", title_fontsize=7)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    return figure
