"""Checkpoints joined to their traces."""

from typing import Any

import pytest

from stopping.traces import LogError, from_columns, with_checkpoints
from tests.stopping.traces.examples import small

PROBES: dict[str, list[Any]] = {
    "problem": ["b", "a", "a", "a", "b"],
    "sample": [0, 2, 0, 0, 0],
    "position_tokens": [50, 0, 8, 4, 25],
    "answer": ["y", "8", "9", "7", "x"],
    "correct": [None, 0, 0, 1, 0],
    "confidence": [0.5, None, 0.25, 1, 0],
}
HOW: dict[str, Any] = {"grid": "token", "protocol": "next token after </think>"}


def test_probes_stand_in_order_under_the_labels_of_final_answers() -> None:
    log = with_checkpoints(from_columns(small()), PROBES, signals=("confidence",), **HOW)
    probes = log.checkpoints
    assert probes is not None
    assert probes.problem_index.tolist() == [0, 0, 0, 1, 1]
    assert probes.sample_index.tolist() == [0, 0, 2, 0, 0]
    assert probes.position_tokens.tolist() == [4, 8, 0, 25, 50]
    assert probes.answer.tolist() == [
        0,
        3,
        1,
        0,
        2,
    ]  # final: a = 7 8 7, b = x; "9" and "y" are new after 3 and 2 samples
    assert probes.answer_text is not None and probes.answer_text.tolist() == ["7", "9", "8", "x", "y"]
    assert probes.correct.tolist() == [True, False, False, False, False]
    assert probes.correct_known.tolist() == [True, True, True, True, False]
    assert str(probes.signals["confidence"].tolist()) == "[1.0, 0.25, nan, 0.0, 0.5]"
    assert probes.probe_cost_tokens.tolist() == [0] * 5
    assert (probes.grid, probes.protocol) == ("token", HOW["protocol"])


def test_take_renumbers_problems_and_keeps_labels() -> None:
    log = with_checkpoints(from_columns(small()), PROBES, **HOW)
    part = log.take([1, 0]).checkpoints
    assert part is not None
    assert part.problem_index.tolist() == [0, 0, 1, 1, 1] and part.answer.tolist() == [0, 2, 0, 3, 1]
    none = log.take([1]).checkpoints
    assert none is not None and none.position_tokens.tolist() == [25, 50]


def test_take_samples_renumbers_samples_and_labels() -> None:
    log = with_checkpoints(from_columns(small()), PROBES, signals=("confidence",), **HOW)
    whole = log.take_samples([2, 0]).checkpoints
    assert whole is not None and whole.sample_index.tolist() == [0, 0, 1, 0, 0]
    assert whole.answer.tolist() == [0, 2, 3, 0, 1]  # final: a = 7 7, b = x; "9", "8" and "y" are new
    assert whole.answer_text is not None and whole.answer_text.tolist() == ["7", "9", "8", "x", "y"]
    last = log.take([0]).take_samples([1, 2]).checkpoints  # final: 8 7; the probe said "8"
    assert last is not None and last.sample_index.tolist() == [1] and last.answer.tolist() == [0]
    none = log.take([0]).take_samples([1]).checkpoints
    assert none is not None and len(none.answer) == 0


def test_answers_are_compared_as_the_log_did() -> None:
    probes = PROBES | {"answer": ["X", "8.0", "8.00", "7.0", None]}
    numeric = with_checkpoints(from_columns(small(), answers="numeric"), probes, **HOW).checkpoints
    assert numeric is not None and numeric.answer.tolist() == [0, 1, 1, -1, 2]
    exact = with_checkpoints(from_columns(small()), probes, **HOW).checkpoints
    assert exact is not None and exact.answer.tolist() == [3, 4, 5, -1, 2]
    log = from_columns(small(), answers=str.lower)
    with pytest.raises(LogError, match="pass the same function"):
        with_checkpoints(log, probes, **HOW)
    custom = with_checkpoints(log, probes, answers=str.lower, **HOW).checkpoints
    assert custom is not None and custom.answer.tolist() == [3, 4, 5, -1, 0]


def test_without_answers() -> None:
    table = {name: PROBES[name] for name in ("problem", "sample", "position_tokens")} | {
        "probe_cost_tokens": [1, 2, 3, 4, 5]
    }
    probes = with_checkpoints(from_columns(small()), table, **HOW).checkpoints
    assert probes is not None and probes.answer.tolist() == [-2] * 5 and probes.answer_text is None
    assert probes.probe_cost_tokens.tolist() == [4, 3, 2, 5, 1]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"problem": ["b", "z", "a", "a", "b"]},
            {},
            "row 2, column 'problem': expected the name of a problem in the log, got 'z'",
        ),
        (
            {"sample": [0, 2, 7, 0, 0]},
            {},
            "row 3, column 'sample': expected a sample the log has of problem 'a', got 7",
        ),
        (
            {"sample": [2, 2, 0, 0, 0]},
            {},
            "row 1, column 'sample': expected a sample the log has of problem 'b', got 2",
        ),
        ({"sample": [None, 2, 0, 0, 0]}, {}, "row 1, column 'sample': .*got null"),
        (
            {"position_tokens": [51, 0, 8, 4, 25]},
            {},
            "row 1, column 'position_tokens': expected at most the 50 tokens of its trace, got 51",
        ),
        ({"position_tokens": [50, -1, 8, 4, 25]}, {}, "row 2, column 'position_tokens': .*>= 0, got -1"),
        ({"position_tokens": [50, None, 8, 4, 25]}, {}, "row 2, column 'position_tokens': .*got null"),
        ({"position_tokens": [50, 0, 4, 4, 25]}, {}, "row 4, column 'position_tokens': .*got 4 again, first in row 3"),
        (
            {"confidence": [1, 2, "high", 1, 1]},
            {"signals": ("confidence",)},
            "row 3, column 'confidence': expected a number, got 'high'",
        ),
        ({"correct": [1, 2, 0, 0, 0]}, {}, "row 2, column 'correct'"),
        ({}, {"signals": ("entropy",)}, "no column 'entropy'"),
        ({}, {"signals": "entropy"}, "expected a sequence of names"),
        ({}, {"grid": "words"}, "grid: expected one of"),
        ({}, {"protocol": " "}, "protocol: expected a few words"),
        ({}, {"columns": {"problem": "problem", "sample": "sample"}}, "no column 'position_tokens'"),
        ({name: [] for name in PROBES}, {}, "at least one row"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        with_checkpoints(from_columns(small()), PROBES | change, **(HOW | options))
