"""The columns and rows of a table that a log is read from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stopping.traces.errors import LogError, Source, listed
from stopping.traces.readers.columns import Column
from stopping.traces.trace_log import as_labels

ColumnNames = Mapping[str, str | Sequence[str]]
# From a path or a table and the wanted columns to those that it has, the names of all its columns, and its name in errors.
Reader = Callable[[Any, Collection[str]], tuple[pa.Table, list[str], Source]]


@dataclass(frozen=True)
class Selection:
    """Columns of a table under the names of a log, and the rows selected.

    Fields:
        source: the name of the table, for errors.
        table: the rows selected.
        names: from the log's name of a column to the table's.
        problem: the table's names of the columns that together identify a problem.
        rows: [rows] int64, the row of the source of each row.
        set_aside: number of rows left out, by reason.
    """

    source: Source
    table: pa.Table
    names: Mapping[str, str]
    problem: tuple[str, ...]
    rows: np.ndarray
    set_aside: Mapping[str, int]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def column(self, name: str) -> Column:
        """Return the column with this name in a log."""
        return self.named(self.names[name])

    def named(self, name: str) -> Column:
        """Return the column with this name in the table."""
        values = self.table.column(name)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_string_view(values.type):
            values = values.cast(pa.string())
        return Column(self.source, name, values, self.rows)

    def problem_codes(self) -> tuple[np.ndarray, list[str]]:
        """Return [rows] int64 codes into the names of problems, and the names as they appear; parts are joined with "/"."""
        parts = [self._problem_part(name) for name in self.problem]
        codes, names = parts[0][0].astype(np.int64), parts[0][1]
        for more, texts in parts[1:]:
            pairs = pa.array(codes * len(texts) + more).dictionary_encode()
            codes = pairs.indices.to_numpy().astype(np.int64)
            names = [f"{names[pair // len(texts)]}/{texts[pair % len(texts)]}" for pair in pairs.dictionary.to_pylist()]
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise LogError(
                f"{self.source.name}: two problems are both called {twice!r} when {listed(self.problem)} are joined"
            )
        return codes, names

    def _problem_part(self, name: str) -> tuple[np.ndarray, list[str]]:
        column = self.named(name)
        codes, texts = column.texts()
        missing = column.missing()
        if missing.any():
            raise column.error(int(np.argmax(missing)), "the name of a problem")
        return codes, texts

    def without(self, out: np.ndarray, reason: str) -> "Selection":
        """Return the selection without the rows `out` [rows] bool, which are counted under `reason`."""
        if not out.any():
            return self
        set_aside = {**self.set_aside, reason: int(out.sum())}
        return Selection(
            self.source, self.table.filter(pa.array(~out)), self.names, self.problem, self.rows[~out], set_aside
        )


def select(
    read: Reader,
    data: Any,
    *,
    canonical: Sequence[str],
    required: Collection[str],
    others: Mapping[str, str],
    columns: ColumnNames | None,
    where: Mapping[str, Any] | None,
) -> Selection:
    """Read `data` by `read` (`read_table` or `tables.as_table`), resolve names, then select rows by `where`.

    Without `columns` the table has the names of a log. With it, only the columns mapped are read, because a column with
    one of these names may mean something else in the file; `others` (groups, signals) are read in any case, under the name
    given there unless mapped. Raises `LogError` for a mapping of an unknown name, and for a missing column.
    """
    mapped = [name for value in (columns or {}).values() for name in ([value] if isinstance(value, str) else value)]
    wanted = {*(canonical if columns is None else mapped), *others.values(), *(where or {})}
    table, available, source = read(data, wanted)
    known = {*canonical, *others}
    for name in columns or {}:
        if name not in known:
            raise LogError(
                f"columns: expected our names {listed(known)}, got {name!r}; the mapping goes from our name to the file's"
            )
    mapping: dict[str, str | Sequence[str]] = (
        {} if columns is not None else {name: name for name in canonical if name in available}
    )
    mapping |= {**others, **(columns or {})}
    for name in required:
        if name not in mapping:
            raise LogError(
                f"{source.name}: no column {name!r}; there are: {listed(available)}. "
                f"If one of them is it, say so: columns={{{name!r}: '<its name>', ...}}",
                source=source.name,
                column=name,
            )
    problem = mapping.pop("problem")
    problem = (problem,) if isinstance(problem, str) else tuple(problem)
    for name, theirs in mapping.items():
        if not isinstance(theirs, str):
            raise LogError(f"columns: expected one column for {name!r} (only 'problem' may be several), got {theirs!r}")
    theirs_wanted: list[Any] = [*problem, *mapping.values(), *(where or {})]
    for theirs in theirs_wanted:
        if theirs not in available:
            raise LogError(
                f"{source.name}: no column {theirs!r}; there are: {listed(available)}",
                source=source.name,
                column=str(theirs),
            )
    if not problem:
        raise LogError("columns: expected at least one column for 'problem'")
    selection = Selection(
        source, table, {name: str(theirs) for name, theirs in mapping.items()}, problem, np.arange(table.num_rows), {}
    )
    for name, labels in (where or {}).items():
        selection = _keep(selection, name, labels)
    return selection


def _keep(selection: Selection, name: str, labels: Any) -> Selection:
    codes, texts = selection.named(name).texts()
    known: list[str | None] = [*texts, None]  # code -1 is the last
    for label in as_labels(labels):
        if label not in known:
            raise LogError(f"{selection.source.name}: no row has {name} = {label!r}; there are: {listed(texts)}")
    keep = np.array([text in as_labels(labels) for text in known])[codes]
    kept = selection.without(~keep, f"where: {name} is not {labels!r}")
    if not len(kept.rows):
        raise LogError(f"{selection.source.name}: no row has {name} = {labels!r}")
    return kept
