"""When to stop a chain of thought, from a log alone: the value of going on, fitted to observed payoffs.

At a decision point of a trace, let S be the payoff of a stop there, and G the payoff of going on under the current rule: a right
answer minus the prices of tokens, probes and reading again, all as `Thinking.play` counts them. A quadratic in the signals is
fitted by ridge regression to the observed differences S - G of every trace that still thinks there; the next rule stops where it
is at least 0. This is repeated until the rule no longer changes, or for a few rounds, of which the best on these worlds is kept.

The fit is linear, so it equals the fit of S minus the fit of G; but what makes a problem hard or a trace long is in both S and G
and cancels, so the difference is fitted with less noise. The observed payoff of going on is used, as Longstaff
and Schwartz do, and not a fitted value of the next point, as Tsitsiklis and Van Roy do: the fit is then used to decide only, so
its errors do not add up from point to point (`theory_notes/06_fitted_value.md`).

References: Longstaff and Schwartz, Valuing American Options by Simulation (Review of Financial Studies, 2001); Tsitsiklis and Van
Roy, Regression Methods for Pricing Complex American-Style Options (2001).
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from stopping.policies import NO_ANSWER, ExitValue, Kind, ProbedExitValue, bind
from stopping.policies.decisions import PROBED_SIGNALS, THINKING
from stopping.policies.exit_value import FREE_SIGNALS, PROBE_FEATURES, REACH
from stopping.policies.namespace import namespace
from stopping.problems import Thinking, ThinkingWorld
from stopping.problems.thinking_worlds import NEVER

RIDGE = 0.01  # against products of standard scores, whose mean squares are about 1
MOST_ROUNDS = 8
SHARES = (0.02, 0.035, 0.06, 0.1, 0.18, 0.3, 0.55, 1.0)  # of a right answer, which thinking to the end then costs


def fitted_value(problem: Thinking, worlds: ThinkingWorld, interval_tokens: int = 0) -> ExitValue | ProbedExitValue:
    """Fit the rule that stops where an answer is worth more than going on, at the problem's prices.

    Args:
        problem: its prices, its lag; its model is not used.
        worlds: with any leading axes, each world a trace.
        interval_tokens: least distance of probes; 0 never probes, and sees the free signals alone. Where no trace is long
            enough for a probe, the rule never stops.

    Raises:
        ValueError: naming the signals, if the worlds lack some.
    """
    wanted = (*FREE_SIGNALS[1:], *PROBE_FEATURES[:1]) if interval_tokens else FREE_SIGNALS[1:]
    if missing := [name for name in wanted if name not in worlds.signals]:
        raise ValueError(f"worlds: expected the signals that the rule reads, got no {', '.join(missing)}")
    lead = np.ndim(worlds.length_tokens)
    flat: Any = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *np.shape(leaf)[lead:]), worlds)
    decides, features = _decisions(flat, interval_tokens)
    if not decides.any():
        return _never(_token_cost(problem), interval_tokens)
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-6 * np.abs(centre), scale, 1)  # a constant feature is uninformative
    products, upper = _products((features - centre) / scale)
    shrinks = RIDGE * np.diag(np.r_[0.0, np.ones(products.shape[1] - 1)])
    project = np.linalg.solve(products.T @ products / len(products) + shrinks, products.T / len(products))

    payoffs = _payoffs(problem, flat, decides if interval_tokens else np.zeros_like(decides))
    stops = np.zeros_like(decides)
    gain, best = _backward(payoffs, decides, stops)
    kept = np.r_[-1.0, np.zeros(len(project) - 1)]  # never stops
    for _ in range(MOST_ROUNDS):
        weights = project @ gain[decides]
        before, stops = stops, np.zeros_like(decides)
        stops[decides] = products @ weights >= 0
        gain, value = _backward(payoffs, decides, stops)
        if value > best:
            best, kept = value, weights
        if (stops == before).all():
            break
    quadratic = np.zeros((features.shape[1] + 1,) * 2)
    quadratic[upper] = kept
    return replace(_never(_token_cost(problem), interval_tokens), centre=centre, scale=scale, quadratic=quadratic)


def exit_values(
    problem: Thinking, worlds: ThinkingWorld, intervals_tokens: Sequence[int]
) -> dict[str, Sequence[ExitValue | ProbedExitValue]]:
    """Return the families of fitted rules that the worlds have the signals for, from thinking to the end to stopping at once.

    The problem's prices are raised or lowered together until thinking to the end costs a given share of a right answer; where it
    has none, a token's is.

    Args:
        problem: as of `fitted_value`.
        worlds: as of `fitted_value`.
        intervals_tokens: least distances of probes.
    """
    priced = problem if _token_cost(problem) > 0 else problem.priced(1.0)
    whole = _token_cost(priced) * float(np.mean(worlds.length_tokens))
    members = [_scaled(priced, share / whole) for share in SHARES]
    families: dict[str, Sequence[ExitValue | ProbedExitValue]] = {}
    if set(FREE_SIGNALS[1:]) <= set(worlds.signals):
        families["ExitValue"] = [fitted_value(each, worlds) for each in members]
        if PROBE_FEATURES[0] in worlds.signals:
            families["ProbedExitValue"] = [
                fitted_value(each, worlds, interval) for interval in intervals_tokens for each in members
            ]
    return families


class _Payoffs(NamedTuple):
    """Payoffs and costs, in right answers; float64 `[traces, points]`, but for `own`.

    Attributes:
        stopped: of a stop that gives an answer, or that comes too late: from this decision point on, its probe's tokens included.
        empty: a stop gives no answer; bool.
        empty_cost: what such a stop costs beyond the probe.
        probe_cost: of the tokens of a probe taken here that is not the answer given.
        read_cost: of reading again for a probe taken here.
        own: of thinking to the end; float64 `[traces]`.
    """

    stopped: np.ndarray
    empty: np.ndarray
    empty_cost: np.ndarray
    probe_cost: np.ndarray
    read_cost: np.ndarray
    own: np.ndarray


def _payoffs(problem: Thinking, worlds: Any, probed: np.ndarray) -> _Payoffs:
    """Return the payoffs of `Thinking.play` for all traces and decision points at once; `probed` where a probe is taken."""
    token, read = _token_cost(problem), _read_cost(problem)
    position, cost = worlds.position_tokens.astype(np.float64), worlds.probe_cost_tokens.astype(np.float64)
    wanted, index = worlds.position_tokens + int(problem.lag_tokens), np.arange(position.shape[1])
    effect = np.stack([(worlds.position_tokens < wanted[:, [point]]).sum(axis=1) for point in index], axis=1)
    effect = np.minimum(effect, len(index))
    there = np.append(worlds.position_tokens < NEVER, np.zeros((len(position), 1), bool), axis=1)
    in_time = np.take_along_axis(there, effect, axis=1)
    effect = np.minimum(effect, len(index) - 1)
    position_then, cost_then, right_then, answer_then = (
        np.take_along_axis(values, effect, axis=1)
        for values in (position, cost, worlds.probe_right & worlds.probe_known, worlds.probe_answer)
    )
    is_answer = probed & (effect == index) & in_time
    forced = np.where(is_answer, 0.0, read * position_then)
    own = worlds.right - token * worlds.length_tokens
    probe_cost = np.where(probed, token * cost, 0.0)
    answered = right_then - token * (position_then + cost_then) - forced
    return _Payoffs(
        stopped=np.where(in_time, answered, own[:, None]) - np.where(is_answer, 0.0, probe_cost),
        empty=in_time & (answer_then == NO_ANSWER),
        empty_cost=np.where(is_answer, 0.0, token * cost_then) + forced,
        probe_cost=probe_cost,
        read_cost=np.where(probed, read * position, 0.0),
        own=own,
    )


def _backward(payoffs: _Payoffs, decides: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the gain of stopping over going on under a rule that stops where `stops`, `[traces, points]`, and its value."""
    gain, value = np.zeros(decides.shape), payoffs.own
    for point in range(decides.shape[1] - 1, -1, -1):
        going_on = value - payoffs.probe_cost[:, point]
        in_vain = going_on - payoffs.empty_cost[:, point]
        stopped = np.where(payoffs.empty[:, point], in_vain, payoffs.stopped[:, point])
        gain[:, point] = stopped - going_on
        now = np.where(stops[:, point], stopped, going_on) - payoffs.read_cost[:, point]
        value = np.where(decides[:, point], now, value)
    return gain, float(value.mean())


