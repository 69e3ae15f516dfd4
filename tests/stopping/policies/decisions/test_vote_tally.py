"""The tally of votes, against a plain counter."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stopping.policies.decisions.vote_tally import VoteTally
from stopping.policies.namespace import namespace
from tests.helpers import TORCH, array_of

NUM_LABELS, NUM_ROWS = 4, 3
answers = st.lists(
    st.lists(st.integers(-1, NUM_LABELS - 1), min_size=NUM_ROWS, max_size=NUM_ROWS), min_size=1, max_size=15
)


def counted(labels):
    """Leader (of equals the first seen), its votes, the runner-up's: a `Counter` keeps the order of first sight."""
    ranked = Counter(label for label in labels if label >= 0).most_common()
    (label, votes), (_, runner_up) = [*ranked, (0, 0), (0, 0)][:2]
    return label, votes, runner_up


@pytest.mark.parametrize("backend", ["numpy", "jax", TORCH])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(answers)
def test_counts_as_a_counter_does(backend, steps):
    xp = namespace(backend)
    array = array_of(backend)
    tally = VoteTally(array(np.arange(NUM_LABELS, dtype=np.int32)))
    votes = tally.init(xp, (NUM_ROWS,))
    types = [leaf.dtype for leaf in votes]
    for number, labels in enumerate(steps, start=1):
        label = array(np.array(labels, np.int32))
        votes, leader = tally.step(xp, votes, label, label >= 0)
        for row in range(NUM_ROWS):
            past = [step[row] for step in steps[:number]]
            assert tuple(int(field[row]) for field in leader) == counted(past)
            assert int(votes.num_answers[row]) == sum(label >= 0 for label in past)
        assert [leaf.dtype for leaf in votes] == types
        assert all("int32" in str(leaf.dtype) for leaf in (*votes, *leader))


def test_many_votes_for_few_labels_do_not_disturb_the_order():
    """A label first seen after more answers than there are labels is still seen once, and late."""
    tally, xp = VoteTally(np.arange(2, dtype=np.int32)), namespace("numpy")
    votes = tally.init(xp, ())
    for label in [1] * 6 + [0] * 6:
        votes, leader = tally.step(xp, votes, np.int32(label), np.True_)
    assert (leader.label, leader.votes, leader.runner_up_votes) == (1, 6, 6)
    assert votes.first_seen.tolist() == [1, 0]
