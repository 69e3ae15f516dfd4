"""Whatever was written, read or refused."""

from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest

from stopping.traces import LogError, from_columns


def lengths(values: Any) -> list[int]:
    return from_columns({"problem": ["a"] * len(values), "length_tokens": values}).length_tokens[0].tolist()


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        [1.0, 2.0],
        ["1", " 2 "],
        ["1.0", "+2"],
        ["1e0", "2."],
        [1, "2"],
        np.array([1, 2], np.int8),
        np.array([1, 2], np.uint64),
        np.array([1, 2], np.float32),
        np.array(["1", "2"]),
        np.array([1, "2"], dtype=object),
        pandas.Series([1, 2], dtype="Int64"),
        pandas.Categorical([1, 2]),
        pa.chunked_array([[1], [2]]),
        pa.array([1, 2]).dictionary_encode(),
        pa.array(["1", "2"]).dictionary_encode(),
        pa.array(["1", "2"], pa.large_string()),
        pa.array(["1", "2"], pa.string_view()),
        pa.array([1, 2]).cast(pa.decimal128(19, 0)),
    ],
)
def test_whole_numbers_in_any_type(values: Any) -> None:
    assert lengths(values) == [1, 2]


def test_the_longest_length_is_that_of_int32() -> None:
    assert lengths([2**31 - 1]) == [2**31 - 1]
    with pytest.raises(LogError, match=r"row 1, column 'length_tokens': .*tokens <= 2147483647, got 2147483648"):
        lengths([2**31])


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (pa.array([1, 2**64 - 1], pa.uint64()), 2),
        (pa.array([1, float("inf")], pa.float16()), 2),
        (pa.array([1, 1e300]), 2),
        (pa.array([1, -1e300]), 2),
        (pa.array([True, False]), 1),
        (pa.array([1, 2], pa.date32()), 1),
        (pa.array([[1], [2]]), 1),
        (pa.array([None, 3]), 1),
        (pa.array([None, None]), 1),
        (pa.array([3, float("nan")]), 2),
        (np.array([3, np.nan]), 2),
        (["3", " "], 2),
    ],
)
def test_types_and_values_that_are_no_length(values: Any, row: int) -> None:
    with pytest.raises(LogError, match=f"row {row}, column 'length_tokens': expected a whole number"):
        lengths(values)


@pytest.mark.parametrize(
    "values",
    [
        [True, False, None],
        [1, 0, None],
        [1.0, 0.0, None],
        ["true", "false", ""],
        ["True", "False", None],
        ["1", "0", None],
        [True, 0, None],
        np.array([1.0, 0.0, np.nan]),
        pandas.array([True, False, None], dtype="boolean"),
    ],
)
def test_booleans_in_any_type(values: Any) -> None:
    log = from_columns({"problem": ["a"] * 3, "length_tokens": [1] * 3, "correct": values})
    assert log.correct.tolist() == [[True, False, False]]
    assert log.correct_known.tolist() == [[True, True, False]]


def test_numbers_name_problems_and_answers() -> None:
    log = from_columns({"problem": [1, 1, 2], "length_tokens": [1, 2, 3], "answer": [5, 6, 5]})
    assert log.problem_ids == ("1", "2") and log.answer.tolist() == [[0, 1], [0, -1]]
    assert log.answer_text is not None and log.answer_text[0].tolist() == ["5", "6"]


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(LogError) as caught:
        lengths(["x" * 10_000])
    assert len(str(caught.value)) < 250 and caught.value.row == 1 and caught.value.source == "columns"
