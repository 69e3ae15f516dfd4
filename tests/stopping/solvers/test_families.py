"""The rules that are compared by default."""

from stopping.policies import FirstFinish, FixedSamples, Margin, UnanimousWindow, VoteTable
from stopping.problems import Sampling, Thinking
from stopping.reasoner import load_shipped_log
from stopping.solvers import default_rules, thinking_families
from stopping.traces import from_columns


def rules_of(problem, log):
    return default_rules(problem, problem.worlds(log))


def log_of(answers):
    rows = [(problem, sample) for problem in range(2) for sample in range(len(answers))]
    return from_columns(
        {
            "problem": [problem for problem, _ in rows],
            "sample": [sample for _, sample in rows],
            "length_tokens": [100 * (1 + sample) for _, sample in rows],
            "correct": [True] * len(rows),
            **({"answer": [answers[sample] for _, sample in rows]} if answers[0] else {}),
        }
    )


def test_default_rules_of_sampling_vote_only_where_answers_can_be_compared():
    voted, single, unnamed = log_of("xxyx"), log_of("x"), log_of([None] * 4)
    assert rules_of(Sampling(4), voted) == [
        FixedSamples(1), FixedSamples(2), FixedSamples(4), FirstFinish(1), FirstFinish(3), Margin(2), Margin(3),
        VoteTable.adaptive_consistency(0.8, 4), VoteTable.adaptive_consistency(0.95, 4),
        VoteTable.cannot_be_caught(4), UnanimousWindow(3),
    ]  # fmt: skip
    assert rules_of(Sampling(1), single) == rules_of(Sampling(4), unnamed) == [FixedSamples(1), FirstFinish(1)]
    budgets = rules_of(Sampling(4, decision_interval_tokens=50), voted)[-3:]
    assert [budget.max_tokens for budget in budgets] == [175, 250, 325]


def test_default_rules_of_thinking_are_a_few_of_each_family():
    log = load_shipped_log()
    worlds = Thinking().worlds(log.take(log.probed))
    rules = default_rules(Thinking(), worlds)
    assert {type(rule).__name__ for rule in rules} == set(thinking_families(worlds)) and len(rules) == len(set(rules))
