"""Files of JSON lines, one object a line: as a table, and object by object."""

import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from stopping.traces.errors import LogError, Source
from stopping.traces.readers.opening import open_bytes
from stopping.traces.readers.tables import chunked, from_values

_ROWS_AT_ONCE = 65_536


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} occurs twice")
    return record


def read(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """Return the `wanted` columns that a file of JSON lines has, the names of all its columns, and what errors call it.

    Raises:
        LogError: for a line that is no object, naming the row and line, or a file without lines.
    """
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
    """Return the name of a file of JSON lines in errors, and an iterator over its objects.

    The iterator raises `LogError` for a line that is not an object, naming the row and line, and for a file without lines.
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
    """Yield the number and the content of each line that is not blank."""
    with open_bytes(path) as file:
        for line, content in enumerate(file, start=1):
            if line == 1:
                content = content.removeprefix(b"\xef\xbb\xbf")
            if content.strip():
                yield line, content


def _json_line_number(path: Path, row: int) -> int | None:
    return next((line for index, (line, _) in enumerate(_json_lines(path)) if index == row), None)
