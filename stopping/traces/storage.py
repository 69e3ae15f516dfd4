"""Saved logs: one Parquet file with one row a trace, its checkpoints as lists, and the rest in the metadata."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stopping.traces.checkpoints import Checkpoints
from stopping.traces.errors import LogError
from stopping.traces.readers.long_form import CHECKPOINT, Reading
from stopping.traces.reference import Reference
from stopping.traces.token_signals import TokenSignals
from stopping.traces.trace_log import TraceLog

_SIGNAL = "checkpoint_signal_"
_KEY = b"stopping.trace_log"
_VERSION = 1
_ROWS_AT_ONCE = 65_536
_ROWS_AT_ONCE_WITH_LISTS = 1_024  # a per-token list is read back by the row group
_CHECKPOINT_TYPES = {
    "position_tokens": np.int32,
    "answer": np.int32,
    "answer_text": object,
    "correct": np.bool_,
    "correct_known": np.bool_,
    "probe_cost_tokens": np.int32,
}


@dataclass(frozen=True)
class Description:
    """Metadata of a saved log. `checkpoints` has their grid, protocol and signals; `None` without checkpoints."""

    version: int
    reference: str
    cap_tokens: int | None
    answer_equality: str
    groups: list[str]
    set_aside: dict[str, int]
    checkpoints: dict[str, Any] | None


def save_log(log: TraceLog, path: str | Path) -> None:
    """Write the log to a Parquet file, from which `load_log` reads an equal log.

    Per-token lists are copied from the file that they are in. The file is written atomically. Raises `LogError` if the
    name does not end in .parquet or the file of the lists has changed; `FileNotFoundError` if that file is gone.
    """
    path = Path(path)
    if path.suffix.lower() != ".parquet":
        raise LogError(f"{path.name}: expected a name ending in .parquet")
    probes, signals = log.checkpoints, log.token_signals
    described = Description(
        version=_VERSION,
        reference=str(log.reference),
        cap_tokens=log.cap_tokens,
        answer_equality=log.answer_equality,
        groups=list(log.groups),
        set_aside=dict(log.set_aside),
        checkpoints=None
        if probes is None
        else {"grid": probes.grid, "protocol": probes.protocol, "signals": list(probes.signals)},
    )
    table = log.to_table()
    if probes is not None:
        for name, values in _checkpoint_lists(log, probes).items():
            table = table.append_column(name, values)
    block = _ROWS_AT_ONCE if signals is None else _ROWS_AT_ONCE_WITH_LISTS
    lists = signals and [pa.field(name, _list_type(signals, name)) for name in signals.names]
    schema = pa.schema(
        [*table.schema, *(lists or [])], metadata={_KEY: json.dumps(dataclasses.asdict(described)).encode()}
    )
    partial = path.with_name(path.name + ".partial")
    try:
        with pa.parquet.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as writer:
            for start in range(0, table.num_rows, block):
                columns = table.slice(start, block).columns
                if signals is not None:
                    rows = signals.source_row[log.present][start : start + block].tolist()
                    columns += [
                        pa.array([row.as_py() for row in signals.read_rows(f.name, rows)], f.type) for f in lists or []
                    ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=block)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def description(path: Path) -> Description | None:
    """Return the metadata of a saved log; `None` for a file not written by `save_log`. Raises `LogError` for another version."""
    try:
        metadata = pa.parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return None  # the error comes when the table is read
    if _KEY not in metadata:
        return None
    try:
        said = json.loads(metadata[_KEY])
        if said["version"] != _VERSION:
            raise LogError(
                f"{path.name}: expected a log of version {_VERSION}, got {said['version']!r}", source=path.name
            )
        described = Description(**said)
        probes = described.checkpoints or {"grid": "", "protocol": "", "signals": []}
        known = [described.reference, described.answer_equality, *described.groups, *described.set_aside]
        known += [probes["grid"], probes["protocol"], *probes["signals"]]
        numbers = [described.cap_tokens or 1, *described.set_aside.values()]
        if not all(isinstance(text, str) for text in known) or not all(isinstance(number, int) for number in numbers):
            raise TypeError("a name that is not a text, or a count that is not a whole number")
    except LogError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise LogError(
            f"{path.name}: expected the metadata that save_log writes, got {error!r}", source=path.name
        ) from error
    return described


def complete(
    log: TraceLog,
    path: Path,
    stored: Description,
    source_row: np.ndarray,
    reading: Reading,
) -> TraceLog:
    """Return the log with the metadata and checkpoints of the saved file, except for what the caller gave."""
    return dataclasses.replace(
        log,
        reference=Reference.parse(stored.reference) if reading.reference is None else log.reference,
        cap_tokens=stored.cap_tokens if reading.cap_tokens is None else log.cap_tokens,
        answer_equality=stored.answer_equality if reading.answers is None else log.answer_equality,
        set_aside={**stored.set_aside, **log.set_aside},
        checkpoints=None if stored.checkpoints is None else _checkpoints(log, path, stored.checkpoints, source_row),
    )


def _checkpoint_lists(log: TraceLog, probes: Checkpoints) -> dict[str, pa.Array]:
    """Return the columns of the checkpoints, one list a trace."""
    trace_number = np.cumsum(log.present).reshape(log.present.shape) - 1
    owner = trace_number[probes.problem_index, probes.sample_index]
    offsets = pa.array(np.searchsorted(owner, np.arange(log.num_traces + 1)).astype(np.int32))
    flat = {CHECKPOINT + name: getattr(probes, name) for name in _CHECKPOINT_TYPES}
    flat |= {_SIGNAL + name: values for name, values in probes.signals.items()}
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in flat.items() if values is not None
    }


def _checkpoints(log: TraceLog, path: Path, said: dict[str, Any], source_row: np.ndarray) -> Checkpoints:
    types = {CHECKPOINT + name: dtype for name, dtype in _CHECKPOINT_TYPES.items()}
    types |= {_SIGNAL + name: np.float64 for name in said["signals"]}
    try:
        return _read_checkpoints(log, path, said, source_row, types)
    except (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise LogError(
            f"{path.name}: expected checkpoints as save_log writes them, got {error!r}", source=path.name
        ) from error


def _read_checkpoints(
    log: TraceLog, path: Path, said: dict[str, Any], source_row: np.ndarray, types: dict[str, Any]
) -> Checkpoints:
    with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        lists = file.read(columns=[name for name in types if name in names]).take(pa.array(source_row[log.present]))
    columns = {}
    for name in lists.column_names:
        values = lists.column(name).combine_chunks()
        counts = np.diff(values.offsets.to_numpy())
        if values.flatten().null_count and np.issubdtype(types[name], np.integer):
            raise TypeError(f"a null in {name}, which has whole numbers")
        columns[name] = values.flatten().to_numpy(zero_copy_only=False).astype(types[name])
    problem, sample = np.nonzero(log.present)
    fixed = {name: columns.get(CHECKPOINT + name) for name in _CHECKPOINT_TYPES}
    return Checkpoints(
        problem_index=np.repeat(problem, counts).astype(np.int32),
        sample_index=np.repeat(sample, counts).astype(np.int32),
        signals={name: columns[_SIGNAL + name] for name in said["signals"]},
        grid=said["grid"],
        protocol=said["protocol"],
        **fixed,  # type: ignore[arg-type]
    )


def _list_type(signals: TokenSignals, name: str) -> pa.DataType:
    return pa.parquet.read_schema(signals.path).field(name).type
