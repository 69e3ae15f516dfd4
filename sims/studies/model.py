"""Does the model earn its place?

A rule is chosen in two ways: on worlds drawn from a model fitted to some problems, as `solve` does, and by replaying a grid of
rules on those problems. Both choose among the same rules, and are scored on held-out problems. Regret is the utility of the rule
that is best there in hindsight less that of the chosen rule, in hundredths of a right answer. Tokens are priced so that the vote
of all traces costs a given share of a right answer.

The problems to choose on are drawn from the rest of the log, several times for each number of problems. The error of a mean
regret combines that over held-out problems, paired, and that over draws. Draws have problems in common, which is corrected for as
if regret were a mean over the drawn problems.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from scipy.stats import norm

from sims import draw, play_rules
from sims.estimates import Estimate
from sims.studies import Part, curves_by_size
from stopping.calibration import Fit, fit_all
from stopping.models import LengthCorrectness
from stopping.policies import NO_ANSWER
from stopping.problems import Sampling
from stopping.solvers import sampling_families
from stopping.traces import TraceLog, split

HELD_OUT = 0.4  # of the problems
SIZES = (50, 100, 200, 400, 1200)  # problems to choose on; each divides the next
NUM_DRAWS = 10  # of each size
NUM_WORLDS = 4096  # drawn from a model
COSTS = (0.03, 0.1, 0.3)  # of the vote of all traces, in right answers
ERRORS = 2.0  # by which a rule must beat the best fixed one on drawn worlds, as in `solve`
LEAST_CHANCE = 1e-3  # of a right trace, and of a wrong one, at another cap
UNIT = 100  # regrets are in hundredths of a right answer

Utilities = Float[np.ndarray, "costs rules units"]
Choices = Int[np.ndarray, "sizes draws costs"]  # indices of rules
Regrets = Float[np.ndarray, "sizes draws costs problems"]
QUESTIONS = {
    "as_logged": "The rule is chosen for the conditions of the log: all traces, the same cap.",
    "more_traces": "The rule is chosen on a quarter of each problem's traces, and used with all of them.",
    "longer_cap": "The rule is chosen on traces cut at half the cap, and used with the whole cap.",
}  # of the parts


def run(log: TraceLog) -> dict[str, Part]:
    """Run the study on a log with labels, answers and a cap.

    Raises:
        ValueError: if the log lacks one of these, or has too few problems or samples.
    """
    if not log.has_answers or log.cap_tokens is None or log.num_samples < 4:
        raise ValueError("log: expected answers, a cap, and 4 samples or more of each problem")
    held_out, pool = split(log, (HELD_OUT, 1 - HELD_OUT))
    sizes = [size for size in SIZES if size < pool.num_problems]
    if not sizes:
        raise ValueError(f"log: expected more than {SIZES[0] / (1 - HELD_OUT):.0f} problems, got {log.num_problems}")
    few = max(log.num_samples // 4, 2)
    prices = np.array(COSTS) / (log.num_samples * log.length_tokens[log.present].mean())
    worlds = Sampling(log.num_samples).worlds(held_out)
    every, fewer = (Candidates.of(number, worlds, prices) for number in (log.num_samples, few))
    held, held_by_few = every.utilities(worlds), fewer.utilities(fewer.problem.worlds(held_out))
    best = held.mean(axis=-1).argmax(axis=1)

    random = np.random.default_rng(0)
    drawn = [random.permutation(pool.num_problems)[:size] for size in sizes for _ in range(NUM_DRAWS)]
    seen = {"as_logged": pool, "more_traces": first_samples(pool, few), "longer_cap": cut_at(pool, log.cap_tokens // 2)}
    fits = _fits([part.take(indices) for part in seen.values() for indices in drawn])
    pooled_fits = _fits([pool.take(indices) for indices in drawn], pooled=True)
    models = [at_cap(fit.model, log.cap_tokens) for fit in fits + pooled_fits]
    by_model, few_by_model, cut_by_model, by_pooled = (
        choices.reshape(len(sizes), NUM_DRAWS, len(COSTS)) for choices in np.split(every.best_drawn(models), 4)
    )
    by_grid, few_by_grid, cut_by_grid = (
        choices.reshape(by_model.shape)
        for rules, part in zip((every, fewer, every), seen.values(), strict=True)
        for choices in [rules.best_replayed(part, drawn)]
    )
    same_rule = np.array([every.places.index(place) for place in fewer.places])

    def regret(choices: Choices, utilities: Utilities = held) -> Regrets:
        costs = np.arange(len(COSTS))
        regrets: np.ndarray = UNIT * (held[costs, best] - utilities[costs, choices])
        return regrets

    contenders = {
        "as_logged": {"model": regret(by_model), "grid": regret(by_grid), "pooled model": regret(by_pooled)},
        "more_traces": {
            "model": regret(few_by_model),
            "grid, its rule with all": regret(same_rule[few_by_grid]),
            f"grid, with {few} traces": regret(few_by_grid, held_by_few),
        },
        "longer_cap": {"model": regret(cut_by_model), "grid": regret(cut_by_grid)},
    }
    parts = {}
    for name, regrets in contenders.items():
        rows = {
            f"{name.replace('_', ' ')}, vote of all for {cost:g}, {size} problems: {what}": mean_regret(
                values[i, :, j], size / pool.num_problems
            )
            for j, cost in enumerate(COSTS)
            for i, size in enumerate(sizes)
            for what, values in (regrets | _differences(regrets)).items()
        }
        parts[name] = Part(QUESTIONS[name], rows, _picture(regrets, sizes, pool.num_problems))
    constant = {
        f"vote of all for {cost:g}: best in hindsight {every.rules[rule]}, its utility": Estimate.of(held[j, rule])
        for j, (cost, rule) in enumerate(zip(COSTS, best, strict=True))
    }
    converged = {
        f"fits that converged, {what}": Estimate.of(np.array([fit.converged for fit in some]))
        for what, some in (("model", fits), ("pooled model", pooled_fits))
    }
    parts["as_logged"] = parts["as_logged"]._replace(rows=constant | converged | parts["as_logged"].rows)
    return parts


class Candidates(NamedTuple):
    """The rules to choose from.

    Attributes:
        problem: with the maximum number of traces.
        rules: of all families, one after another.
        places: family and index in it of each rule, which do not change with the number of traces.
        prices: of a token, in right answers; `[costs]`.
    """

    problem: Sampling
    rules: list[Any]
    places: list[tuple[str, int]]
    prices: np.ndarray

    @classmethod
    def of(cls, num_traces: int, worlds: Any, prices: np.ndarray) -> Self:
        """Return all members of `sampling_families`; budgets are quantiles in these worlds."""
        problem = Sampling(num_traces)
        families = sampling_families(problem, worlds)
        rules = [rule for members in families.values() for rule in members]
        places = [(name, index) for name, members in families.items() for index in range(len(members))]
        return cls(problem, rules, places, prices)

    def utilities(self, worlds: Any) -> Utilities:
        """Return the utility of each rule on worlds with leading axes `[units, 1]`."""
        played = play_rules(self.problem, self.rules, worlds, ("correct", "total_tokens"))
        correct, tokens = (played[name][..., 0].astype(np.float64) for name in ("correct", "total_tokens"))
        utilities: np.ndarray = correct - self.prices[:, None, None] * tokens
        return utilities

    def best_replayed(self, log: TraceLog, drawn: Sequence[np.ndarray]) -> np.ndarray:
        """Return the best rules by replay on each draw of a log's problems; `[draws, costs]`."""
        utilities = self.utilities(self.problem.worlds(log))
        return np.array([utilities[:, :, indices].mean(axis=-1).argmax(axis=1) for indices in drawn])

    def best_drawn(self, models: Sequence[LengthCorrectness]) -> np.ndarray:
        """Return the rules that `solve` would return for each model; `[models, costs]`."""
        most = max(model.num_problems for model in models)
        fixed = np.array([name == "FixedSamples" for name, _ in self.places])
        chosen = []
        for index, model in enumerate(models):
            key = jr.fold_in(jr.key(0), index)
            worlds = draw(key, Sampling(self.problem.num_traces, model=_repeated(model, most)), NUM_WORLDS)
            utilities = self.utilities(jax.tree.map(lambda leaf: leaf[:, None], worlds))
            chosen.append([_as_solved(values, fixed) for values in utilities])
        return np.array(chosen)


