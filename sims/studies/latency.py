"""In parallel, in sequence or in waves, by the price of latency?

Up to 16 traces of a problem may be started: all at once, one after another, or in waves of a few. In sequence, only traces that
the rule needs are started, but each waits for the previous one. In parallel, the first answer comes soonest, but cancelled traces
have been paid for. Waves are in between. Seconds and tokens have prices. At each price of a second, each schedule uses its best
rule out of the same set, chosen on other worlds than those it is scored on. Differences are paired, and their intervals hold
simultaneously at all prices and for all pairs of schedules. The price at which one schedule overtakes another is interpolated
linearly in the logarithm of the price.

Parallel sampling affects more than latency. Where wrong traces are longer, early answers are better, and a vote that stops early
in parallel is right more often than the same vote in sequence, where the order of traces is uninformative. So there are two kinds
of worlds: one in which lengths are uninformative, and one in which wrong traces are longer.

In parallel, a rule that stops by votes starts all 16 traces; only `FixedSamples` starts fewer. The decoding speed of a trace does
not depend on how many run at once, which is not true of a busy server.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import sims
from sims.bands import Band
from sims.estimates import Estimate
from sims.studies import Part, crossing, exact
from stopping.models import Answers, LengthCorrectness
from stopping.plots import COLOURS, MARKERS
from stopping.policies import FixedSamples, Margin
from stopping.problems import Sampling

CHOOSING_SEED, SCORING_SEED = 0, 1
WORLDS = {
    "lengths_tell_nothing": (0.0, 0.45, 0.45),
    "wrong_traces_are_longer": (0.3, 0.4, 0.5),
}  # shift of wrong traces, dispersions of right and of wrong ones; of log-length
SHARED = {"alpha": 1.5, "beta": 1.0, "effect": 8.5, "effect_scale": 0.4}  # parameters of both models
ANSWERS = Answers(0.1, 1.0)  # which wrong ones agree
NUM_TRACES = 16
SECONDS_PER_TOKEN = 0.02
PRICE_PER_TOKEN = 1e-6  # the vote of all costs .09 of a right answer
SCHEDULES = {"in parallel": NUM_TRACES, "in waves of 4": 4, "in sequence": 1}  # how many run at once
RULES = [FixedSamples(number) for number in (1, 2, 3, 4, 6, 8, 12, 16)] + [Margin(votes) for votes in (1, 2, 3, 4)]
PRICES = tuple(float(price) for price in np.geomspace(0.01, 10, 13))  # of an hour, in right answers
NUM_CHOOSING, NUM_SCORING = 2**15, 2**17
HOUR = 3600  # seconds
CONFIDENCE = 0.95
EVERY = 3  # rows show every third price
UNIT = 100  # differences are in hundredths of a right answer


def run(
    prices: Sequence[float] = PRICES, num_choosing: int = NUM_CHOOSING, num_scoring: int = NUM_SCORING
) -> dict[str, Part]:
    """Run the study.

    Args:
        prices: of an hour, in right answers, ascending.
        num_choosing: worlds to choose rules on.
        num_scoring: worlds to score them on.
    """
    return {
        name: schedules(
            name,
            LengthCorrectness(**SHARED, shift=shift, scale_right=right, scale_wrong=wrong, answers=ANSWERS),
            prices,
            num_choosing,
            num_scoring,
        )
        for name, (shift, right, wrong) in WORLDS.items()
    }


def schedules(
    name: str, model: LengthCorrectness, prices: Sequence[float], num_choosing: int, num_scoring: int
) -> Part:
    """Return one part: each schedule with its best rule, at each price."""
    rules, utility = {}, {}
    for schedule, wave_size in SCHEDULES.items():
        priced = [problem(model, wave_size, price) for price in prices]
        grid = sims.sweep(jax.random.key(CHOOSING_SEED), priced, RULES, num_replicas=num_choosing)
        rules[schedule] = [grid.best(row) for row in range(len(prices))]
        utility[schedule] = scored(problem(model, wave_size, 0.0), rules[schedule], prices, num_scoring)
    bands = differences(utility)
    rows: dict[str, Estimate] = {}
    for (one, other), band in bands.items():
        if (found := crossing(np.log(prices), band.mean, band.standard_error)) is not None:
            price = float(np.exp(found[0]))
            rows[f"{one} against {other}: worth more up to a price of"] = Estimate(price, price * found[1], num_scoring)
    for row in range(0, len(prices), EVERY):
        for schedule, values in utility.items():
            what = f"an hour costs {prices[row]:.2g}: {schedule}, {rules[schedule][row]}"
            rows[what] = Estimate.of(values[row])
        for (one, other), band in bands.items():
            what = f"an hour costs {prices[row]:.2g}: {one} less {other}, hundredths"
            rows[what] = Estimate(float(band.mean[row]), float(band.standard_error[row]), num_scoring)
    rows[f"simultaneous intervals of differences at {CONFIDENCE:.0%}: standard errors to each side"] = exact(
        band.critical
    )
    question = f"Utility of each schedule with its best rule, where {name.replace('_', ' ')}."
    return Part(question, rows, _picture(prices, utility, bands))


def differences(utility: dict[str, np.ndarray]) -> dict[tuple[str, str], Band]:
    """Return each schedule less those named before it, by price, in units of 1 / `UNIT`; intervals hold simultaneously.

    Args:
        utility: by schedule, `[prices, worlds]`.
    """
    names = list(utility)
    pairs = [(later, first) for index, first in enumerate(names) for later in names[index + 1 :]]
    band = Band.of(UNIT * np.concatenate([utility[one] - utility[other] for one, other in pairs]).T, CONFIDENCE)
    means, errors = (each.reshape(len(pairs), -1) for each in (band.mean, band.standard_error))
    return {
        pair: Band.around(mean, error, band.critical, CONFIDENCE)
        for pair, mean, error in zip(pairs, means, errors, strict=True)
    }


def problem(model: LengthCorrectness, wave_size: int, price: float) -> Sampling:
    """Return the problem with this many traces at once, at this price of an hour."""
    return Sampling(
        NUM_TRACES,
        model=model,
        wave_size=wave_size,
        price_per_token=PRICE_PER_TOKEN,
        price_per_second=price / HOUR,
        seconds_per_token=SECONDS_PER_TOKEN,
    )


def scored(unpriced: Sampling, rules: Sequence[Any], prices: Sequence[float], num_replicas: int) -> np.ndarray:
    """Return the utility of the rule for each price on the scoring worlds, `[prices, worlds]`; each rule is played once."""
    played = {
        rule: sims.simulate(jax.random.key(SCORING_SEED), unpriced, rule, num_replicas=num_replicas).values
        for rule in dict.fromkeys(rules)
    }
    seconds = [played[rule]["latency_seconds"] for rule in rules]
    return np.stack([played[rule]["utility"] for rule in rules]) - np.array(prices)[:, None] / HOUR * np.stack(seconds)


def _picture(prices: Sequence[float], utility: dict[str, np.ndarray], bands: dict[tuple[str, str], Band]) -> Figure:
    figure = Figure(figsize=(7.2, 3.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, values) in enumerate(utility.items()):
        style = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4, "linewidth": 1, "label": name}
        left.plot(prices, values.mean(axis=1), **style)
        first = next(iter(utility))
        if name != first:
            band = bands[name, first]
            right.plot(prices, band.mean, **style)
            right.fill_between(prices, band.low, band.high, color=COLOURS[index], alpha=0.25, linewidth=0)
    left.set_ylabel("utility, right answers", fontsize=8)
    right.set_ylabel(f"less {first}, hundredths of a right answer", fontsize=8)
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for axes in (left, right):
        axes.set(xscale="log")
        axes.set_xlabel("price of an hour, right answers", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    left.legend(frameon=False, fontsize=8)
    return figure
