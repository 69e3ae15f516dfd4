"""What does a lag between a stop and its effect cost?

A stop takes effect some tokens after the decision, and these tokens are generated and paid for. A budget, which depends on time
alone, can compensate by deciding earlier, as long as that is possible: it loses only if the lag is ignored. A rule that looks at
the trace cannot: its observation is out of date when the stop takes effect, and where it had an answer forced, it pays for that
and for the returned answer, which without a lag are the same. Both kinds are shown, derived once for no lag and once for the lag
that they are played with, and compared with thinking to the end.

On a simulated chain of answers (`stopping.models.AnswerChain`) the budget comes from backward induction, and its exact utility
with a lag is known; the rules that look at forced answers are chosen on other worlds than those they are scored on. On the log,
all rules are chosen on one half of the problems and scored on the other. The utility lost per 32 tokens is the slope of a
straight line through all lags. Figures show paired gains over thinking to the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sims
from sims.estimates import Estimate
from sims.studies import Part, crossing
from stopping.models import AnswerChain
from stopping.plots import COLOURS, MARKERS
from stopping.policies import AnswerAgreement, ConfidenceExit, TokenBudget
from stopping.problems import Thinking, ThinkingWorld
from stopping.problems.thinking_worlds import NEVER
from stopping.solvers import induced_point, thinking_families
from stopping.traces import TraceLog, split

CHOOSING_SEED, SCORING_SEED = 0, 1
CHAIN = AnswerChain(
    0.25, 0.12, 0.02, 0.03, right_log_prob=-0.2, wrong_log_prob=-0.8, log_prob_scale=0.3, num_points=32
)  # points lie 32 tokens apart
CHAIN_PRICE = 5e-4  # of a token, in right answers
PROBING = [
    ConfidenceExit(threshold, every) for threshold in (-0.5, -0.35, -0.2, -0.1, 0.0) for every in (32, 64, 128)
] + [AnswerAgreement(number, every) for number in (2, 3, 4) for every in (32, 64, 128)]
LOG_COST = 0.2  # of thinking to the end on the log, in right answers
LAGS = tuple(range(0, 257, 32))  # tokens
NUM_WORLDS = 2**14
END = TokenBudget(int(NEVER))
BUDGET, PROBES = "budget", "rule that looks"
IGNORED, DERIVED = "lag ignored", "for the lag"
UNIT = 100  # hundredths of a right answer

Chosen = Mapping[str, Sequence[Any]]  # a rule for each lag, by name


def run(log: TraceLog, num_worlds: int = NUM_WORLDS) -> dict[str, Part]:
    """Run the study.

    Args:
        log: with labels and checkpoints.
        num_worlds: of the chain, to choose on and as many to score on.

    Raises:
        ValueError: as `Thinking.worlds`, or if the log has no checkpoints.
    """
    if log.checkpoints is None:
        raise ValueError("log: expected checkpoints, got none; add them with stopping.traces.with_checkpoints")
    return {"chain": chain(num_worlds), "log": on_log(log.take(log.probed))}


def chain(num_worlds: int) -> Part:
    """Simulate the chain of answers."""
    problem = Thinking(model=CHAIN, price_per_token=CHAIN_PRICE)
    choosing, scoring = (
        jax.tree.map(lambda leaf: leaf[:, None], sims.draw(jax.random.key(seed), problem, num_worlds))
        for seed in (CHOOSING_SEED, SCORING_SEED)
    )
    points = [derived_point(problem, lag) for lag in LAGS]
    chosen = {
        f"{BUDGET}, {IGNORED}": [_budget(points[0])] * len(LAGS),
        f"{BUDGET}, {DERIVED}": [_budget(point) for point in points],
        **_best(PROBES, problem, PROBING, choosing),
    }
    utility = scored(problem, chosen, scoring)
    rows = _rows(chosen, utility)
    away = [
        abs(values[row].mean() - budget_value(problem, lag, rule.max_tokens // CHAIN.gap_tokens))
        / Estimate.of(values[row]).standard_error
        for name, values in utility.items()
        if name.startswith(BUDGET)
        for row, (lag, rule) in enumerate(zip(LAGS, chosen[name], strict=True))
    ]
    rows[f"budgets: largest of {len(away)} discrepancies from their exact utility, standard errors"] = Estimate(
        float(max(away)), 0.0, num_worlds
    )
    question = f"A drawn chain of answers, a token at {CHAIN_PRICE:g} of a right answer."
    return Part(question, rows, _picture(utility))


def on_log(log: TraceLog) -> Part:
    """Replay on a log."""
    problem = Thinking(price_per_token=LOG_COST / float(log.length_tokens[log.present].mean()))
    choosing, scoring = (problem.worlds(half) for half in split(log, (0.5, 0.5)))
    families = thinking_families(choosing)
    budgets = families["TokenBudget"]
    looking = [rule for name, rules in families.items() if name != "TokenBudget" for rule in rules]
    chosen = {**_best(BUDGET, problem, budgets, choosing), **_best(PROBES, problem, looking, choosing)}
    utility = scored(problem, chosen, scoring)
    question = f"The log's problems with forced answers; thinking to the end costs {LOG_COST:g} of a right answer."
    return Part(question, _rows(chosen, utility), _picture(utility))


def derived_point(problem: Thinking, lag_tokens: int) -> int:
    """Return the decision point, from 1, at which a budget should end: the best one to stop at, less the lag."""
    model = _model(problem)
    return max(induced_point(problem)[0] - _points(lag_tokens, model), 1)


def budget_value(problem: Thinking, lag_tokens: int, point: int) -> float:
    """Return the exact utility of deciding to stop at a decision point, with a lag.

    The trace answers at point e, after the lag, or at an earlier point where it closes by itself, or at the last point:
    the sum over j < e of c (1 - c)^(j-1) S_j, and (1 - c)^(e-1) S_e, with S and c as in `stopping.solvers.chain_induction`.
    """
    model = _model(problem)
    end = min(point + _points(lag_tokens, model), model.num_points)
    reached = np.arange(1, end + 1)
    tokens = reached * model.gap_tokens + model.answer_tokens
    worth = np.asarray(model.right_prob(), float)[:end] - float(problem.price_per_token) * tokens
    close = float(model.close_prob)
    there = (1 - close) ** (reached - 1.0)
    return float(np.sum(close * there[:-1] * worth[:-1]) + there[-1] * worth[-1])


def scored(problem: Thinking, chosen: Chosen, worlds: ThinkingWorld) -> dict[str, np.ndarray]:
    """Return the utility of the rule for each lag, and of thinking to the end, `[lags, units]`."""
    utility: dict[str, list[np.ndarray]] = {name: [] for name in (*chosen, str(END))}
    for row, lag in enumerate(LAGS):
        rules = [rules[row] for rules in chosen.values()] + [END]
        for name, values in zip(utility, _utilities(problem, lag, rules, worlds), strict=True):
            utility[name].append(values)
    return {name: np.stack(values) for name, values in utility.items()}


def _model(problem: Thinking) -> AnswerChain:
    assert problem.model is not None
    return problem.model


def _points(lag_tokens: int, model: AnswerChain) -> int:
    """Return the number of decision points between a stop and its effect."""
    return -(-lag_tokens // model.gap_tokens)


def _budget(point: int) -> TokenBudget:
    return TokenBudget(point * CHAIN.gap_tokens)


def _utilities(problem: Thinking, lag: int, rules: Sequence[Any], worlds: ThinkingWorld) -> np.ndarray:
    """Return the utility of each rule on each unit, `[rules, units]`."""
    lagging = eqx.tree_at(lambda each: each.lag_tokens, problem, jnp.asarray(lag, jnp.int32))
    played: np.ndarray = sims.play_rules(lagging, rules, worlds, ("utility",))["utility"].mean(axis=2, dtype=np.float64)
    return played


def _best(name: str, problem: Thinking, rules: Sequence[Any], worlds: ThinkingWorld) -> Chosen:
    """Return the best rule without a lag, and the best for each lag."""
    best = [rules[int(_utilities(problem, lag, rules, worlds).mean(axis=1).argmax())] for lag in LAGS]
    return {f"{name}, {IGNORED}": [best[0]] * len(LAGS), f"{name}, {DERIVED}": best}


def _rows(chosen: Chosen, utility: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    end = utility[str(END)]
    rows = {"thinking to the end: utility": Estimate.of(end[0])}
    away = np.array(LAGS) - np.mean(LAGS)
    for name, rules in chosen.items():
        values = utility[name]
        first, last = str(rules[0]), str(rules[-1])
        rows[f"{name}, {first} without one: utility"] = Estimate.of(values[0])
        rows[f"{name}, {last} with {LAGS[-1]} tokens: utility"] = Estimate.of(values[-1])
        rows[f"{name}: lost per 32 tokens of lag, hundredths"] = Estimate.of(
            -UNIT * 32 * away @ (values - values[0]) / np.sum(away**2)
        )
        for what, other in (("thinking to the end", end), (f"the {BUDGET} {DERIVED}", utility[f"{BUDGET}, {DERIVED}"])):
            if name.startswith(BUDGET) and other is not end:
                continue
            gains = [Estimate.of(UNIT * each) for each in values - other]
            rows[f"{name}: gain over {what} with {LAGS[-1]} tokens, hundredths"] = gains[-1]
            means, errors = (np.array([getattr(gain, part) for gain in gains]) for part in ("mean", "standard_error"))
            if (found := crossing(LAGS, means, errors)) is not None:
                rows[f"{name}: worth no more than {what} from a lag of, tokens"] = Estimate(*found, values.shape[1])
    return rows


def _picture(utility: Mapping[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(4.8, 3.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    end = utility[str(END)]
    for index, name in enumerate(name for name in utility if name != str(END)):
        found = [Estimate.of(UNIT * row) for row in utility[name] - end]
        heights, errors = ([getattr(one, part) for one in found] for part in ("mean", "standard_error"))
        axes.errorbar(
            np.array(LAGS) + 3 * (index - 1.5), heights, errors, color=COLOURS[index // 2], marker=MARKERS[index // 2],
            markersize=4, linewidth=1, linestyle=("--", "-")[index % 2], capsize=2, label=name,
            markerfacecolor=("white", COLOURS[index // 2])[index % 2],
        )  # fmt: skip
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("lag, tokens", fontsize=8)
    axes.set_ylabel("gain over thinking to the end,\nhundredths of a right answer", fontsize=8)
    axes.set_xticks(LAGS[::2])
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper center")
    return figure
