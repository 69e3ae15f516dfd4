"""Logs and strategies the trace tests share."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"

# Seeds are constants: a test that fails, fails for everyone.
STEADY = settings(max_examples=60, deadline=None, derandomize=True)


def shared(*parts: str) -> Path:
    """A file of the shared data, or a visible skip."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared data: {'/'.join(parts)}")
    return path


def small() -> dict[str, list[Any]]:
    """Two problems, three samples and two, written out of order."""
    return {
        "problem": ["a", "b", "a", "b", "a"],
        "sample": [2, 0, 0, 1, 1],
        "length_tokens": [30, 50, 10, 60, 20],
        "correct": [True, False, True, None, False],
        "answer": ["7", "x", "7", None, "8"],
    }


@st.composite
def long_tables(draw: st.DrawFn, live: bool = False) -> dict[str, list[Any]]:
    """Columns of a valid log: up to 5 problems of up to 5 samples, rows in any order."""
    names = draw(st.lists(st.text(min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=5, unique=True))
    pairs = []
    for name in names:
        samples = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True))
        pairs += [(name, sample) for sample in samples]
    pairs = draw(st.permutations(pairs))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=len(pairs), max_size=len(pairs)))

    label = {name: draw(st.sampled_from(["m", "n", None])) for name in names}
    table: dict[str, list[Any]] = {
        "problem": [name for name, _ in pairs],
        "sample": [sample for _, sample in pairs],
        "length_tokens": column(st.integers(1, 2**31 - 1)),
        "correct": column(st.sampled_from([True, False, None])),
        "answer": column(st.sampled_from(["1", "1.0", " 1", "2/2", "x", "X", "NO_ANSWER", "", None])),
        "answered": column(st.sampled_from([True, False, None])),
        "censored": column(st.sampled_from([True, False, None])),
        "model": [label[name] for name, _ in pairs],
    }
    if live:
        table["policy_id"] = column(st.sampled_from(["first", None]))
        table["would_stop_at"] = column(st.none() | st.integers(0, 2**31 - 1))
        table["propensity"] = column(st.none() | st.floats(0, 1, exclude_min=True))
    return table


JUNK = (None, True, 0, -1, 1.5, math.nan, 2**40, "", "x", [], [None], [[]], [["a"]], {}, {"a": 1}, [{"a": []}])


@st.composite
def damaged(draw: st.DrawFn, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log with one to three values of theirs replaced by something else, or gone."""
    lines = copy.deepcopy(lines)
    for _ in range(draw(st.integers(1, 3))):
        at: Any = lines[draw(st.integers(0, len(lines) - 1))]
        while True:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
                break
            at = at[key]
        if draw(st.booleans()):
            at[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        elif len(at) > 1:
            del at[key]
    return lines
