"""Log files: Parquet, JSON lines and CSV, read by column; the line of a row is found again when an error needs it."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stopping.traces.errors import LogError, Source
from stopping.traces.tables import chunked, from_values

_ROWS_AT_ONCE = 65_536
_CSV_BLOCK_BYTES = 1 << 24  # one row must fit: long answers do, whole generations need not be read
_CANNOT_READ = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


def read(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """The `wanted` columns a file has, the names of all its columns, and how errors call it.

    Raises `LogError` for an unknown ending, a file that cannot be parsed (naming the row and line) or has no rows,
    `FileNotFoundError` where there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such log: {path}")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path, wanted)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _read_json_lines(path, wanted)
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, wanted)
    raise LogError(
        f"{path.name}: expected a name ending in .parquet, .jsonl, .jsonl.gz, .csv or .csv.gz", source=path.name
    )


def _read_parquet(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    source = Source(path.name)
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            _refuse_repeats(names, source)
            table = file.read(columns=[name for name in names if name in wanted])
            if not file.metadata.num_rows:
                raise source.error("at least one row", "an empty table")
            return table, names, source
    except _CANNOT_READ as error:
        raise source.error("a Parquet file", str(error)) from error


def _refuse_repeats(names: list[str], source: Source) -> None:
    for name in names:
        if names.count(name) > 1:
            raise source.error("each column once", f"{names.count(name)} of them", column=name)


def _read_csv(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    source = Source(path.name, lambda row: _csv_line(path, row))
    try:
        names = next(_csv_rows(path), (0, []))[1]
        if not names:
            raise source.error("a header and at least one row", "an empty file")
        _refuse_repeats(names, source)
        taken = [name for name in names if name in wanted] or names[:1]
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                include_columns=taken,
                column_types=dict.fromkeys(taken, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (*_CANNOT_READ, csv.Error) as error:
        raise _csv_error(path, source, error) from error
    if not table.num_rows:
        raise source.error("at least one row after the header", "none")
    return table, names, source


def _csv_error(path: Path, source: Source, cause: Exception) -> LogError:
    """Name the first row with too many or too few values, which is what usually is wrong."""
    try:
        rows = _csv_rows(path)
        num_columns = len(next(rows)[1])
        for row, (_, values) in enumerate(rows):
            if len(values) != num_columns:
                return source.error(f"{num_columns} values, as in the header", str(len(values)), row=row)
    except (*_CANNOT_READ, StopIteration, csv.Error):
        pass
    return source.error("a CSV file in UTF-8", str(cause))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of the header and of each row; empty lines are no rows."""
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader, first_line = csv.reader(text), 1
        for values in reader:
            if values:
                yield first_line, values
            first_line = reader.line_num + 1


def _csv_line(path: Path, row: int) -> int | None:
    try:
        return next((line for index, (line, _) in enumerate(_csv_rows(path)) if index == row + 1), None)
    except csv.Error:  # a value longer than the csv module reads: the row must do
        return None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} stands there twice")
    return record


def _read_json_lines(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    source, records = json_records(path)
    names: dict[str, None] = {}  # an ordered set
    block: dict[str, list[Any]] = {name: [] for name in wanted}
    pieces: dict[str, list[pa.Array]] = {name: [] for name in wanted}
    num_rows = 0

    def end_block() -> None:
        for name, values in block.items():
            pieces[name].append(from_values(values, name, source, num_rows - len(values)))
            values.clear()

    for num_rows, record in enumerate(records, start=1):
        if record.keys() - names.keys():
            names.update(dict.fromkeys(record))
        for name, values in block.items():
            values.append(record.get(name))
        if num_rows % _ROWS_AT_ONCE == 0:
            end_block()
    end_block()
    return pa.table({name: chunked(pieces[name]) for name in wanted if name in names}), list(names), source


def json_records(path: Path) -> tuple[Source, Iterator[dict[str, Any]]]:
    """How errors call a file of JSON lines, and its objects, one at a time.

    The iterator raises `LogError` for a line that is no object (naming the row and line), and where there is none.
    """
    source = Source(path.name, lambda row: _json_line_number(path, row))
    return source, _records(path, source)


def _records(path: Path, source: Source) -> Iterator[dict[str, Any]]:
    num_rows = 0
    try:
        for num_rows, (line, content) in enumerate(_json_lines(path), start=1):
            try:
                record = json.loads(content.decode(), object_pairs_hook=_each_key_once)
            except (ValueError, RecursionError) as error:
                raise _at_line(source, num_rows, line, "a JSON object", f"{content[:60]!r} ({error})") from error
            if type(record) is not dict:
                raise _at_line(source, num_rows, line, "a JSON object", content[:60].decode(errors="replace").strip())
            yield record
    except (OSError, EOFError, zlib.error) as error:
        raise source.error("lines of JSON", str(error)) from error
    if not num_rows:
        raise source.error("at least one line", "an empty file")


def _at_line(source: Source, row: int, line: int, expected: str, got: str) -> LogError:
    return Source(source.name, lambda _: line).error(expected, got, row=row - 1)


def _json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of the lines that are not blank."""
    with _open(path) as file:
        for line, content in enumerate(file, start=1):
            if line == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            if content.strip():
                yield line, content


def _json_line_number(path: Path, row: int) -> int | None:
    return next((line for index, (line, _) in enumerate(_json_lines(path)) if index == row), None)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]