def _fits(logs: Sequence[TraceLog], *, pooled: bool = False) -> list[Fit]:
    """Yield fits of successive draws, one draw of each kind at a time, so that one program is compiled once."""
    draws = [fit_all(LengthCorrectness(), logs[index::NUM_DRAWS], pooled=pooled) for index in range(NUM_DRAWS)]
    return [fit for of_one_kind in zip(*draws, strict=True) for fit in of_one_kind]


def _as_solved(utilities: Float[np.ndarray, "rules worlds"], fixed: np.ndarray) -> int:
    means = utilities.mean(axis=1)
    best, best_fixed = int(means.argmax()), int(np.where(fixed, means, -np.inf).argmax())
    gain = Estimate.of(utilities[best] - utilities[best_fixed])
    return best if gain.mean > ERRORS * gain.standard_error else best_fixed


def _repeated(model: LengthCorrectness, num_problems: int) -> LengthCorrectness:
    """Return the same model with problems repeated up to this number, so that all models share one compiled program."""
    return eqx.tree_at(_by_problem, model, replace_fn=lambda values: np.resize(values, num_problems))


def _by_problem(model: LengthCorrectness) -> tuple[Any, ...]:
    return model.alpha, model.beta, model.effect, model.effect_scale


def at_cap(model: LengthCorrectness, cap_tokens: int) -> LengthCorrectness:
    """Return the model at another cap.

    The probability of a right answer within the cap is scaled by the share of right traces that end by then, assuming that their
    lengths follow the model beyond the cap. The precision of what is known about a problem is not changed.
    """
    alpha, beta, effect, effect_scale = (np.asarray(values) for values in _by_problem(model))
    scale = np.hypot(model.scale_right, effect_scale)
    before, after = (norm.cdf((np.log(cap) - effect) / scale) for cap in (float(model.cap_tokens), cap_tokens))
    chance = np.clip(alpha / (alpha + beta) * after / before, LEAST_CHANCE, 1 - LEAST_CHANCE)
    own = (chance * (alpha + beta), (1 - chance) * (alpha + beta), cap_tokens)
    return eqx.tree_at(
        lambda m: (m.alpha, m.beta, m.cap_tokens), model, tuple(jnp.asarray(each, float) for each in own)
    )


