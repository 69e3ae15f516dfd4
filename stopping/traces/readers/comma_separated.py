"""CSV files: read by column, and again by row where an error needs the line."""

import csv
import io
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from stopping.traces.errors import LogError, Source
from stopping.traces.readers.opening import CANNOT_READ, open_bytes, refuse_repeats

_BLOCK_BYTES = 1 << 24  # one row must fit in it, and does even with a long answer


def read(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """Return the `wanted` columns that a CSV file has, the names of all its columns, and what errors call it.

    Raises:
        LogError: for a file that cannot be parsed, naming the row and line, or has no rows.
    """
    source = Source(path.name, lambda row: _csv_line(path, row))
    try:
        names = next(_csv_rows(path), (0, []))[1]
        if not names:
            raise source.error("a header and at least one row", "an empty file")
        refuse_repeats(names, source)
        taken = [name for name in names if name in wanted] or names[:1]
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                include_columns=taken,
                column_types=dict.fromkeys(taken, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (*CANNOT_READ, csv.Error) as error:
        raise _csv_error(path, source, error) from error
    if not table.num_rows:
        raise source.error("at least one row after the header", "none")
    return table, names, source


def _csv_error(path: Path, source: Source, cause: Exception) -> LogError:
    """Return an error naming the first row with too many or too few values, which is the usual fault."""
    try:
        rows = _csv_rows(path)
        num_columns = len(next(rows)[1])
        for row, (_, values) in enumerate(rows):
            if len(values) != num_columns:
                return source.error(f"{num_columns} values, as in the header", str(len(values)), row=row)
    except (*CANNOT_READ, StopIteration, csv.Error):
        pass
    return source.error("a CSV file in UTF-8", str(cause))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of the header and of each row; empty lines are not rows."""
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader, first_line = csv.reader(text), 1
        for values in reader:
            if values:
                yield first_line, values
            first_line = reader.line_num + 1


def _csv_line(path: Path, row: int) -> int | None:
    try:
        return next((line for index, (line, _) in enumerate(_csv_rows(path)) if index == row + 1), None)
    except csv.Error:  # a value is longer than the csv module reads: the error names the row alone
        return None
