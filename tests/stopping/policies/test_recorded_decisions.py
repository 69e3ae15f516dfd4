"""Decisions taken on NumPy rows, held against JAX: none differs, and one that was changed is found, but at a tie."""

import numpy as np
import pytest

from stopping.policies import AnswerAgreement, CloseTokenThreshold, Kind, ThinkingObservation, TokenBudget, examples
from stopping.policies.decisions import THINKING as DECISION
from stopping.policies.recorded_decisions import compare_decisions
from stopping.policies.rows import PolicyRows
from tests.helpers import name_of

THINKING = [policy for policy in examples.EXAMPLES if {*policy.signals} <= {*ThinkingObservation._fields}]


def taken(policy, rows):
    """What a policy says to rows of log-probabilities of closing, one every 32 tokens."""
    asked = PolicyRows(policy, len(rows))
    blank = {name: np.zeros(1, DECISION.dtype_of(name)) for name in ThinkingObservation._fields}
    for index, row in enumerate(rows):
        for step, value in enumerate(row, 1):
            shown = {"elapsed_tokens": np.array([32 * step], np.int32), "log_close_prob": np.array([value], np.float32)}
            asked.ask(ThinkingObservation(**blank | shown), [index])
    return asked.decisions


def test_a_decision_that_differs_is_found_but_at_a_tie():
    policy = CloseTokenThreshold(-1.0, -12.0, 96)
    rows = taken(policy, [[-5.0, -1.0, -0.5], [], [-13.0], [-3.0, -3.0, -12.5]])
    assert compare_decisions(policy, rows) == (7, 1, 0)
    rows[0][1] = rows[0][1]._replace(kind=Kind.CONTINUE)  # at the threshold
    assert compare_decisions(policy, rows) == (7, 1, 0)
    rows[3][2] = rows[3][2]._replace(kind=Kind.CONTINUE)
    rows[2][0] = rows[2][0]._replace(amount=3)
    assert compare_decisions(policy, rows) == (7, 1, 2)


def test_a_state_is_carried_along_each_row():
    """Agreement depends on what was seen before; a row's end is no decision."""
    policy = AnswerAgreement(2, 32)
    asked = PolicyRows(policy, 2)
    for row, labels in enumerate([[0, 1, 1], [0]]):
        for step, label in enumerate(labels, 1):
            seen = [np.array([32 * step]), *np.zeros((4, 1)), np.array([True]), np.array([label]), *np.zeros((2, 1))]
            columns = zip(ThinkingObservation._fields, seen, strict=True)
            asked.ask(ThinkingObservation(*(values.astype(DECISION.dtype_of(name)) for name, values in columns)), [row])
    assert [one.kind for one in asked.decisions[0]] == [Kind.CONTINUE, Kind.CONTINUE, Kind.STOP]
    assert compare_decisions(policy, asked.decisions) == (4, 0, 0)


@pytest.mark.parametrize("policy", THINKING, ids=name_of)
def test_no_policy_decides_differently_in_jax(policy):
    random = np.random.default_rng(0)
    asked = PolicyRows(policy, 16)
    for step in range(1, 9):
        shown = [np.full(16, 64 * step), *-5 * random.random((2, 16)), random.random(16), random.integers(3, size=16)]
        shown += [random.random(16) < 0.5, random.integers(-1, 2, size=16), *-random.random((2, 16))]
        columns = zip(ThinkingObservation._fields, shown, strict=True)
        asked.ask(
            ThinkingObservation(*(np.asarray(values, DECISION.dtype_of(name)) for name, values in columns)), range(16)
        )
    found = compare_decisions(policy, asked.decisions)
    assert found.num_decisions == 128 and found.num_ties < 13 and found.num_different == 0


def test_none_is_none():
    assert compare_decisions(TokenBudget(64), [[], []]) == (0, 0, 0)