def first_samples(log: TraceLog, num_samples: int) -> TraceLog:
    """Return the log of the first samples of each problem."""
    fields = {field.name: getattr(log, field.name) for field in dataclasses.fields(log)}
    cut = {
        name: values[:, :num_samples]
        for name, values in fields.items()
        if getattr(values, "shape", ()) == log.present.shape
    }
    return dataclasses.replace(log, **cut, live=None, checkpoints=None, token_signals=None)


def cut_at(log: TraceLog, cap_tokens: int) -> TraceLog:
    """Return the log as it would be at a lower cap: longer traces are cut there, without an answer."""
    goes_on = log.length_tokens > cap_tokens
    answer = np.where(goes_on, NO_ANSWER, log.answer)
    same = (answer[:, :, None] == answer[:, None, :]) & (answer[:, :, None] >= 0)
    return dataclasses.replace(
        log,
        length_tokens=np.minimum(log.length_tokens, np.int32(cap_tokens)),
        correct=log.correct & ~goes_on,
        answered=log.answered & ~goes_on,
        answer=np.where(answer >= 0, same.argmax(axis=2), answer).astype(np.int32),
        censored=log.censored | goes_on,
        cap_tokens=cap_tokens,
        answer_text=None,
        thought_tokens=None,
        live=None,
        checkpoints=None,
        token_signals=None,
    )


def mean_regret(regrets: Float[np.ndarray, "draws problems"], share: float) -> Estimate:
    """Estimate the mean over draws and problems, with the errors of both.

    If draws are a share f of all problems, without replacement, and a mean has variance V, the variance between draws is only
    V (1 - f), and the mean of D draws has variance V ((1 - f) / D + f).
    """
    by_draw = regrets.mean(axis=1)
    of_draws = by_draw.var(ddof=1) * (1 / len(by_draw) + share / (1 - share))
    of_problems = Estimate.of(regrets.mean(axis=0)).standard_error
    return Estimate(float(by_draw.mean()), float(np.hypot(of_draws**0.5, of_problems)), len(by_draw))


def _differences(regrets: Mapping[str, Regrets]) -> dict[str, Regrets]:
    """Return the model's regret less that of each of the others."""
    return {f"model less {name}": regrets["model"] - values for name, values in regrets.items() if name != "model"}


def _picture(regrets: Mapping[str, Regrets], sizes: Sequence[int], num_problems: int) -> Figure:
    panels = {
        f"the vote of all costs {cost:g}": {
            name: [mean_regret(values[i, :, place], size / num_problems) for i, size in enumerate(sizes)]
            for name, values in regrets.items()
        }
        for place, cost in enumerate(COSTS)
    }
    return curves_by_size(panels, sizes, "problems to choose on", "regret, hundredths of a right answer", 7.2)
