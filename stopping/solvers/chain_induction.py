"""When to stop along a chain of answers that are not observed: the number of decision points to let pass.

S_k = p_k - price (k gap + answer) is the value of stopping at point k. A trace that goes on closes there all the same with
probability `close_prob`, and else reaches the next point, so

    V_K = S_K,   V_k = max(S_k, close_prob S_k + (1 - close_prob) V_{k+1})                              (backward induction)

and the rule is to stop at the first k with S_k >= V_{k+1}. For repair_prob + break_prob <= 1 the gains p_{k+1} - p_k shrink, or
grow towards 0 from below, so it is enough to look one step ahead: the first k with

    (repair_prob + break_prob) (p - p_k) <= price gap,   p = repair_prob / (repair_prob + break_prob)          (one step ahead)

`theory_notes/05_answer_chain.md`. The number is that of a `CandidateStop` where candidates are the chain's answers, and of a
`TokenBudget` in gaps where they are on a grid.
"""

import numpy as np

from stopping.problems import Thinking


def induced_point(problem: Thinking) -> tuple[int, float]:
    """Return the best decision point to stop at, counted from 1, and its value, by backward induction in float64.

    Args:
        problem: with a model; of its prices that of a token counts.

    Raises:
        ValueError: without a model.
    """
    stopped, close = _stopped(problem), float(problem.model.close_prob)  # type: ignore[union-attr]
    value, best = stopped[-1], len(stopped)
    for point in range(len(stopped) - 1, 0, -1):
        if stopped[point - 1] >= value:
            best = point
        value = max(stopped[point - 1], close * stopped[point - 1] + (1 - close) * value)
    return best, float(value)


def one_step_point(problem: Thinking) -> int:
    """Return the first decision point, counted from 1, at which the next gains no more than it costs.

    Raises:
        ValueError: without a model, or for repair_prob + break_prob > 1, where it need not be the best.
    """
    stopped, model = _stopped(problem), problem.model
    if (both := float(model.repair_prob + model.break_prob)) > 1 + 1e-6:  # type: ignore[union-attr]
        raise ValueError(f"model: expected repair_prob + break_prob <= 1, got {both:g}; use induced_point")
    falls = np.flatnonzero(np.diff(stopped) <= 0)
    return int(falls[0]) + 1 if falls.size else len(stopped)


def _stopped(problem: Thinking) -> np.ndarray:
    """Return S_k of every decision point, float64."""
    if (model := problem.model) is None:
        raise ValueError("model: expected a chain of answers, got None")
    first, repair, broken = (float(x) for x in (model.first_right_prob, model.repair_prob, model.break_prob))
    both = repair + broken
    settled = repair / both if both > 0 else first
    point = np.arange(model.num_points)
    right: np.ndarray = settled + (first - settled) * (1 - both) ** point
    return right - float(problem.price_per_token) * ((point + 1) * model.gap_tokens + model.answer_tokens)
