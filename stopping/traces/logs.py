"""The door: everything that becomes a `TraceLog` comes in here."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stopping.traces import storage, token_signals
from stopping.traces.answers import Equality
from stopping.traces.errors import LogError, Source
from stopping.traces.files import read
from stopping.traces.long_form import CANONICAL, NO_ANSWER_VALUES, REQUIRED, build
from stopping.traces.selection import ColumnNames, select, wanted_columns
from stopping.traces.tables import IN_MEMORY, as_table
from stopping.traces.trace_log import TraceLog


def load(
    path: str | Path,
    columns: ColumnNames | None = None,
    *,
    groups: Sequence[str] = (),
    answers: Equality | None = None,
    no_answer_values: Collection[str] = NO_ANSWER_VALUES,
    cap_tokens: int | str | None = None,
    reference: str | None = None,
    where: Mapping[str, Any] | None = None,
    set_aside_incomplete: bool = False,
) -> TraceLog:
    """Read a log with one row a completion: Parquet, JSON lines (.jsonl, .jsonl.gz) or CSV (.csv, .csv.gz).

    Our columns: `problem` and `length_tokens` (required); `sample` (default: file order), `correct` (default: unknown),
    `answer`, `answered` (default: there is an answer; without an answer column: not censored), `censored` (default: at
    the cap, if there is one), `cap_tokens`, `answer_label` (equal labels in a problem: equal answers), and of live runs
    `policy_id`, `would_stop_at`, `propensity`. A file that `save` wrote comes back as it was; arguments given here
    change it.

    Args:
        path: the file; its ending says what it is.
        columns: our name -> the file's name; several names for `problem` are joined with "/". With it, only what it
            names is taken; without it, our own names are looked for.
        groups: further columns with one label a problem, to select by (`log.where`).
        answers: which answers are equal: "exact" (the stripped text, the default), "numeric" (numbers as numbers), or a
            function from text to a key (`None`: no valid answer). By default an `answer_label` column decides, if there
            is one.
        no_answer_values: texts that stand for no answer.
        cap_tokens: the cap on length in tokens, or the name of a column with it; a longer row is an error.
        reference: how the answer that counts is produced: "single", "majority@n", "budget=B" or "logged"; by default
            what the log shows, "single" for one sample a problem, "majority@n" for up to n with answers, else "logged".
        where: the file's column -> label or labels to keep; other rows are counted in `set_aside`.
        set_aside_incomplete: leave out, and count in `set_aside`, rows without a length instead of refusing the file.

    Raises `LogError`, naming file, row, column, expected and got, for anything that cannot be taken at its word;
    `FileNotFoundError` without a file.
    """
    path = Path(path)
    options = _Options(groups, answers, no_answer_values, cap_tokens, reference, where, set_aside_incomplete)
    stored = storage.description(path) if columns is None and path.suffix.lower() == ".parquet" else None
    if stored is not None:
        if stored.checkpoints and (answers is not None or where is not None):
            raise LogError(
                f"{path.name}: the labels of its checkpoints belong to whole problems and their answers as saved; "
                "load it without `answers` and `where`, then select with log.where(...)"
            )
        options = dataclasses.replace(options, groups=tuple(dict.fromkeys([*stored.groups, *options.groups])))
    table, available, source = read(path, options.wanted(columns))
    log, source_row = options.build(table, available, source, columns)
    if stored is not None:
        log = storage.complete(log, path, stored, source_row, answers, cap_tokens, reference)
    if path.suffix.lower() == ".parquet":
        taken = {name for name in available if name.startswith(storage.CHECKPOINT)} if stored is not None else set()
        log = dataclasses.replace(log, token_signals=token_signals.find(path, source_row, taken))
    return log


def from_columns(
    data: Any,
    columns: ColumnNames | None = None,
    *,
    groups: Sequence[str] = (),
    answers: Equality | None = None,
    no_answer_values: Collection[str] = NO_ANSWER_VALUES,
    cap_tokens: int | str | None = None,
    reference: str | None = None,
    where: Mapping[str, Any] | None = None,
    set_aside_incomplete: bool = False,
) -> TraceLog:
    """The log in a dictionary of columns, a pandas DataFrame or a pyarrow Table; arguments and errors as in `load`."""
    options = _Options(groups, answers, no_answer_values, cap_tokens, reference, where, set_aside_incomplete)
    table, available = as_table(data, options.wanted(columns))
    return options.build(table, available, IN_MEMORY, columns)[0]


@dataclasses.dataclass(frozen=True)
class _Options:
    groups: Sequence[str]
    answers: Equality | None
    no_answer_values: Collection[str]
    cap_tokens: int | str | None
    reference: str | None
    where: Mapping[str, Any] | None
    set_aside_incomplete: bool

    def __post_init__(self) -> None:
        if isinstance(self.groups, str):
            raise LogError(f"groups: expected a sequence of names, got {self.groups!r}; write ({self.groups!r},)")
        for name in self.groups:
            if name in CANONICAL or name.startswith(storage.CHECKPOINT):
                raise LogError(
                    f"groups: {name!r} is a column of the log itself; give it another name and map it in columns="
                )
        if isinstance(self.no_answer_values, str):
            raise LogError(f"no_answer_values: expected several texts, got {self.no_answer_values!r}")

    def others(self) -> dict[str, str]:
        names = {name: name for name in self.groups}
        return names | ({"cap_tokens": self.cap_tokens} if isinstance(self.cap_tokens, str) else {})

    def wanted(self, columns: ColumnNames | None) -> set[str]:
        return wanted_columns(CANONICAL, self.others(), columns, self.where)

    def build(
        self, table: pa.Table, available: Sequence[str], source: Source, columns: ColumnNames | None
    ) -> tuple[TraceLog, Any]:
        selection = select(
            table,
            available,
            source,
            canonical=CANONICAL,
            required=REQUIRED,
            others=self.others(),
            columns=columns,
            where=self.where,
        )
        return build(
            selection,
            groups=self.groups,
            answers=self.answers,
            no_answer_values=self.no_answer_values,
            cap_tokens=None if isinstance(self.cap_tokens, str) else self.cap_tokens,
            reference=self.reference,
            set_aside_incomplete=self.set_aside_incomplete,
        )
