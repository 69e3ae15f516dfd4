"""What a log can be used for."""

import json
from typing import Any

import pytest

from stopping.traces import check, from_columns, with_checkpoints
from tests.stopping.traces.examples import small


def test_the_small_log_in_words() -> None:
    assert str(check(from_columns(small()))).splitlines() == [
        "2 problems, 5 traces, 2 to 3 samples a problem",
        "correct 50.0% (1 unknown)",
        "without an answer 20.0%",
        "censored 0.0% (5 unknown)",
        "yes  first finish: lengths of several samples, and which of them have an answer",
        "yes  majority vote: answers of several samples, compared as exact",
        "no   certification by labels: the 'correct' column is empty for 1 of 5 traces",
        "no   thinking exit: no checkpoints are logged; add them with with_checkpoints(log, ...)",
        "no   censoring: whether traces hit the cap is unknown and taken as no; give a 'censored' column or cap_tokens",
    ]


BARE: dict[str, list[Any]] = {"problem": ["a", "a"], "length_tokens": [1, 2]}


@pytest.mark.parametrize(
    ("table", "options", "use", "possible", "says"),
    [
        (BARE, {}, "first finish", True, "nothing says which have an answer"),
        (BARE | {"answer": [None, None]}, {}, "first finish", False, "no trace has an answer"),
        ({"problem": ["a"], "length_tokens": [1]}, {}, "first finish", False, "one sample"),
        ({"problem": ["a"], "length_tokens": [1], "answer": ["x"]}, {}, "majority vote", False, "one sample"),
        (BARE, {}, "majority vote", False, "'answer' column is missing"),
        (BARE | {"answer": ["x", None], "answered": [1, 1]}, {}, "majority vote", False, "the answer of 1 answered"),
        (BARE, {}, "certification by labels", False, "'correct' column is missing"),
        (BARE | {"correct": [1, 0]}, {}, "certification by labels", True, "every trace is judged, on 1 problems"),
        (BARE, {"cap_tokens": 5}, "censoring", True, "the cap of 5 tokens"),
        (BARE | {"censored": [True, None]}, {}, "censoring", False, "empty for 1 traces"),
    ],
)
def test_each_use_says_what_is_missing(table: Any, options: Any, use: str, possible: bool, says: str) -> None:
    found = check(from_columns(table, **options)).uses[use]
    assert found.possible is possible and says in found.sentence


@pytest.mark.parametrize(("grid", "possible"), [("token", True), ("cue", True), ("fraction_of_final", False)])
def test_a_grid_on_the_final_length_looks_ahead(grid: str, possible: bool) -> None:
    probes = {"problem": ["a"], "sample": [0], "position_tokens": [1], "answer": ["7"]}
    log = with_checkpoints(from_columns(small()), probes, grid=grid, protocol="forced")
    assert check(log).uses["thinking exit"].possible is possible


def test_notes_and_numbers() -> None:
    table = {"problem": ["a"] * 5, "length_tokens": [1, 1, 2, None, 2], "answer": ["x", "x", "x", "x", None]}
    report = check(from_columns(table | {"propensity": [0.5, None, 1, 1, 1]}, set_aside_incomplete=True))
    assert report.counts["possible_duplicates"] == 1 and report.counts["set_aside"] == 1
    assert len(report.notes) == 3 and "propensity is missing for 1 traces" in report.notes[2]
    assert json.loads(json.dumps(report.as_dict()))["counts"]["traces"] == 4
