"""Rows become problems x samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, from_columns, load_log, save_log
from tests.stopping.traces.examples import STEADY, long_tables, small


def test_rows_are_packed_by_problem_and_sample() -> None:
    log = from_columns(small())
    assert log.problem_ids == ("a", "b")
    assert log.sample_ids.tolist() == [[0, 1, 2], [0, 1, -1]]
    assert log.present.tolist() == [[True, True, True], [True, True, False]]
    assert log.length_tokens.tolist() == [[10, 20, 30], [50, 60, 0]]
    assert log.correct.tolist() == [[True, False, True], [False, False, False]]
    assert log.correct_known.tolist() == [[True, True, True], [True, False, False]]
    assert log.answer.tolist() == [[0, 1, 0], [0, -1, -1]]
    assert log.answer_text is not None and log.answer_text.tolist() == [["7", "8", "7"], ["x", None, None]]
    assert log.answered.tolist() == [[True, True, True], [True, False, False]]
    assert not log.censored.any() and not log.censored_known.any()
    assert (str(log.reference), log.cap_tokens, log.answer_equality) == ("majority@3", None, "exact")


def test_without_a_sample_column_file_order_counts() -> None:
    table = small()
    del table["sample"]
    log = from_columns(table)
    assert log.sample_ids.tolist() == [[0, 1, 2], [0, 1, -1]]
    assert log.length_tokens.tolist() == [[30, 10, 20], [50, 60, 0]]


def test_without_answers_what_is_not_censored_is_answered() -> None:
    log = from_columns({"problem": ["a", "a"], "length_tokens": [5, 9]}, cap_tokens=9)
    assert log.censored.tolist() == [[False, True]] and log.censored_known.all()
    assert log.answered.tolist() == [[True, False]]
    assert log.answer.tolist() == [[-2, -1]]
    assert log.answer_text is None and not log.has_answers
    assert (str(log.reference), log.cap_tokens, log.answer_equality) == ("logged", 9, "none")
    assert not log.correct_known.any()


def test_an_answered_column_overrules_the_text() -> None:
    table = {"problem": ["a"] * 4, "length_tokens": [1] * 4, "answer": ["x", "x", None, None]}
    log = from_columns(table | {"answered": [True, False, True, None]})
    assert log.answer.tolist() == [[0, -1, -2, -1]]
    assert log.answer_text is not None and log.answer_text.tolist() == [["x", "x", None, None]]


def test_a_censored_column_overrules_the_cap_where_it_speaks() -> None:
    table = {"problem": ["a"] * 3, "length_tokens": [9, 9, 5], "censored": [False, None, None]}
    assert from_columns(table, cap_tokens=9).censored.tolist() == [[False, True, False]]


def test_caps_from_a_column() -> None:
    table = {"problem": ["a", "b"], "length_tokens": [9, 9], "limit": [9, 20]}
    log = from_columns(table, cap_tokens="limit")
    assert log.censored.tolist() == [[True], [False]] and log.cap_tokens is None
    assert from_columns(table | {"limit": [20, 20]}, cap_tokens="limit").cap_tokens == 20
    mapping = {"problem": "problem", "length_tokens": "length_tokens"}
    assert from_columns(table, mapping, cap_tokens="limit").censored.tolist() == [[True], [False]]


def test_several_columns_name_a_problem() -> None:
    table = {"set": ["s", "s", "t"], "number": [1, 2, 1], "n": [3, 4, 5]}
    log = from_columns(table, {"problem": ["set", "number"], "length_tokens": "n"}, groups=("set",))
    assert log.problem_ids == ("s/1", "s/2", "t/1") and str(log.reference) == "single"
    assert log.groups["set"].tolist() == ["s", "s", "t"]


def test_two_problems_never_share_a_joined_name() -> None:
    with pytest.raises(LogError, match="both called 'a/b/c'"):
        from_columns({"x": ["a/b", "a"], "y": ["c", "b/c"], "n": [1, 2]}, {"problem": ["x", "y"], "length_tokens": "n"})


def test_a_mapping_takes_only_what_it_names() -> None:
    table = small() | {"pred": ["1", "2", "3", "4", "5"]}
    mapping = {"problem": "problem", "length_tokens": "length_tokens", "answer": "pred"}
    log = from_columns(table, mapping)
    assert log.answer_text is not None and log.answer_text[0].tolist() == ["1", "3", "5"]
    assert not log.correct_known.any()


def test_rows_without_a_length_are_refused_or_counted() -> None:
    table = small() | {"length_tokens": [30, None, 10, 60, 20]}
    with pytest.raises(LogError, match=r"row 2, column 'length_tokens'.*got null"):
        from_columns(table)
    log = from_columns(table, set_aside_incomplete=True)
    assert log.num_traces == 4 and dict(log.set_aside) == {"length_tokens is missing": 1}


def test_where_keeps_rows_and_counts_the_rest() -> None:
    table = small() | {"fit": [1, 1, 0, 1, 1]}
    log = from_columns(table, where={"fit": 1, "problem": ["a"]})
    assert log.sample_ids.tolist() == [[1, 2]]
    assert dict(log.set_aside) == {"where: fit is not 1": 1, "where: problem is not ['a']": 2}
    with pytest.raises(LogError, match="no row has fit = '2'; there are: '1', '0'"):
        from_columns(table, where={"fit": 2})
    with pytest.raises(LogError, match="row 2"):  # rows keep the numbers they have in the file
        from_columns(table | {"length_tokens": [1, 0, 1, 1, 1]}, where={"fit": 1})


def test_own_labels_decide_which_answers_are_equal() -> None:
    table = {"problem": ["a"] * 4, "length_tokens": [1] * 4, "answer_label": [5, 9, 5, None]}
    log = from_columns(table)
    assert log.answer.tolist() == [[0, 1, 0, -1]] and log.answer_equality == "custom" and log.has_answers


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            {"problem": ["a"]},
            {},
            r"columns: no column 'length_tokens'; there are: 'problem'.*columns=\{'length_tokens'",
        ),
        ({"problem": ["a"], "n": [1]}, {"columns": {"problem": "problem", "length_tokens": "m"}}, "no column 'm'"),
        (small(), {"columns": {"lenght": "length_tokens"}}, "expected our names .* got 'lenght'"),
        (small(), {"groups": ("model",)}, "no column 'model'"),
        (small(), {"groups": "model"}, "expected a sequence of names"),
        (small(), {"groups": ("answer",)}, "column of the log itself"),
        (small(), {"where": {"model": "x"}}, "no column 'model'"),
        (small(), {"cap_tokens": 49}, "row 2, column 'length_tokens': expected at most the cap of 49 tokens .*got 50"),
        (small(), {"cap_tokens": 0}, "cap_tokens: expected"),
        (small(), {"cap_tokens": True}, "cap_tokens: expected"),
        (small(), {"cap_tokens": "answer"}, "row 2, column 'answer': .*tokens >= 1, got 'x'"),
        (small(), {"reference": "best"}, "reference: expected"),
        (small(), {"reference": "majority@0"}, "reference: expected"),
        (small(), {"answers": "fuzzy"}, "answers: expected 'exact', 'numeric' or a function"),
        (small(), {"no_answer_values": "NONE"}, "no_answer_values: expected several texts"),
        (
            small() | {"sample": [2, 0, 0, 0, 1]},
            {},
            "row 4, column 'sample': .*'b', got sample 0 again, first in row 2",
        ),
        (small() | {"sample": [2, None, 0, 0, 1]}, {}, "row 2, column 'sample': .*got null"),
        (small() | {"problem": ["a", "", "a", "a", "a"]}, {}, "row 2, column 'problem': .*got ''"),
        (small() | {"problem": ["a", "b", None, "a", "a"]}, {}, "row 3, column 'problem': .*got null"),
        (
            small() | {"m": list("xyxzx")},
            {"groups": ("m",)},
            "row 4, column 'm': expected 'y', as in the first row of problem 'b'.*got 'z'",
        ),
        (small() | {"length_tokens": []}, {}, "columns of one length"),
        (small() | {"answer": [["7"]] * 5}, {}, "row 1, column 'answer': expected a text, a number"),
        ({"problem": [], "length_tokens": []}, {}, "at least one row"),
        ([1, 2], {}, "expected a dictionary of columns, a pandas DataFrame or a pyarrow Table, got list"),
        ({"problem": np.zeros((2, 2)), "length_tokens": [1]}, {}, "expected one axis"),
        ({"problem": "abc", "length_tokens": [1]}, {}, "expected a sequence of values"),
        (small(), {"columns": {"problem": [], "length_tokens": "length_tokens"}}, "at least one column for 'problem'"),
        (
            small(),
            {"columns": {"problem": "problem", "length_tokens": ["a", "b"]}},
            "expected one column for 'length_tokens'",
        ),
    ],
)
def test_what_is_wrong_is_named(table: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        from_columns(table, **options)


BAD_VALUES = {
    "length_tokens": [0, -3, 2.5, float("inf"), 2**31, 10**30, "0", "-3", "2.5", "many", "nan", "1e40", True],
    "sample": [-1, 1.5, "first", 2**63, 10**30, "-1"],
    "correct": ["yes", "TRUE", "tru", 2, -1, 0.5, "2"],
    "answered": ["yes", 3],
    "censored": ["no", "F", 3],
    "would_stop_at": [-1, 2.5, "soon", 2**31],
    "propensity": [0, 0.0, -0.1, 1.1, "0", "likely", "nan", "inf"],
}


@STEADY
@given(data=st.data(), table=long_tables(live=True))
def test_every_bad_value_is_named_with_row_and_column(data: st.DataObject, table: dict[str, list[Any]]) -> None:
    column = data.draw(st.sampled_from(sorted(BAD_VALUES)))
    row = data.draw(st.integers(0, len(table["problem"]) - 1))
    bad = data.draw(st.sampled_from(BAD_VALUES[column]))
    table[column][row] = bad
    with pytest.raises(LogError) as caught:
        from_columns(table)
    assert caught.value.column == column
    if not isinstance(bad, bool):  # among numbers, true makes the column text: any row may be named
        assert caught.value.row == row + 1
    assert f"column {column!r}: expected" in str(caught.value)


@STEADY
@given(table=long_tables(live=True))
def test_every_source_in_memory_gives_the_same_log(table: dict[str, list[Any]]) -> None:
    log = from_columns(table, groups=("model",))
    assert from_columns(pandas.DataFrame(table), groups=("model",)).equals(log)
    assert from_columns(pa.table(table), groups=("model",)).equals(log)


@STEADY
@given(table=long_tables(live=True))
def test_a_frame_reads_back(table: dict[str, list[Any]]) -> None:
    log = from_columns(table, groups=("model",))
    again = from_columns(log.to_pandas(), groups=("model",))
    assert (
        log.answer_equality == "exact" and again.answer_equality == "custom"
    )  # a frame holds labels, not how they came about
    assert again.to_pandas().equals(log.to_pandas())
    assert np.array_equal(again.answer, log.answer) and np.array_equal(again.answered, log.answered)


def test_the_length_of_the_thought_is_kept_and_checked(tmp_path: Path) -> None:
    table = {"problem": ["a", "a", "b"], "length_tokens": [30, 20, 10], "thought_tokens": [25, None, 10]}
    log = from_columns(table)
    assert log.thought_tokens is not None and log.thought_tokens.tolist() == [[25, -1], [10, -1]]
    save_log(log, tmp_path / "log.parquet")
    assert load_log(tmp_path / "log.parquet").equals(log) and log.take([1]).thought_tokens.tolist() == [[10]]
    assert log.to_pandas()["thought_tokens"].isna().tolist() == [False, True, False]
    assert from_columns(log.to_pandas(), cap_tokens=None).equals(log)
    with pytest.raises(LogError, match=r"row 2.*'thought_tokens'.*at most the length of 20 tokens.*21"):
        from_columns(table | {"thought_tokens": [25, 21, 10]})
    assert from_columns(small()).thought_tokens is None
