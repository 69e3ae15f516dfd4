"""What rules save and lose against the rule in use: measured on a part of a log, and predicted for new runs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

import sims
from sims import Estimate
from sims.engine import evaluate
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.problems.problem import costs_of, worth_of
from stopping.tuning.betting import is_taken_for_normal, mean_interval
from stopping.tuning.played import Played


@dataclass(frozen=True)
class Measured:
    """Figures of a rule on one part of a log.

    Attributes:
        accuracy, total_tokens: means over the problems.
        accuracy_change, saving_tokens: differences to the reference rule, paired by problem; a saving is positive.
        accuracy_interval: 95 % interval of the accuracy change; its width is not 0 even if no problem's answer changed.
        saving_share: the saving as a share of the reference's tokens.
        saving_cost: the saving at the prices of tokens and seconds, in units of a right answer; in tokens if nothing has a price.
        latency_median_tokens, latency_95th_tokens: over all runs.
        clairvoyant_share: the saving as a share of an upper bound: the saving of a clairvoyant rule, which knows all answers
            beforehand and is right wherever the rule is. At most 1.
        reachable_share: the saving as a share of that of the best rules fitted to the signals on other parts, which may lose
            as much as the limit. Their saving is a lower estimate of what a rule with these signals can save: the share may
            exceed 1 for a rule that loses more, or by chance. None if no rule could be fitted or none has a significant saving.
    """

    accuracy: Estimate
    total_tokens: Estimate
    accuracy_change: Estimate
    accuracy_interval: tuple[float, float]
    saving_tokens: Estimate
    saving_share: Estimate
    saving_cost: Estimate
    latency_median_tokens: float
    latency_95th_tokens: float
    clairvoyant_share: float
    reachable_share: float | None


def measure(played: Played, reachable_tokens: float | None = None) -> list[Measured]:
    """Return the figures of each rule that has been played, the reference first.

    Accuracy is the problem's `worth`, tokens are the first of its costs and latency the last.

    Args:
        played: rules on a part of the log that was not used for their choice.
        reachable_tokens: the saving of the best fitted rule there, if known.
    """
    worth, (cost, *_, latency) = worth_of(played.problem), (*costs_of(played.problem), *costs_of(played.problem))
    worths, tokens, late = played.mean(worth), played.mean(cost), played.values[latency]
    most = int(played.values[cost].max())
    least = _clairvoyant_tokens(played.problem, played.worlds, played.values[worth], most)
    found = []
    for index in range(len(played.policies)):
        saved, change = tokens[0] - tokens[index], worths[index] - worths[0]
        possible = float(tokens[0].mean() - least[index])
        median, slow = np.quantile(late[index], (0.5, 0.95))
        found.append(
            Measured(
                accuracy=Estimate.of(worths[index]),
                total_tokens=Estimate.of(tokens[index]),
                accuracy_change=Estimate.of(change),
                accuracy_interval=mean_interval(change),
                saving_tokens=Estimate.of(saved),
                saving_share=Estimate.ratio(saved, tokens[0]),
                saving_cost=Estimate.of(played.saving[index]),
                latency_median_tokens=float(median),
                latency_95th_tokens=float(slow),
                clairvoyant_share=min(float(saved.mean()) / possible, 1.0)
                if possible > 0
                else 0.0,  # at most 1, up to rounding
                reachable_share=float(saved.mean()) / reachable_tokens if reachable_tokens else None,
            )
        )
    return found


class Prediction(NamedTuple):
    """A prediction for new runs: a mean, and an interval for the error of the log and the noise of the runs."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether the value is in the interval."""
        return self.low <= value <= self.high


def predict(
    problem: Replayable,
    reference: Policy,
    policy: Policy,
    worlds: Any,
    num_runs: int,
    confidence: float = 0.95,
    *,
    coupled: bool = True,
) -> dict[str, Prediction]:
    """Predict the accuracy change and the share of tokens saved over new problems, run once each.

    Args:
        problem: in which rules are played.
        reference: the rule in use now.
        policy: the rule.
        worlds: with leading axes `[problems, orders]`, of problems on which the rule was not chosen: those of the test part.
        num_runs: number of new problems, with one run each of the rule and of the reference.
        confidence: of the intervals. That of the accuracy change is normal if the answers of enough problems change, and
            otherwise that of a bounded mean (`betting.mean_interval`).
        coupled: whether both runs of a problem have the same noise; False for an engine that samples each run independently.

    Raises:
        ValueError: for runs that are not coupled, if the worlds have one order alone.
    """
    played = sims.play_rules(problem, [reference, policy], worlds, ("correct", "total_tokens"))
    return predicted(played["correct"], played["total_tokens"], num_runs, confidence, coupled=coupled)


