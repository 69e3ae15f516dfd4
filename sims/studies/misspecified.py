"""What does a rule lose if its model has the wrong distribution of lengths?

The model assumes log-normal lengths. Here lengths are gamma, Weibull or inverse Gaussian, with the same mean and coefficient of
variation as the log-normal distribution, for right and for wrong traces; log-normal lengths are included for comparison. The
model is fitted to some problems, `solve` derives a rule from it, and the rule is played on new problems of the true distribution.
Its regret is the utility of the best rule less its own. The best rule is chosen on many problems of the true distribution, out of
the same families, including the `PosteriorVote` of every fit, and scored on others. A posterior under the true distribution is
not among these families, so regret is relative to them. For comparison, a rule is chosen without a model, by replaying the
families without `PosteriorVote` on the problems that the model is fitted to.

A wrong distribution also biases the utility that `solve` predicts on worlds drawn from the model.

Logs are drawn several times for each number of problems. Probabilities of a right answer, right answers and problem effects are
the same for all distributions, so that differences between distributions are paired. The error of a mean combines that over the
scored problems and that over draws of the log.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq
from scipy.special import gammaln

import sims
from sims.estimates import Estimate
from sims.studies import Part, curves_by_size
from sims.studies.model import mean_regret
from stopping.calibration import Fit, fit
from stopping.models import Answers, LengthCorrectness
from stopping.problems import Sampling, SamplingWorld
from stopping.solvers import FamilySearch, sampling_families, solve

SEED = 0
NUM_TRACES = 8
ALPHA, BETA = 1.5, 1.0  # of the distribution of right answers
EFFECT, EFFECT_SCALE = 8.5, 0.5  # of problems' log-lengths
SHIFT, SCALE_RIGHT, SCALE_WRONG = 0.3, 0.4, 0.6  # of log-normal lengths
ANSWERS = Answers(0.1, 1.0)  # which wrong ones agree
PRICE_PER_TOKEN, PRICE_PER_SECOND = 2e-6, 1 / 3600  # in right answers: the vote of all costs .11 and .06
SIZES = (50, 200, 800)  # problems to fit to
NUM_DRAWS = 4  # of each size
NUM_WORLDS = 4096  # drawn from a model, to choose on
NUM_PROBLEMS = 2**13  # of the true distribution, to choose the best rule on; twice as many score
UNIT = 100  # regrets are in hundredths of a right answer


def log_normal(random: np.random.Generator, variation: np.ndarray) -> np.ndarray:
    """Draw log-normal lengths of mean 1 with these coefficients of variation."""
    scale = np.sqrt(np.log1p(variation**2))
    return np.exp(scale * random.standard_normal(variation.shape) - scale**2 / 2)


def gamma(random: np.random.Generator, variation: np.ndarray) -> np.ndarray:
    """Draw gamma lengths; as `log_normal`."""
    return random.gamma(variation**-2.0, variation**2.0)


def weibull(random: np.random.Generator, variation: np.ndarray) -> np.ndarray:
    """Draw Weibull lengths; as `log_normal`. The shape k solves 1 + variation^2 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2."""
    shape = np.empty_like(variation)
    for value in np.unique(variation):
        shape[variation == value] = brentq(
            lambda k, square=value**2: gammaln(1 + 2 / k) - 2 * gammaln(1 + 1 / k) - np.log1p(square), 0.2, 50.0
        )
    return random.weibull(shape) / np.exp(gammaln(1 + 1 / shape))


def inverse_gaussian(random: np.random.Generator, variation: np.ndarray) -> np.ndarray:
    """Draw inverse Gaussian lengths; as `log_normal`."""
    return random.wald(1.0, variation**-2.0)


Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]
DISTRIBUTIONS: Mapping[str, Draw] = {
    "log-normal": log_normal, "gamma": gamma, "Weibull": weibull, "inverse Gaussian": inverse_gaussian,
}  # fmt: skip
QUESTIONS = {
    "regret": "Utility of the best rule less that of the chosen rule, in hundredths of a right answer, by problems in the log.",
    "prediction": "Utility that `solve` predicts less that observed, in hundredths of a right answer, by problems in the log.",
}  # of the parts
CHOSEN = ("from the model", "by replay")  # how rules are
Found = dict[str, list[np.ndarray]]  # by distribution: for each size `[draws, problems]`


def run(
    sizes: Sequence[int] = SIZES,
    num_draws: int = NUM_DRAWS,
    num_problems: int = NUM_PROBLEMS,
    distributions: Sequence[str] = tuple(DISTRIBUTIONS),
) -> dict[str, Part]:
    """Run the study.

    Args:
        sizes: problems to fit to.
        num_draws: of logs of each size.
        num_problems: of the true distribution, to choose the best rule on; twice as many score.
        distributions: some of `DISTRIBUTIONS`.
    """
    regrets: dict[str, Found] = {how: {} for how in CHOSEN}
    predictions: Found = {}
    rows: dict[str, dict[str, Estimate]] = {name: {} for name in QUESTIONS}
    for name in distributions:
        played = _played(DISTRIBUTIONS[name], sizes, num_draws, num_problems)
        rows["regret"][f"{name}: utility of the best rule, {played.best}"] = Estimate.of(played.best_utility)
        for how, utility in zip(CHOSEN, (played.derived, played.replayed), strict=True):
            regrets[how][name] = [UNIT * (played.best_utility - each) for each in utility]
        predictions[name] = [
            UNIT * (told[:, None] - each) for told, each in zip(played.predicted, played.derived, strict=True)
        ]
    for name in distributions:
        for index, size in enumerate(sizes):
            for how, found in regrets.items():
                rows["regret"][f"{name}, {size} problems: rule {how}"] = _mean(found[name][index])
            rows["prediction"][f"{name}, {size} problems"] = _mean(predictions[name][index])
            if name != distributions[0]:
                for what, found in (("regret", regrets[CHOSEN[0]]), ("prediction", predictions)):
                    against = f"{name}, {size} problems: rule {CHOSEN[0]}, less with {distributions[0]} lengths"
                    rows[what][against] = _mean(found[name][index] - found[distributions[0]][index])
    pictures = {
        "regret": _picture({f"rule {how}": found for how, found in regrets.items()}, sizes, "regret"),
        "prediction": _picture({"": predictions}, sizes, "predicted less observed"),
    }
    return {name: Part(question, rows[name], pictures[name]) for name, question in QUESTIONS.items()}


def problem(model: LengthCorrectness | None) -> Sampling:
    """Return the problem, with or without a model."""
    return Sampling(NUM_TRACES, model=model, price_per_token=PRICE_PER_TOKEN, price_per_second=PRICE_PER_SECOND)


def true_worlds(lengths: Draw, num_problems: int, seed: int) -> SamplingWorld:
    """Draw worlds with leading axes `[problems, 1]`; everything but the lengths is as in `LengthCorrectness`."""
    random = np.random.default_rng(seed)
    shape = (num_problems, NUM_TRACES)
    right = random.random(shape) < random.beta(ALPHA, BETA, (num_problems, 1))
    scale = np.where(right, SCALE_RIGHT, SCALE_WRONG)
    mean = np.exp(EFFECT + EFFECT_SCALE * random.standard_normal((num_problems, 1)) + SHIFT * ~right + scale**2 / 2)
    length = np.maximum(np.round(mean * lengths(random, np.sqrt(np.expm1(scale**2)))), 1).astype(np.int32)
    answer = jax.vmap(ANSWERS.draw)(
        jr.split(jr.key(seed), num_problems), jnp.asarray(right), jnp.ones_like(right, dtype=bool)
    )
    number = np.arange(num_problems, dtype=np.int32)
    world = SamplingWorld(*(jnp.asarray(each) for each in (length, right, answer, np.ones_like(right), number)))
    return jax.tree.map(lambda leaf: leaf[:, None], world)


def fitted(worlds: SamplingWorld) -> Fit:
    """Return the model fitted to the log of these worlds."""
    return fit(LengthCorrectness(), problem(None).log(jax.tree.map(lambda leaf: leaf[:, 0], worlds)))


class _Played(NamedTuple):
    """Utilities under one true distribution, in right answers.

    Attributes:
        best: the best rule.
        best_utility: its utility on the scoring problems, `[problems]`.
        derived, replayed: utilities of the rules from the model and by replay, `[draws, problems]` for each size of log.
        predicted: utility that `solve` predicts for rules from the model, `[draws]` for each size.
    """

    best: Any
    best_utility: np.ndarray
    derived: list[np.ndarray]
    replayed: list[np.ndarray]
    predicted: list[np.ndarray]


def _played(lengths: Draw, sizes: Sequence[int], num_draws: int, num_problems: int) -> _Played:
    choosing, scoring = true_worlds(lengths, num_problems, SEED), true_worlds(lengths, 2 * num_problems, SEED + 1)
    candidates: list[tuple[float, Any]] = []
    derived, replayed, predicted = [], [], []
    for size in sizes:
        by_model, by_replay, told = [], [], []
        for draw in range(num_draws):
            logged = true_worlds(lengths, size, SEED + 2 + draw)
            own = problem(fitted(logged).population)
            found = solve(own, FamilySearch(NUM_WORLDS), key=jr.key(SEED + draw))
            told.append(found.value.mean)
            by_model.append(_utility(own, found.policy, scoring))
            families = sampling_families(own, logged)
            candidates.append(_best(own, families.pop("PosteriorVote"), choosing))
            plain = [rule for rules in families.values() for rule in rules]
            by_replay.append(_utility(own, _best(own, plain, logged)[1], scoring))
            if draw == 0:
                candidates.append(_best(own, plain, choosing))
        derived.append(np.stack(by_model))
        replayed.append(np.stack(by_replay))
        predicted.append(np.array(told))
    best = max(candidates, key=lambda pair: pair[0])[1]
    return _Played(best, _utility(own, best, scoring), derived, replayed, predicted)


def _best(own: Sampling, rules: Sequence[Any], worlds: SamplingWorld) -> tuple[float, Any]:
    """Return the utility of the best rule in these worlds, and the rule; the problem's model is not used."""
    means = sims.play_rules(own, rules, worlds, ("utility",))["utility"].mean(axis=(1, 2), dtype=np.float64)
    return float(means.max()), rules[int(means.argmax())]


def _utility(own: Sampling, rule: Any, worlds: SamplingWorld) -> np.ndarray:
    """Return the utility of the rule in each of these worlds, `[problems]`."""
    return sims.replay_worlds(own, rule, worlds).values["utility"]


def _mean(values: np.ndarray) -> Estimate:
    return mean_regret(values, 0.0)  # logs have no problem in common


def _picture(panels: Mapping[str, Found], sizes: Sequence[int], label: str) -> Figure:
    curves = {
        title: {name: [_mean(each) for each in values] for name, values in found.items()}
        for title, found in panels.items()
    }
    return curves_by_size(
        curves, sizes, "problems in the log", f"{label}, hundredths of a right answer", 3.6 * len(panels) + 1.2
    )
