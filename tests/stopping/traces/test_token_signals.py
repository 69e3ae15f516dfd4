"""Per-token lists stay in their file until asked for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stopping.traces import LogError, from_columns, load_log, save_log
from tests.stopping.traces.examples import small


def source(folder: Path) -> Path:
    """Row r of the small log has r values, r + 0, r + 0.5, ...; the last row none."""
    lists = [[row + 0.5 * token for token in range(row)] for row in range(4)] + [None]
    path = folder / "source.parquet"
    pa.parquet.write_table(pa.table({**small(), "logprob": lists, "names": [["x"]] * 5}), path, row_group_size=2)
    return path


def test_a_list_is_found_through_every_selection(tmp_path: Path) -> None:
    log = load_log(source(tmp_path))
    # in the file: a2 b0 a0 b1 a1
    assert log.token_signal("logprob", 0, 0).tolist() == [2.0, 2.5]
    assert log.token_signal("logprob", 0, 2).tolist() == []
    assert log.token_signal("logprob", 1, 1).tolist() == [3.0, 3.5, 4.0]
    assert log.take([1]).token_signal("logprob", 0, 0).tolist() == [1.0]


def test_lists_are_copied_by_save(tmp_path: Path) -> None:
    log = load_log(source(tmp_path))
    save_log(log, tmp_path / "saved.parquet")
    again = load_log(tmp_path / "saved.parquet")
    assert again.equals(log)
    assert np.array_equal(again.token_signal("logprob", 1, 1), [3.0, 3.5, 4.0])
    save_log(again, tmp_path / "saved.parquet")  # onto itself
    assert load_log(tmp_path / "saved.parquet").token_signal("logprob", 0, 0).tolist() == [2.0, 2.5]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = source(tmp_path)
    log = load_log(path)
    with pytest.raises(LogError, match="no list column 'entropy' for a token signal; there are: 'logprob'"):
        log.token_signal("entropy", 0, 0)
    with pytest.raises(LogError, match="nothing was logged for problem 0, sample 1"):
        log.token_signal("logprob", 0, 1)
    for problem, sample in ((1, 2), (0, -1), (2, 0), (0, 3)):
        with pytest.raises(LogError, match="the log has no problem"):
            log.token_signal("logprob", problem, sample)
    with pytest.raises(LogError, match="does not come from a Parquet file"):
        from_columns(small()).token_signal("logprob", 0, 0)
    pa.parquet.write_table(pa.table(small()), path)
    with pytest.raises(LogError, match="changed since the log was read"):
        log.token_signal("logprob", 0, 0)
