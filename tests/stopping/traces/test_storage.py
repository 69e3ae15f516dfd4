"""Saved and loaded, a log is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, TraceLog, from_columns, load_log, save_log, with_checkpoints
from tests.stopping.traces.examples import STEADY, long_tables, small


def probed(log: TraceLog, positions: list[int]) -> TraceLog:
    """Checkpoints at these shares (percent) of every second trace."""
    problems, samples = (index[::2] for index in np.nonzero(log.present))
    rows = [(p, s, position) for p, s in zip(problems, samples, strict=True) for position in sorted(positions)]
    ends = [int(log.length_tokens[p, s]) for p, s, _ in rows]
    table = {
        "problem": [log.problem_ids[p] for p, _, _ in rows],
        "sample": [int(log.sample_ids[p, s]) for p, s, _ in rows],
        "position_tokens": [min(position, end) for (_, _, position), end in zip(rows, ends, strict=True)],
        "answer": [["1", "new", None][index % 3] for index in range(len(rows))],
        "correct": [[True, None][index % 2] for index in range(len(rows))],
        "confidence": [[0.5, None][index % 2] for index in range(len(rows))],
    }
    return with_checkpoints(log, table, grid="token", protocol="forced", signals=("confidence",))


@STEADY
@given(
    table=long_tables(live=True),
    answers=st.sampled_from(["exact", "numeric"]),
    reference=st.sampled_from([None, "single", "budget=7"]),
    cap=st.sampled_from([None, 2**31 - 1]),
    positions=st.sampled_from([[], [0], [0, 1]]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    table: dict[str, list[Any]],
    answers: str,
    reference: str | None,
    cap: int | None,
    positions: list[int],
) -> None:
    log = from_columns(table, answers=answers, reference=reference, cap_tokens=cap, groups=("model",))
    if positions and log.length_tokens[log.present].min() > 1:
        log = probed(log, positions)
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    save_log(log, path)
    assert load_log(path).equals(log)
    part = log.take([log.num_problems - 1])
    save_log(part, path)
    assert load_log(path).equals(part)


def test_labels_of_a_function_survive(tmp_path: Path) -> None:
    log = from_columns(small(), answers=lambda text: "same")
    save_log(log, tmp_path / "log.parquet")
    again = load_log(tmp_path / "log.parquet")
    assert (
        again.answer.tolist() == log.answer.tolist() == [[0, 0, 0], [0, -1, -1]] and again.answer_equality == "custom"
    )
    assert load_log(tmp_path / "log.parquet", answers="exact").answer.tolist() == [[0, 1, 0], [0, -1, -1]]


def test_arguments_change_a_saved_log(tmp_path: Path) -> None:
    save_log(from_columns(small()), tmp_path / "log.parquet")
    log = load_log(tmp_path / "log.parquet", cap_tokens=60, reference="budget=2", where={"problem": "b"})
    assert (log.cap_tokens, str(log.reference), log.problem_ids) == (60, "budget=2", ("b",))
    assert log.censored.tolist() == [[False, True]]


def test_a_log_with_checkpoints_is_loaded_whole(tmp_path: Path) -> None:
    save_log(probed(from_columns(small()), [1]), tmp_path / "log.parquet")
    with pytest.raises(LogError, match="belong to whole problems"):
        load_log(tmp_path / "log.parquet", where={"sample": 0})


def test_a_newer_version_and_other_endings_are_refused(tmp_path: Path) -> None:
    save_log(from_columns(small()), tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"log.csv: expected a name ending in .parquet"):
        save_log(from_columns(small()), tmp_path / "log.csv")
    table = pa.parquet.read_table(tmp_path / "log.parquet")
    for said, message in (
        (b"3", "the metadata that save_log writes"),
        (b"\xff", "the metadata that save_log writes"),
        (b"{}", "the metadata that save_log writes"),
        (b'{"version": 2}', "log of version 1, got 2"),
        (b'{"version": 1}', "the metadata that save_log writes"),
    ):
        pa.parquet.write_table(table.replace_schema_metadata({b"stopping.trace_log": said}), tmp_path / "new.parquet")
        with pytest.raises(LogError, match=message):
            load_log(tmp_path / "new.parquet")


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    save_log(from_columns(small()), tmp_path / "log.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
