"""Which answers are the same."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, from_columns
from tests.stopping.traces.examples import STEADY, long_tables


def labels(given_answers: list[Any], **options: Any) -> list[int]:
    count = len(given_answers)
    return (
        from_columns({"problem": ["a"] * count, "length_tokens": [1] * count, "answer": given_answers}, **options)
        .answer[0]
        .tolist()
    )


def test_exact_is_the_stripped_text() -> None:
    assert labels(["2", " 2\n", "2.0", "two", None, "NO_ANSWER", " "]) == [0, 0, 2, 3, -1, -1, -1]


@pytest.mark.parametrize(
    "equal",
    [
        ["2", "2.0", " 2 ", "+2", "2.", "$2$", "$ 2 $", "4/2", "4 / 2", "20e-1", "02"],
        ["1/2", "0.5", ".5", "2/4", "5e-1"],
        ["-1000", "-1,000", "-1,000.0", "-1e3"],
        ["0", "-0", "0.0", "0/7"],
        ["12345678901234567890", "12,345,678,901,234,567,890"],
    ],
)
def test_numbers_compared_as_numbers(equal: list[str]) -> None:
    assert labels(equal, answers="numeric") == [0] * len(equal)


def test_numbers_that_differ_stay_apart() -> None:
    apart = [
        "2",
        "2.0000000000000001",
        "50%",
        "50",
        "0.5",
        "1,00",
        "100",
        "1/0",
        "x",
        "X",
        "1e9999",
        "nan",
        "3" * 300,
        "½",
        "٣",
    ]
    assert labels(apart, answers="numeric") == list(range(len(apart)))


def test_a_function_decides() -> None:
    assert labels(["a", "A", "b"], answers=str.lower) == [0, 0, 2]
    assert labels(["a", "?", "A", "?"], answers=lambda text: None if text == "?" else text.lower()) == [0, -1, 0, -1]


def test_a_function_that_fails_is_named_with_the_answer() -> None:
    with pytest.raises(LogError, match=r"failed on the answer 'x': .*invalid literal"):
        labels(["1", "x"], answers=int)
    with pytest.raises(LogError, match=r"failed on the answer '1': .*unhashable"):
        labels(["1"], answers=lambda text: [text])


def test_other_texts_for_no_answer() -> None:
    assert labels(["?", "NO_ANSWER", "?"], no_answer_values=("?",)) == [-1, 1, -1]


@STEADY
@given(table=long_tables(), answers=st.sampled_from(["exact", "numeric"]))
def test_labels_are_canonical(table: dict[str, list[Any]], answers: str) -> None:
    """Each label is the index of its first use in its row; renamed answers keep their labels."""
    log = from_columns(table, answers=answers)
    assert ((log.answer >= 0) <= log.answered).all() and ((log.answer == -1) == ~log.answered).all()
    for row in log.answer.tolist():
        assert all(label < 0 or row.index(label) == label for label in row)

    def renamed(text: str) -> Hashable:
        return f"<{text.strip()}>"

    if answers == "exact":
        assert np.array_equal(from_columns(table, answers=renamed).answer, log.answer)


@STEADY
@given(table=long_tables())
def test_numeric_joins_what_exact_joins(table: dict[str, list[Any]]) -> None:
    exact, numeric = from_columns(table).answer, from_columns(table, answers="numeric").answer
    for fine, coarse in zip(exact.tolist(), numeric.tolist(), strict=True):
        assert all(
            coarse[a] == coarse[b] for a in range(len(fine)) for b in range(len(fine)) if fine[a] == fine[b] >= 0
        )
