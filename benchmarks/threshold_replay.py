"""Replaying 1,000 budgets on a log, against plain Python loops and NumPy."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import numpy as np

import sims
from sims.engine import FAMILY_BLOCK, blocks_of, play_family
from stopping.models import LengthCorrectness
from stopping.policies import Kind, SamplingObservation, TokenBudget, bind
from stopping.problems import Sampling, SamplingWorld, stack

NUM_RULES, NUM_PROBLEMS, NUM_TRACES = 1000, 1000, 8
SUBSET = 10  # every so many rules in plain Python; scaled
PRICE, SECOND, SPEED = 1e-5, 1e-4, 0.02
FACTS = ("correct", "total_tokens", "latency_tokens", "num_launched", "answer", "unsupported")


def run() -> Report:
    """Time all ways, and compare every fact of every rule on every problem."""
    model = LengthCorrectness(
        alpha=np.linspace(1, 6, 50), beta=2.0, effect=np.linspace(7, 9, 50), shift=0.3, no_answer_prob=0.1
    )
    problem = Sampling(NUM_TRACES, model=model, price_per_token=PRICE, price_per_second=SECOND, seconds_per_token=SPEED)
    log = problem.log(sims.draw(jax.random.key(0), problem, NUM_PROBLEMS))
    worlds = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], problem.worlds(log))
    quantiles = np.quantile(worlds.length_tokens, (np.arange(NUM_RULES) + 0.5) / NUM_RULES)
    rules = [TokenBudget(int(tokens)) for tokens in np.ceil(quantiles)]
    some = rules[::SUBSET]
    contenders: dict[str, Callable[[], Any]] = {
        "stopping, any rule": partial(_ours, problem, rules, worlds),
        "plain Python, any rule": partial(_plain, any_rule, some, worlds),
        "plain Python, written for budgets": partial(_plain, budget_rule, some, worlds),
        "NumPy, written for budgets": partial(_numpy, rules, worlds),
    }
    timings = time_together(contenders, repeats=5)
    plays = {name: NUM_PROBLEMS * len(some if "Python" in name else rules) for name in contenders}
    rows = rows_of(timings, {name: 1e9 / number for name, number in plays.items()}, ("stopping, any rule",))
    found = {name: run() for name, run in contenders.items()}
    ours = jax.tree.map(lambda *values: np.concatenate(values, axis=1), *found["stopping, any rule"])
    checks = {}
    for name, facts in list(found.items())[1:]:
        step = SUBSET if "Python" in name else 1
        pairs = [(getattr(ours, fact)[::step], facts[fact]) for fact in facts if fact in FACTS]
        checks[f"{name}, facts that differ"] = float(sum((a != b).sum() for a, b in pairs))
        checks[f"{name}, utility, largest difference"] = float(np.abs(ours.utility[::step] - facts["utility"]).max())
    return Report(
        title="Replay of 1,000 thresholds",
        goal="at least 100 times plain Python",
        unit="nanoseconds a rule and problem",
        rows=rows,
        reached=[
            ("100 times plain Python, any rule", f"{rows[1].times:.0f}", rows[1].times >= 100),
            ("100 times plain Python, written for budgets", f"{rows[2].times:.0f}", rows[2].times >= 100),
        ],
        checks=checks,
        notes=[
            f"{NUM_RULES} rules `TokenBudget`, each with its own budget, on a drawn log of {NUM_PROBLEMS} problems x "
            f"{NUM_TRACES} traces, all traces at once, prices on tokens and seconds; outcomes copied to NumPy.",
            f"Plain Python plays every {SUBSET}th rule on all problems; its time is scaled to all rules. "
            "'Any rule' asks the policy, bound to plain Python, at every decision point, as `Sampling.play` does; "
            "the other looks for the budget alone.",
            "NumPy tabulates the events of each problem once, then looks every budget up: what `Sampling.play` "
            "does for any rule that launches nothing.",
            f"Families are played in blocks of {FAMILY_BLOCK} worlds; the last one is filled up.",
        ],
    )


def _ours(problem: Sampling, rules: Sequence[TokenBudget], worlds: SamplingWorld) -> list[Any]:
    stacked, axes = stack(rules)
    return [
        jax.tree.map(lambda values: np.asarray(values)[:, :count], play_family(problem, stacked, axes, block))  # noqa: B023
        for _, count, block in blocks_of(worlds, FAMILY_BLOCK)
    ]


def _plain(play: Callable, rules: Sequence[TokenBudget], worlds: SamplingWorld) -> dict[str, np.ndarray]:
    lists = [np.asarray(values).tolist() for values in (worlds.length_tokens, worlds.right, worlds.answer)]
    rows = [[play(rule, *world) for world in zip(*lists, strict=True)] for rule in rules]
    names = ("utility", "correct", "total_tokens", "latency_tokens", "answer")
    return {name: np.array([[row[i] for row in line] for line in rows]) for i, name in enumerate(names)}


def any_rule(rule: Any, length: list[int], right: list[bool], answer: list[int]) -> tuple:
    """Play one problem event by event, asking the rule at each."""
    bound = bind(rule, "python")
    state, now, came, votes, num_answers = bound.init(), 0, -1, {}, 0
    ends = sorted(range(len(length)), key=length.__getitem__)
    num_launched = num_ended = leader_votes = runner_up_votes = 0
    while True:
        total = sum([end if end < now else now for end in length])
        observation = SamplingObservation(
            num_launched, num_launched - num_ended, num_answers, came, leader_votes, runner_up_votes, now, total
        )
        state, action = bound.step(state, observation)
        if num_ended == len(length) or (action.kind == Kind.STOP and num_answers):
            break
        num_launched = len(length)
        trace = ends[num_ended]
        num_ended, now, came = num_ended + 1, length[trace], answer[trace]
        if came >= 0:
            num_answers += 1
            votes[came] = votes.get(came, 0) + 1
            counts = sorted(votes.values())
            leader_votes, runner_up_votes = counts[-1], counts[-2] if len(counts) > 1 else 0
    return _result(votes, right, total, now)


def budget_rule(rule: TokenBudget, length: list[int], right: list[bool], answer: list[int]) -> tuple:
    """Play one problem knowing that the rule is a budget."""
    budget, votes = rule.max_tokens, {}
    for trace in sorted(range(len(length)), key=length.__getitem__):
        now, came = length[trace], answer[trace]
        if came >= 0:
            votes[came] = votes.get(came, 0) + 1
        if now >= budget and votes:
            break
    return _result(votes, right, sum([end if end < now else now for end in length]), now)


def _result(votes: dict[int, int], right: list[bool], total: int, now: int) -> tuple:
    chosen = max(votes, key=votes.__getitem__) if votes else -1  # of equals, the first seen
    correct = bool(votes) and right[chosen]
    return correct - PRICE * total - SECOND * SPEED * now, correct, total, now, chosen


def _numpy(rules: Sequence[TokenBudget], worlds: SamplingWorld) -> dict[str, np.ndarray]:
    """Tabulate what each event of each problem has led to, then find each budget's event."""
    length, right, answer = (np.asarray(values) for values in (worlds.length_tokens, worlds.right, worlds.answer))
    rows, labels = np.arange(NUM_PROBLEMS), np.arange(NUM_TRACES)
    order = np.argsort(length, axis=1, kind="stable")
    clock = np.take_along_axis(length, order, axis=1)
    total = np.minimum(length[:, None, :], clock[:, :, None]).sum(axis=2)
    count, seen = np.zeros((2, NUM_PROBLEMS, NUM_TRACES), int)
    chosen = np.full((NUM_PROBLEMS, NUM_TRACES), -1)
    for event in range(NUM_TRACES):
        label = answer[rows, order[:, event]]
        came = label >= 0
        new = came & (count[rows, label] == 0)
        seen[rows[new], label[new]] = event
        count[rows[came], label[came]] += 1
        leader = (count * (NUM_TRACES + 1) - np.where(count > 0, seen, 0)).argmax(axis=1)
        chosen[:, event] = np.where(count.any(axis=1), labels[leader], -1)
    correct = (chosen >= 0) & right[rows[:, None], chosen]
    utility = correct - PRICE * total - SECOND * SPEED * clock
    first_answer = (chosen < 0).sum(axis=1)
    budgets = np.array([rule.max_tokens for rule in rules])
    event = (clock[None] < budgets[:, None, None]).sum(axis=2)
    event = np.minimum(np.maximum(event, first_answer), NUM_TRACES - 1)
    table = {"utility": utility, "correct": correct, "total_tokens": total, "latency_tokens": clock, "answer": chosen}
    return {name: values[rows, event] for name, values in table.items()}
