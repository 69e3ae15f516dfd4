"""The register of policies, and what their constructors refuse."""

from itertools import product

import numpy as np
import pytest

from stopping.policies import (
    NO_ANSWER,
    Action,
    FirstFinish,
    FixedSamples,
    Kind,
    Margin,
    SamplingObservation,
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


@pytest.mark.parametrize("max_samples", [0, -1, 2.5, True, 2**31])
def test_adaptive_consistency_needs_a_sample(max_samples):
    with pytest.raises(ValueError, match="max_samples: expected a whole number >= 1"):
        VoteTable.adaptive_consistency(0.95, max_samples)


def test_adaptive_consistency_out_of_reach():
    assert VoteTable.adaptive_consistency(0.99, 3) == VoteTable([4, 4])


@pytest.mark.parametrize("num_traces", [0, -1, 2.5])
def test_cannot_be_caught_needs_a_trace(num_traces):
    with pytest.raises(ValueError, match="num_traces: expected a whole number >= 1"):
        VoteTable.cannot_be_caught(num_traces)


@pytest.mark.parametrize("size", [3, 2**31 - 1, 2**31])
def test_a_bound_count_is_int32_where_it_fits(size):
    @policy(signals=("num_answers",), kinds=(Kind.CONTINUE, Kind.STOP))
    class AtLeast:
        num: int

        def init(self, xp, batch_shape):
            return ()

        def step(self, xp, state, observation):
            self.seen.append(self.num)
            return state, Action(observation.num_answers >= self.num, 0)

    AtLeast.seen = []
    _, action = bind(AtLeast(size), "numpy").step((), SamplingObservation(*np.full((8, 2), 3, np.int32)))
    assert action.kind.tolist() == [size <= 3] * 2
    (seen,) = AtLeast.seen
    assert (seen.dtype, seen.shape) == (np.int32, ()) if size < 2**31 else seen == size


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: expected one of python, numpy, jax, torch, got 'tpu'"):
        bind(Margin(1), "tpu")


@pytest.mark.parametrize("window_size", [1, 2, 3])
def test_a_window_stops_when_it_is_full_and_unanimous(window_size):
    """Every stream of seven decision points, with and without an answer, against the definition."""
    streams = np.array(list(product((NO_ANSWER, 0, 1, 2), repeat=7)), np.int32)
    bound, nothing = bind(UnanimousWindow(window_size), "numpy"), np.zeros(len(streams), np.int32)
    state, stopped = bound.init(nothing.shape), np.zeros(nothing.shape, bool)
    for step, answer in enumerate(streams.T, start=1):
        state, action = bound.step(state, SamplingObservation(*[nothing] * 3, answer, *[nothing] * 4))
        stopped |= action.kind == Kind.STOP
        assert stopped.tolist() == [_has_unanimous_window(row, window_size) for row in streams[:, :step].tolist()]


def _has_unanimous_window(answers, size):
    given = [answer for answer in answers if answer != NO_ANSWER]
    windows = [given[start : start + size] for start in range(0, len(given), size)]
    return any(len(window) == size and len(set(window)) == 1 for window in windows)
