"""Readers of logs, one module for each format. Which of them reads a file is decided here."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stopping.traces import storage, token_signals
from stopping.traces.answers import Equality
from stopping.traces.errors import LogError, Source
from stopping.traces.readers import comma_separated, json_lines, parquet
from stopping.traces.readers.long_form import CHECKPOINT, NO_ANSWER_VALUES, Reading, build
from stopping.traces.readers.selection import ColumnNames
from stopping.traces.reference import Reference
from stopping.traces.trace_log import TraceLog

_READERS = {
    (".parquet",): parquet.read,
    (".jsonl", ".jsonl.gz"): json_lines.read,
    (".csv", ".csv.gz"): comma_separated.read,
}


def load_log(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    groups: Sequence[str] = (),
    answers: Equality | None = None,
    no_answer_values: Collection[str] = NO_ANSWER_VALUES,
    cap_tokens: int | str | None = None,
    reference: Reference | str | None = None,
    where: Mapping[str, Any] | None = None,
    set_aside_incomplete: bool = False,
) -> TraceLog:
    """Read a log with one row a completion: Parquet, JSON lines (.jsonl, .jsonl.gz) or CSV (.csv, .csv.gz).

    The columns of a log are `problem` and `length_tokens` (required); `sample` (default: file order), `correct` (default:
    unknown), `thought_tokens` (the part of the length before the end of the thought), `answer`, `answered` (default: whether
    there is an answer; without an answer column: whether the trace is not censored), `censored` (default: whether the length
    is the cap, if there is one), `cap_tokens`, `answer_label` (equal labels in a problem mean equal answers), and for live
    runs `policy_id`, `would_stop_at`, `propensity`. A file written by `save_log` is read back as it was, except for the
    arguments given here.

    Args:
        path: the file; the ending of its name gives the format.
        columns: from a log's name of a column to the file's; several names for `problem` are joined with "/". Only these
            columns are then read; by default the file has the names above.
        groups: further columns with one label a problem, for selection by `log.where`.
        answers: which answers are equal: "exact" (the stripped text, the default), "numeric" (numbers as numbers), or a
            function from text to a key (`None`: no valid answer). By default the column `answer_label` decides, if there
            is one.
        no_answer_values: texts that mean no answer.
        cap_tokens: the cap on length in tokens, or the name of the column with it; a longer trace is an error.
        reference: the rule that produced the answer that counts, or its text, see `Reference`; by default "single" for one
            sample a problem, "majority@n" for up to n samples with answers, else "logged".
        where: from the file's name of a column to the label or labels to keep; other rows are counted in `set_aside`.
        set_aside_incomplete: leave out rows without a length, and count them in `set_aside`, instead of refusing the file.

    Raises `LogError`, naming file, row, column, expected and got, for a value that is not valid; `FileNotFoundError` if
    there is no such file.
    """
    path = Path(path)
    reading = Reading(columns, groups, answers, no_answer_values, cap_tokens, reference, where, set_aside_incomplete)
    is_parquet = path.suffix.lower() == ".parquet"
    stored = storage.description(path) if columns is None and is_parquet else None
    if stored is not None:
        if stored.checkpoints and (answers is not None or where is not None):
            raise LogError(
                f"{path.name}: the labels of its checkpoints belong to whole problems and their answers as saved; "
                "load it without `answers` and `where`, then select with log.where(...)"
            )
        reading = dataclasses.replace(reading, groups=tuple(dict.fromkeys([*stored.groups, *groups])))
    log, source_row = build(read_table, path, reading)
    if stored is not None:
        log = storage.complete(log, path, stored, source_row, reading)
    if is_parquet:
        taken = () if stored is None else (CHECKPOINT,)
        log = dataclasses.replace(log, token_signals=token_signals.find(path, source_row, taken))
    return log


def read_table(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """Return the `wanted` columns that a file has, the names of all its columns, and what errors call it.

    Raises:
        LogError: for an unknown ending, and as the reader of the file.
        FileNotFoundError: if there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such log: {path}")
    for endings, read in _READERS.items():
        if path.name.lower().endswith(endings):
            return read(path, wanted)
    raise LogError(
        f"{path.name}: expected a name ending in .parquet, .jsonl, .jsonl.gz, .csv or .csv.gz", source=path.name
    )
