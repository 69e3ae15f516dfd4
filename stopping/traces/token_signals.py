"""Per-token lists (log-probabilities, entropies, ...), which stay in their Parquet file because they are too large for memory."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stopping.traces.errors import LogError, listed


@dataclass(frozen=True, eq=False)
class TokenSignals:
    """Where the per-token lists of a log are.

    Fields:
        path: the Parquet file.
        file_state: size in bytes and time of the last change (nanoseconds) when the log was read.
        names: its list columns.
        source_row: [problems, samples] int64, row of the file (from 0), -1 in the padding.
    """

    path: Path
    file_state: tuple[int, int]
    names: tuple[str, ...]
    source_row: np.ndarray

    def read(self, name: str, problem_index: int, sample_index: int) -> np.ndarray:
        """Return the list of one trace, [tokens], nulls as NaN. The last row group used is kept in memory."""
        values = self.read_rows(name, [self._row(name, problem_index, sample_index)])[0]
        if not values.is_valid:
            raise LogError(
                f"token signal {name!r}: nothing was logged for problem {problem_index}, sample {sample_index}"
            )
        return values.values.to_numpy(zero_copy_only=False)

    def read_rows(self, name: str, rows: list[int]) -> list[pa.Scalar]:
        """Return the lists in these rows of the file, in this order."""
        if name not in self.names:
            raise LogError(
                f"{self.path.name}: no list column {name!r} for a token signal; there are: {listed(self.names)}"
            )
        if file_state(self.path) != self.file_state:
            raise LogError(f"{self.path.name}: the file has changed since the log was read; load it again")
        starts = _row_group_starts(self.path, self.file_state)
        lists = []
        for row in rows:
            group = int(np.searchsorted(starts, row, side="right")) - 1
            lists.append(_row_group(self.path, self.file_state, name, group)[row - int(starts[group])])
        return lists

    def _row(self, name: str, problem_index: int, sample_index: int) -> int:
        num_problems, num_samples = self.source_row.shape
        inside = 0 <= problem_index < num_problems and 0 <= sample_index < num_samples
        row = int(self.source_row[problem_index, sample_index]) if inside else -1
        if row < 0:
            raise LogError(f"token signal {name!r}: the log has no problem {problem_index}, sample {sample_index}")
        return row


def find(path: Path, source_row: np.ndarray, taken: tuple[str, ...]) -> TokenSignals | None:
    """Return the list columns of numbers in a Parquet file, except names that begin with `taken`; `None` if there are none."""
    schema = pa.parquet.read_schema(path)
    names = tuple(field.name for field in schema if not field.name.startswith(taken) and _is_numbers(field.type))
    return TokenSignals(path.resolve(), file_state(path), names, source_row) if names else None


def file_state(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of the last change in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _is_numbers(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


@functools.lru_cache(maxsize=4)
def _row_group_starts(path: Path, state: tuple[int, int]) -> np.ndarray:
    metadata = pa.parquet.read_metadata(path)
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes)[:-1]])


@functools.lru_cache(maxsize=1)
def _row_group(path: Path, state: tuple[int, int], name: str, group: int) -> pa.ChunkedArray:
    with pa.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[name]).column(name)
