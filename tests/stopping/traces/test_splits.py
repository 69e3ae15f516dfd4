"""Parts by problem."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stopping.traces import LogError, TraceLog, from_columns, split
from tests.stopping.traces.examples import STEADY


def many(count: int) -> TraceLog:
    names = [f"p{index}" for index in range(count)]
    return from_columns(
        {"problem": names * 2, "length_tokens": range(1, 2 * count + 1), "q": [f"q{i // 2}" for i in range(count)] * 2},
        groups=("q",),
    )


@STEADY
@given(
    count=st.integers(1, 40), weights=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(-5, 2**70)
)
def test_a_split_is_a_partition_and_deterministic(count: int, weights: list[int], seed: int) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    exact = [count * fraction for fraction in fractions]
    assume(min(exact) >= 1)
    log = many(count)
    parts = split(log, fractions, seed)
    assert sorted(name for part in parts for name in part.problem_ids) == sorted(log.problem_ids)
    assert all(abs(part.num_problems - share) < 1 for part, share in zip(parts, exact, strict=True))
    assert all(part.num_samples == 2 for part in parts)
    for one, two in zip(parts, split(log, fractions, seed), strict=True):
        assert one.equals(two)
    reverse = log.take(np.arange(count)[::-1])
    for one, two in zip(parts, split(reverse, fractions, seed), strict=True):
        assert set(one.problem_ids) == set(two.problem_ids)


def test_the_order_is_pinned() -> None:
    one, two = split(many(6), (0.5, 0.5), seed=1)
    assert one.problem_ids == ("p2", "p3", "p4") and two.problem_ids == ("p0", "p1", "p5")


def test_seeds_differ() -> None:
    assert len({split(many(20), (0.5, 0.5), seed)[0].problem_ids for seed in range(20)}) == 20


def test_the_largest_remainder_decides_sizes() -> None:
    assert [part.num_problems for part in split(many(10), (0.33, 0.33, 0.34))] == [3, 3, 4]
    assert [part.num_problems for part in split(many(10), (1 / 3, 1 / 3, 1 / 3))] == [4, 3, 3]
    assert [part.num_problems for part in split(many(10), (0.3, 0.5, 0.2))] == [3, 5, 2]


def test_problems_with_one_key_stay_together() -> None:
    log = many(20)
    parts = split(log, (0.5, 0.5), seed=3, together=list(log.groups["q"]))
    one, two = (set(part.groups["q"]) for part in parts)
    assert not one & two and len(one) == len(two) == 5


@pytest.mark.parametrize(
    ("fractions", "options", "message"),
    [
        ((0.5, 0.6), {}, "add up to 1"),
        ((1.5, -0.5), {}, "positive"),
        ((), {}, "positive"),
        ((float("nan"), 1.0), {}, "positive"),
        ((0.9, 0.1), {}, "leave a part empty: sizes"),
        ((0.5, 0.5), {"seed": 1.5}, "seed: expected a whole number"),
        ((0.5, 0.5), {"seed": True}, "seed: expected a whole number"),
        ((0.5, 0.5), {"together": ["x"]}, "one key for each of 4 problems"),
    ],
)
def test_what_cannot_be_split(fractions: tuple[float, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        split(many(4), fractions, **options)
