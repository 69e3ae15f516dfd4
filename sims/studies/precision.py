"""Does precision on demand keep its word?

A simulation that is asked for an error runs until the error it sees is small enough. Who looks often stops when the error is
small by luck, and then the interval holds the truth too rarely: with a rare event, before enough of them were seen.
`sims.simulate` looks after 1, 2, 4, ... blocks of 4,096 worlds, and wants the error to be small for certain. Here each rule for
stopping is run many times on worlds whose mean is known, and it is counted how often the interval at 95 % of the run that it
stopped holds that mean. A run whose size is fixed beforehand stands beside them.
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
STEP = 64  # worlds between two looks of one who peeks
RARE_PROB = 1e-3
MODEL = LengthCorrectness(2.0, 1.0, shift=0.3, scale_right=0.4, scale_wrong=0.9, answers=Answers(0.2, 0.5))


class Law(NamedTuple):
    """What is estimated, and how many worlds it takes to reach the error that is asked for.

    Attributes:
        title: in words.
        values: drawn from with replacement, their mean the truth.
        num_needed: worlds.
    """

    title: str
    values: np.ndarray
    num_needed: int


class Path(NamedTuple):
    """A run as it goes on: after every `STEP` worlds their number, mean, standard error, and largest error; `[steps]`."""

    num_worlds: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    largest_error: np.ndarray


def run(num_runs: int = NUM_RUNS) -> dict[str, Part]:
    """A part for each law: the tokens of First Finish, which are skewed, and a rare event."""
    drawn = sims.simulate(jax.random.key(SEED), Sampling(4, model=MODEL), FirstFinish(1), num_replicas=2**18)
    rare = np.zeros(round(1 / RARE_PROB))
    rare[0] = 1.0
    laws = {
        "skewed": Law("Tokens of First Finish", drawn.values["total_tokens"], 3 * BLOCK),
        "rare": Law("An event of chance .001", rare, 3 * BLOCK),
    }
    return {name: _part(law, num_runs) for name, law in laws.items()}


def _part(law: Law, num_runs: int) -> Part:
    random, steps = np.random.default_rng(SEED), np.arange(1, 16 * BLOCK // STEP + 1) * STEP
    wanted = law.values.std() / np.sqrt(law.num_needed)
    found: dict[str, list[tuple[bool, float]]] = {
        "looks after 1, 2, 4, ... blocks, error small for certain": [],
        "looks after 1, 2, 4, ... blocks, error as it seems": [],
        f"looks after every {STEP} worlds, error as it seems": [],
        "size fixed beforehand": [],
    }
    at_looks = np.isin(steps, BLOCK * 2 ** np.arange(5))
    for _ in range(num_runs):
        path = _path(law, random, len(steps))
        small = path.error <= wanted
        stops = (
            at_looks & (path.largest_error <= wanted),
            at_looks & small & (path.error > 0),
            small & (path.error > 0),
            steps == law.num_needed,
        )
        for outcomes, may_stop in zip(found.values(), stops, strict=True):
            stop = int(np.argmax(may_stop)) if may_stop.any() else len(steps) - 1
            half = norm.ppf((1 + CONFIDENCE) / 2) * path.error[stop]
            outcomes.append((abs(path.mean[stop] - law.values.mean()) <= half, path.num_worlds[stop]))
    held = {name: Estimate.of(np.array([kept for kept, _ in outcomes])) for name, outcomes in found.items()}
    rows = {f"{name}: share of intervals at 95 % that hold the mean": estimate for name, estimate in held.items()}
    rows |= {f"{name}: worlds": Estimate.of(np.array([size for _, size in each])) for name, each in found.items()}
    return Part(f"{law.title}: how often does the interval hold its mean?", rows, _picture(law, held))


def _path(law: Law, random: np.random.Generator, num_steps: int) -> Path:
    """Draw a run."""
    away = random.choice(law.values - law.values.mean(), (num_steps, STEP))
    first, second, fourth = (np.cumsum((away**power).sum(axis=1)) for power in (1, 2, 4))
    count = STEP * np.arange(1.0, num_steps + 1)
    square = second - first**2 / count
    varied = square > 1e-9 * second  # not by rounding alone
    square = np.where(varied, square, 1.0)
    error = np.where(varied, np.sqrt(square / (count - 1) / count), 0.0)
    kurtosis = fourth * count / square**2
    largest = np.where(varied, error * np.sqrt(1 + 2 * np.sqrt(np.maximum(kurtosis - 1, 0) / count)), np.inf)
    return Path(count, law.values.mean() + first / count, error, largest)


def _picture(law: Law, held: dict[str, Estimate]) -> Figure:
    figure = Figure(figsize=(6.4, 2.2), dpi=150, layout="constrained")
    axes, places = figure.subplots(), np.arange(len(held))[::-1]
    axes.errorbar(
        [100 * each.mean for each in held.values()], places, xerr=[200 * each.standard_error for each in held.values()],
        color=COLOURS[0], marker="o", markersize=4, linestyle="none", capsize=2,
    )  # fmt: skip
    axes.axvline(100 * CONFIDENCE, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [name.replace(", error", ",\nerror") for name in held], fontsize=7)
    axes.set_ylim(-0.6, len(held) - 0.4)
    axes.set_xlabel("intervals at 95 % that hold the mean, % (± two standard errors)", fontsize=8)
    axes.set_title(law.title, fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
