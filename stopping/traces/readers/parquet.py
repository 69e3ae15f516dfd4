"""Parquet files."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from stopping.traces.errors import Source
from stopping.traces.readers.opening import CANNOT_READ, refuse_repeats


def read(path: Path, wanted: Collection[str]) -> tuple[pa.Table, list[str], Source]:
    """Return the `wanted` columns that a Parquet file has, the names of all its columns, and what errors call it.

    Raises:
        LogError: for a file that cannot be parsed, or has no rows.
    """
    source = Source(path.name)
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            refuse_repeats(names, source)
            table = file.read(columns=[name for name in names if name in wanted])
            if not file.metadata.num_rows:
                raise source.error("at least one row", "an empty table")
            return table, names, source
    except CANNOT_READ as error:
        raise source.error("a Parquet file", str(error)) from error
