"""The log itself."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LiveColumns, Log, LogError, Reference, TraceLog, from_columns
from tests.stopping.traces.examples import STEADY, long_tables, small


def log_with_groups() -> TraceLog:
    return from_columns(
        small() | {"model": ["m", "n", "m", "n", "m"], "year": [1, None, 1, None, 1]}, groups=("model", "year")
    )


def test_small_properties() -> None:
    log = log_with_groups()
    assert (log.num_problems, log.num_samples, log.num_traces) == (2, 3, 5)
    assert log.samples_per_problem.tolist() == [3, 2] and log.has_answers
    assert repr(log) == "TraceLog(2 problems x 3 samples, 5 traces, reference='majority@3', groups=('model', 'year'))"


def test_what_every_log_offers() -> None:
    log = log_with_groups()
    assert isinstance(log, Log) and str(log.reference) == "majority@3"
    assert not log.all_judged and log.take([0]).all_judged
    assert log.informative_censoring is None
    stop = np.array([[10, -1, 29], [-1, 60, -1]], np.int32)
    live = LiveColumns(np.full(stop.shape, None), stop, np.full(stop.shape, np.nan))
    assert dataclasses.replace(log, live=live).informative_censoring == "2 that end where a live policy stopped them"


def test_take_cuts_padding_and_keeps_order() -> None:
    log = log_with_groups()
    assert log.take([1]).num_samples == 2 and log.take(np.array([False, True])).problem_ids == ("b",)
    assert log.take([1, 0]).take([1, 0]).equals(log)
    for bad in ([], [2], [-1], [0, 0], np.array([True]), np.array([0.0])):
        with pytest.raises(LogError, match="take: expected"):
            log.take(bad)


def test_take_samples_skips_the_samples_a_problem_does_not_have() -> None:
    log = log_with_groups()
    part = log.take_samples([2, 1])
    assert part.sample_ids.tolist() == [[1, 2], [1, -1]] and part.present.tolist() == [[True, True], [True, False]]
    assert part.length_tokens.tolist() == [[20, 30], [60, 0]] and part.answer.tolist() == [[0, 1], [-1, -1]]
    assert part.answer_text is not None and part.answer_text.tolist() == [["8", "7"], [None, None]]
    assert log.take_samples(np.array([[0, 2], [1, 0]])).length_tokens.tolist() == [[10, 30], [50, 60]]
    with pytest.raises(LogError, match="take_samples: problem 'b' has none of these samples"):
        log.take_samples([2])
    for bad in ([], [3], [-1], [0, 0], [0.0], np.zeros((1, 1), int)):
        with pytest.raises(LogError, match="take_samples: expected"):
            log.take_samples(bad)


@STEADY
@given(long_tables(live=True), st.data())
def test_take_samples_gives_the_log_of_these_rows(table: dict[str, list[Any]], data: st.DataObject) -> None:
    log = from_columns(table, groups=("model",), reference="logged")
    k = data.draw(st.integers(1, log.num_samples))
    others = st.permutations(range(1, log.num_samples))
    index = np.array([[0, *data.draw(others)][:k] for _ in log.problem_ids])
    rows = {(name, int(log.sample_ids[p, s])) for p, name in enumerate(log.problem_ids) for s in index[p]}
    keep = [pair in rows for pair in zip(table["problem"], table["sample"], strict=True)]
    cut = {name: [v for v, kept in zip(values, keep, strict=True) if kept] for name, values in table.items()}
    expected, taken = from_columns(cut, groups=("model",), reference="logged"), log.take_samples(index)
    assert taken.take([taken.problem_ids.index(name) for name in expected.problem_ids]).equals(expected)


def test_where_selects_problems_by_label() -> None:
    log = log_with_groups()
    assert log.where(model="m").problem_ids == ("a",)
    assert log.where(model=["m", "n"], year=1).problem_ids == ("a",)
    assert log.where(year=None).problem_ids == ("b",)
    with pytest.raises(LogError, match="no problem has model = 'q'; there are: 'm', 'n'"):
        log.where(model=["m", "q"])
    with pytest.raises(LogError, match="no group 'dataset'; its groups: 'model', 'year'"):
        log.where(dataset="x")
    with pytest.raises(LogError, match="no problem has all of"):
        log.where(model="n", year=1)


def test_arrays_are_read_only() -> None:
    log = log_with_groups()
    with pytest.raises(ValueError, match="read-only"):
        log.length_tokens[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        log.reference = Reference("single")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length_tokens": np.zeros((2, 3))}, "length_tokens: expected int32 of shape"),
        ({"answer": np.zeros((2, 2), np.int32)}, "answer: expected int32 of shape"),
        ({"problem_ids": ("a",)}, "present: expected shape"),
        ({"problem_ids": ("a", "a")}, "each problem once"),
        ({"present": np.array([[True, True, True], [True, False, True]])}, "packed to the left"),
        ({"present": np.array([[True, True, True], [False, False, False]])}, "at least one sample"),
        ({"groups": {"model": np.array(["x"], object)}}, "group 'model': expected one label a problem"),
        ({"reference": "vote"}, "reference: expected"),
        ({"live": LiveColumns(np.zeros((1, 1)), np.zeros((2, 3)), np.zeros((2, 3)))}, "live.policy_id: expected shape"),
    ],
)
def test_a_log_made_by_hand_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        dataclasses.replace(log_with_groups(), **change)


def test_equality_sees_every_field() -> None:
    log = log_with_groups()
    assert log.equals(log_with_groups()) and not log.equals(log.take([1, 0]))
    changes: tuple[dict[str, Any], ...] = (
        {"reference": Reference("single")},
        {"cap_tokens": 99},
        {"set_aside": {"x": 1}},
        {"groups": {}},
        {"answer_text": None},
    )
    for change in changes:
        assert not log.equals(dataclasses.replace(log, **change))


def test_import_needs_neither_pandas_nor_jax() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('pandas', 'jax', 'scipy'): raise ImportError('no ' + name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import stopping.traces as t\n"
        "log = t.from_columns({'problem': ['a'], 'length_tokens': [1]})\n"
        "try: log.to_pandas()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "to_pandas needs pandas: pip install pandas"
