"""The register of policies, and what their constructors refuse."""

import numpy as np
import pytest

from stopping.policies import (
    FirstFinish,
    FixedSamples,
    Kind,
    Margin,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
    bind,
    parameters,
    policy,
    registered,
)


def test_found_by_name():
    assert registered("VoteTable") is VoteTable
    assert parameters(Margin(3)) == {"votes": 3}


def test_unknown_name_lists_the_known():
    with pytest.raises(KeyError, match=r"no policy is called 'Nope'; known: .*Margin.*VoteTable"):
        registered("Nope")


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"policy Margin: the name is taken by stopping\.policies\.margin\.Margin"):

        @policy(signals=(), kinds=(Kind.STOP,))
        class Margin:
            def init(self, xp, batch_shape): ...
            def step(self, xp, state, observation): ...

    assert registered("Margin").__module__ == "stopping.policies.margin"


def test_the_same_class_may_be_defined_again():
    def define():
        @policy(signals=(), kinds=(Kind.STOP,))
        class Redefined:
            def init(self, xp, batch_shape): ...
            def step(self, xp, state, observation): ...

        return Redefined

    define()
    latest = define()
    assert registered("Redefined") is latest


@pytest.mark.parametrize("missing", ["init", "step"])
def test_a_class_without_a_method_is_refused(missing):
    methods = {name: lambda self: None for name in ("init", "step") if name != missing}
    with pytest.raises(TypeError, match=f"expected a method '{missing}'"):
        policy(signals=(), kinds=(Kind.STOP,))(type("Half", (), methods))


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.0, 1.5, True, "3", None, float("nan")])
@pytest.mark.parametrize("make", [FirstFinish, FixedSamples, Margin, TokenBudget, UnanimousWindow])
def test_counts_are_whole_numbers_of_int32(make, value):
    with pytest.raises(ValueError, match=rf"{make.__name__}\.\w+: expected a whole number >= 1"):
        make(value)


def test_numpy_counts_are_taken():
    assert type(Margin(np.int64(3)).votes) is int


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[3, 4]],
        3,
        [1.5],
        [float("nan")],
        [float("inf")],
        [2**31],
        np.array([2**32 + 5]),
        ["4"],
        [True],
        None,
        [1, [2]],
    ],
    ids=repr,
)
def test_a_vote_table_is_a_list_of_int32(value):
    with pytest.raises(
        ValueError, match=r"VoteTable\.required_by_runner_up: expected a non-empty list of int32 numbers"
    ):
        VoteTable(value)


@pytest.mark.parametrize("value", [[0], [3, 1], [2, 3, 2]])
def test_a_vote_table_asks_for_a_lead(value):
    with pytest.raises(ValueError, match="expected more votes than the runner-up's in every entry"):
        VoteTable(value)


def test_a_vote_table_owns_its_values():
    given = np.array([4, 6])
    table = VoteTable(given)
    given[0] = 1
    assert table == VoteTable([4.0, 6.0])
    assert table.required_by_runner_up.dtype == np.int32


@pytest.mark.parametrize("confidence", [0.49, 1.0, 1.5, float("nan")])
def test_adaptive_consistency_refuses_a_confidence(confidence):
    with pytest.raises(ValueError, match="confidence: expected a number in"):
        VoteTable.adaptive_consistency(confidence)


def test_adaptive_consistency_out_of_reach():
    assert VoteTable.adaptive_consistency(0.99, 3) == VoteTable([4, 4])


def test_cannot_be_caught_needs_a_trace():
    with pytest.raises(ValueError, match="num_traces: expected a whole number >= 1"):
        VoteTable.cannot_be_caught(0)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: expected one of python, numpy, jax, torch, got 'tpu'"):
        bind(Margin(1), "tpu")