def predicted(
    correct: np.ndarray, total_tokens: np.ndarray, num_runs: int, confidence: float = 0.95, *, coupled: bool = True
) -> dict[str, Prediction]:
    """Return the predictions of `predict` from outcomes of the reference and the rule, `[2, problems, orders]` each."""
    correct, tokens = correct.astype(np.float64), total_tokens.astype(np.float64)
    if not coupled:  # another trace of the same problem has the same mean and independent noise
        if correct.shape[2] < 2:
            raise ValueError("worlds: expected two orders at least where runs are not coupled, got one")
        correct[0], tokens[0] = np.roll(correct[0], 1, axis=1), np.roll(tokens[0], 1, axis=1)
    share = 1 - tokens[1].mean() / tokens[0].mean()
    runs = {  # values of single runs whose mean is the figure, to first order
        "accuracy_change": correct[1] - correct[0],
        "saving_share": share + (tokens[0] - tokens[1] - share * tokens[0]) / tokens[0].mean(),
    }
    found = {}
    for name, values in runs.items():
        means, noise = values.mean(axis=1), values.std() / np.sqrt(num_runs)
        if name == "accuracy_change" and not is_taken_for_normal(means):
            found[name] = _rarely_changed(means, float(values.var()), num_runs, confidence)
            continue
        estimate = Estimate.of(means)
        error = float(np.hypot(estimate.standard_error, noise))
        low, high = Estimate(estimate.mean, error, estimate.num_independent).interval(confidence)
        found[name] = Prediction(estimate.mean, low, high)
    return found


def _rarely_changed(changes: np.ndarray, variance: float, num_runs: int, confidence: float) -> Prediction:
    """Return the prediction of an accuracy change that is 0 on nearly all problems, `[problems]`.

    The variance of single runs is at most the share of runs whose answer changes. The ends of the interval bound that share
    too, also if no answer changed; the larger of the two is used.
    """
    mean, (low, high) = float(changes.mean()), mean_interval(changes, confidence)
    noise = float(norm.ppf((1 + confidence) / 2)) * np.sqrt(max(variance, -low, high) / num_runs)
    return Prediction(mean, mean - float(np.hypot(mean - low, noise)), mean + float(np.hypot(high - mean, noise)))


def observed(
    correct: np.ndarray, total_tokens: np.ndarray, own_correct: np.ndarray, own_tokens: np.ndarray
) -> dict[str, Estimate]:
    """Return the observed figures of runs, `[runs]` each, against the same runs without the rule; names as in `predict`."""
    saved = own_tokens.astype(np.float64) - total_tokens
    return {
        "accuracy_change": Estimate.of(correct.astype(np.float64) - own_correct),
        "saving_share": Estimate.ratio(saved, own_tokens),
    }


def misses_by_chance(
    correct: np.ndarray, total_tokens: np.ndarray, num_runs: int, num_engines: int, num_nulls: int, seed: int = 0
) -> np.ndarray:
    """Return how many 95 % predictions miss what is observed if the predictions are right, by simulation: int `[nulls]`.

    All predictions are from one set of problems, all runs are on another, and all rules are compared with the same runs of the
    reference, so misses are dependent and their number is not binomial. Here both sets are drawn from the given problems with
    replacement, and every run is a random one of its problem, a different one for each rule.

    Args:
        correct: of the reference and the rules, bool `[1 + rules, problems, orders]`.
        total_tokens: of the same runs, of the same shape.
        num_runs: number of problems that each engine runs, once under the reference and once under each rule, not coupled.
        num_engines: number of engines.
        num_nulls: number of simulations.
        seed: of the draws.

    Raises:
        ValueError: for fewer orders than rules.
    """
    num_rules, num_problems, num_orders = correct.shape
    if num_orders < num_rules:
        raise ValueError(f"correct: expected {num_rules} orders at least, one for each rule, got {num_orders}")
    random, rows = np.random.default_rng(seed), np.arange(num_rules)[:, None]
    misses = np.zeros(num_nulls, int)
    for null in range(num_nulls):
        test, ran = random.integers(num_problems, size=num_problems), random.integers(num_problems, size=num_runs)
        shuffled = np.argsort(random.random((num_engines, num_orders, num_runs)), axis=1)
        orders = shuffled[:, :num_rules]  # one for each rule, with independent noise
        rights, costs = correct[rows, ran, orders], total_tokens[rows, ran, orders]
        for rule in range(1, num_rules):
            pair = [0, rule]
            told = predicted(correct[pair][:, test], total_tokens[pair][:, test], num_runs, coupled=False)
            for right, cost in zip(rights, costs, strict=True):
                came = observed(right[rule], cost[rule], right[0], cost[0])
                misses[null] += sum(not told[name].holds(came[name].mean) for name in told)
    return misses


def _clairvoyant_tokens(problem: Replayable, worlds: Any, correct: np.ndarray, most_tokens: int) -> np.ndarray:
    """Return the fewest tokens on average with which a clairvoyant rule is right wherever a rule is, `[rules]`.

    Args:
        problem: what is played.
        worlds: with leading axes `[problems, orders]`.
        correct: of the rules, bool `[rules, problems, orders]`.
        most_tokens: largest number of tokens of a rule in any world. It sets the prices, because utilities have single precision.
    """
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), worlds)
    prices = 0.5 / max(most_tokens, 1), 1e3  # at which a right answer is worth more than all tokens, and less than one
    right, cheapest = (evaluate(problem.priced(price_per_token=price), "hindsight", flat) for price in prices)
    least = np.asarray(cheapest.total_tokens, np.float64)
    least_right = np.where(right.correct, right.total_tokens, least)
    rows = correct.reshape(len(correct), -1)
    return np.array([np.where(row, least_right, least).mean() for row in rows])
