"""What is the coverage of intervals when a simulation stops at a requested error?

A simulation run to a requested error stops when its estimated error is small enough. If the error is checked often, the run tends
to stop when the error is underestimated, and the interval undercovers: with a rare event, before enough of them have occurred.
`sims.simulate` checks after 1, 2, 4, ... blocks of 4,096 worlds, and requires the error to be small with confidence. Here each
stopping rule is run many times on worlds whose mean is known, and the share of its 95 % intervals that contain the mean is
counted. A run of a fixed size is shown for comparison.
"""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

import sims
from sims.estimates import Estimate
from sims.precision import BLOCK
from sims.studies import Part
from stopping.models import Answers, LengthCorrectness
from stopping.plots import COLOURS
from stopping.policies import FirstFinish
from stopping.problems import Sampling

SEED = 0
NUM_RUNS = 4000
CONFIDENCE = 0.95
STEP = 64  # worlds between two checks of a rule that checks often
RARE_PROB = 1e-3
MODEL = LengthCorrectness(2.0, 1.0, shift=0.3, scale_right=0.4, scale_wrong=0.9, answers=Answers(0.2, 0.5))


class Target(NamedTuple):
    """What is estimated.

    Attributes:
        title: in words.
        values: sampled with replacement; their mean is the truth.
        num_needed: worlds that reach the requested error.
    """

    title: str
    values: np.ndarray
    num_needed: int


class Path(NamedTuple):
    """The course of a run, after every `STEP` worlds; `[steps]` each.

    Attributes:
        num_worlds: worlds so far.
        mean: their mean.
        error: its estimated standard error.
        largest_error: an upper bound on the standard error, as `Moments.largest_error`.
    """

    num_worlds: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    largest_error: np.ndarray


def run(num_runs: int = NUM_RUNS) -> dict[str, Part]:
    """Run the study: a part for the tokens of First Finish, which are skewed, and one for a rare event."""
    drawn = sims.simulate(jax.random.key(SEED), Sampling(4, model=MODEL), FirstFinish(1), num_replicas=2**18)
    rare = np.zeros(round(1 / RARE_PROB))
    rare[0] = 1.0
    targets = {
        "skewed": Target("Tokens of First Finish", drawn.values["total_tokens"], 3 * BLOCK),
        "rare": Target("An event of probability .001", rare, 3 * BLOCK),
    }
    return {name: _part(target, num_runs) for name, target in targets.items()}


def _part(target: Target, num_runs: int) -> Part:
    random, steps = np.random.default_rng(SEED), np.arange(1, 16 * BLOCK // STEP + 1) * STEP
    wanted = target.values.std() / np.sqrt(target.num_needed)
    found: dict[str, list[tuple[bool, float]]] = {
        "checked after 1, 2, 4, ... blocks, upper bound on the error": [],
        "checked after 1, 2, 4, ... blocks, estimated error": [],
        f"checked after every {STEP} worlds, estimated error": [],
        "fixed size": [],
    }
    at_looks = np.isin(steps, BLOCK * 2 ** np.arange(5))
    for _ in range(num_runs):
        path = _path(target, random, len(steps))
        small = path.error <= wanted
        stops = (
            at_looks & (path.largest_error <= wanted),
            at_looks & small & (path.error > 0),
            small & (path.error > 0),
            steps == target.num_needed,
        )
        for outcomes, may_stop in zip(found.values(), stops, strict=True):
            stop = int(np.argmax(may_stop)) if may_stop.any() else len(steps) - 1
            half = norm.ppf((1 + CONFIDENCE) / 2) * path.error[stop]
            outcomes.append((abs(path.mean[stop] - target.values.mean()) <= half, path.num_worlds[stop]))
    held = {name: Estimate.of(np.array([kept for kept, _ in outcomes])) for name, outcomes in found.items()}
    rows = {f"{name}: coverage of 95 % intervals": estimate for name, estimate in held.items()}
    rows |= {f"{name}: worlds": Estimate.of(np.array([size for _, size in each])) for name, each in found.items()}
    return Part(f"{target.title}: how often do intervals contain the mean?", rows, _picture(target, held))


def _path(target: Target, random: np.random.Generator, num_steps: int) -> Path:
    """Draw the course of one run."""
    away = random.choice(target.values - target.values.mean(), (num_steps, STEP))
    first, second, fourth = (np.cumsum((away**power).sum(axis=1)) for power in (1, 2, 4))
    count = STEP * np.arange(1.0, num_steps + 1)
    square = second - first**2 / count
    varied = square > 1e-9 * second  # not by rounding alone
    square = np.where(varied, square, 1.0)
    error = np.where(varied, np.sqrt(square / (count - 1) / count), 0.0)
    kurtosis = fourth * count / square**2
    largest = np.where(varied, error * np.sqrt(1 + 2 * np.sqrt(np.maximum(kurtosis - 1, 0) / count)), np.inf)
    return Path(count, target.values.mean() + first / count, error, largest)


def _picture(target: Target, held: dict[str, Estimate]) -> Figure:
    figure = Figure(figsize=(6.4, 2.2), dpi=150, layout="constrained")
    axes, places = figure.subplots(), np.arange(len(held))[::-1]
    axes.errorbar(
        [100 * each.mean for each in held.values()], places, xerr=[200 * each.standard_error for each in held.values()],
        color=COLOURS[0], marker="o", markersize=4, linestyle="none", capsize=2,
    )  # fmt: skip
    axes.axvline(100 * CONFIDENCE, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_yticks(
        places,
        [name.replace(" blocks, ", " blocks,\n").replace(" worlds, ", " worlds,\n") for name in held],
        fontsize=7,
    )
    axes.set_ylim(-0.6, len(held) - 0.4)
    axes.set_xlabel("coverage of 95 % intervals, % (± two standard errors)", fontsize=8)
    axes.set_title(target.title, fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
