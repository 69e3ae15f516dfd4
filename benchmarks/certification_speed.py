"""Certifying 1,000 budgets on a log, against plain Python loops."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together
from benchmarks.threshold_replay import any_rule

import jax  # isort: skip
import numpy as np

import sims
import stopping
from stopping.models import LengthCorrectness
from stopping.policies import FixedSamples, TokenBudget
from stopping.problems import Sampling
from stopping.traces import TraceLog
from stopping.tuning.betting import NUM_HALVINGS, SHARES, STAKES, p_values, upper_bounds
from stopping.tuning.certification import losses_on

NUM_RULES, NUM_PROBLEMS, NUM_TRACES = 1000, 1000, 8
SUBSET = 50  # every so many rules in plain Python; scaled
DROP, CONFIDENCE = 0.02, 0.95


def run() -> Report:
    """Time whole certifications, and the parts of one that bet; compare losses, p-values and bounds."""
    model = LengthCorrectness(
        alpha=np.linspace(1, 6, 50), beta=2.0, effect=np.linspace(7, 9, 50), shift=0.3, no_answer_prob=0.1
    )
    problem, source = Sampling(NUM_TRACES), Sampling(NUM_TRACES, model=model)
    log = source.log(sims.draw(jax.random.key(0), source, NUM_PROBLEMS))
    quantiles = np.quantile(log.length_tokens, (np.arange(NUM_RULES) + 0.5) / NUM_RULES)
    rules = [TokenBudget(int(tokens)) for tokens in np.ceil(quantiles)][::-1]  # the last to stop first
    some, reference = rules[::SUBSET], FixedSamples(NUM_TRACES)
    losses = losses_on(problem, rules, log, reference)
    lists = losses[::SUBSET].tolist()
    contenders: dict[str, Any] = {
        "stopping.certify": partial(stopping.certify, problem, rules, log, max_loss=DROP, reference=reference),
        "plain Python, certificates": partial(_plain, some, log),
        "stopping, p-values alone": partial(p_values, losses, DROP),
        "plain Python, p-values alone": lambda: [p_value(row, DROP) for row in lists],
        "stopping, bounds alone": partial(upper_bounds, losses, CONFIDENCE),
        "plain Python, bounds alone": lambda: [upper_bound(row) for row in lists],
    }
    timings = time_together(contenders, repeats=5)
    plays = {name: NUM_PROBLEMS * (len(some) if "Python" in name else NUM_RULES) for name in contenders}
    rows = rows_of(timings, {name: 1e9 / number for name, number in plays.items()}, ("stopping.certify",))
    found, plain = contenders["stopping.certify"](), _plain(some, log)
    certificates = found.certificates[::SUBSET]
    checks = {
        "mean losses, largest difference": max(
            abs(one.mean_loss.mean - np.mean(loss)) for one, (loss, _, _) in zip(certificates, plain, strict=True)
        ),
        "p-values alone, largest difference": float(
            np.abs(p_values(losses[::SUBSET], DROP) - [p_value(row, DROP) for row in lists]).max()
        ),
        "bounds alone, largest difference": float(
            np.abs(upper_bounds(losses[::SUBSET], CONFIDENCE) - [upper_bound(row) for row in lists]).max()
        ),
    }
    return Report(
        title="Certification of 1,000 thresholds",
        goal="whole certificates at least 100 times plain Python",
        unit="nanoseconds a rule and problem",
        rows=rows,
        reached=[
            ("100 times plain Python, whole certificates", f"{rows[1].times:.0f}", rows[1].times >= 100),
        ],
        checks=checks,
        notes=[
            f"{NUM_RULES} rules `TokenBudget` on a drawn log of {NUM_PROBLEMS} problems x {NUM_TRACES} traces, against "
            f"`FixedSamples({NUM_TRACES})`. A certificate: the rule played on every problem, its paired losses, their "
            f"p-value and, by {NUM_HALVINGS} halvings, their bound.",
            f"Plain Python certifies every {SUBSET}th rule; its time is scaled to all rules. It plays as in "
            "`threshold_replay`, asking the rule at every decision point, bets in products, and looks at the problems in the "
            "order of the log: p-values are compared on the same order, apart.",
        ],
    )


def _plain(rules: Sequence[TokenBudget], log: TraceLog) -> list[tuple[list[int], float, float]]:
    worlds = list(zip(log.length_tokens.tolist(), log.correct.tolist(), log.answer.tolist(), strict=True))
    never = TokenBudget(2**31 - 1)
    base = [any_rule(never, *world)[1] for world in worlds]
    found = []
    for rule in rules:
        loss = [right - any_rule(rule, *world)[1] for right, world in zip(base, worlds, strict=True)]
        found.append((loss, p_value(loss, DROP), upper_bound(loss)))
    return found


def p_value(losses: Sequence[float], limit: float) -> float:
    """1 over the most that the capital has been worth."""
    parts, stakes, most = SHARES.tolist(), [stake / (1 - limit) for stake in STAKES.tolist()], 1.0
    for loss in losses:
        gain = limit - loss
        parts = [part * (1 + stake * gain) for part, stake in zip(parts, stakes, strict=True)]
        capital = sum(parts)
        if capital > most:
            most = capital
    return 1 / most


def upper_bound(losses: Sequence[float]) -> float:
    """The least limit that is ruled out."""
    low, high = 0.0, 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if p_value(losses, middle) <= 1 - CONFIDENCE:
            high = middle
        else:
            low = middle
    return high