def _decisions(worlds: Any, interval_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the rule decides, `[traces, points]`, and what it sees there, float64 `[decisions, features]`.

    Both are read off a rule of the class that never stops, played by NumPy: probes are where they would be live.
    """
    rule = _never(0.0, interval_tokens)
    bound, xp = bind(rule, "numpy"), namespace("numpy")
    thinks = worlds.position_tokens < NEVER
    decides, features = thinks.copy(), np.zeros((*thinks.shape, rule.centre.size))
    state = bound.init(thinks.shape[:1])
    for point in range(thinks.shape[1]):
        probed = np.zeros(len(thinks), bool)
        if interval_tokens:
            state, action = bound.step(state, _seen(worlds, point, probed))
            probed = decides[:, point] = thinks[:, point] & (action.kind == Kind.PROBE)
        observation = _seen(worlds, point, probed)
        features[:, point] = np.stack(rule.features(xp, state, observation), axis=-1)
        state, _ = bound.step(state, observation)
    return decides, features[decides]


def _never(price_per_token: float, interval_tokens: int) -> ExitValue | ProbedExitValue:
    """Return the rule that never stops."""
    price, size = float(f"{price_per_token:.4g}"), len(FREE_SIGNALS) + (len(PROBE_FEATURES) if interval_tokens else 0)
    quadratic = np.zeros((size + 1, size + 1))
    quadratic[0, 0] = -1
    if interval_tokens == 0:
        return ExitValue(price, np.zeros(size), np.ones(size), quadratic)
    return ProbedExitValue(price, interval_tokens, np.zeros(size), np.ones(size), quadratic)


def _seen(worlds: Any, point: int, probed: np.ndarray) -> Any:
    signals: dict[str, Any] = {
        name: np.where(probed | (name not in PROBED_SIGNALS), values[:, point], 0).astype(THINKING.dtype_of(name))
        for name, values in worlds.signals.items()
    }
    answer = np.where(probed, worlds.probe_answer[:, point], NO_ANSWER)
    return SimpleNamespace(
        elapsed_tokens=worlds.position_tokens[:, point], probed=probed, probed_answer=answer, **signals
    )


def _products(scores: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the products of two of 1 and the standard scores, `[decisions, products]`, and their places in the quadratic."""
    bounded = np.column_stack([np.ones(len(scores)), np.clip(scores, -REACH, REACH)])
    upper = np.triu_indices(bounded.shape[1])
    return bounded[:, upper[0]] * bounded[:, upper[1]], upper


def _token_cost(problem: Thinking) -> float:
    return float(problem.price_per_token + problem.price_per_second * problem.seconds_per_token)


def _read_cost(problem: Thinking) -> float:
    return float(problem.price_per_prefill_token + problem.price_per_second * problem.seconds_per_prefill_token)


def _scaled(problem: Thinking, factor: float) -> Thinking:
    """Return the same problem with all prices times a factor."""
    return Thinking(
        price_per_token=factor * float(problem.price_per_token),
        price_per_prefill_token=factor * float(problem.price_per_prefill_token),
        price_per_second=factor * float(problem.price_per_second),
        seconds_per_token=float(problem.seconds_per_token),
        seconds_per_prefill_token=float(problem.seconds_per_prefill_token),
        lag_tokens=int(problem.lag_tokens),
    )
