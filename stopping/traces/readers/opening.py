"""What the readers of files share: opening a file, and refusing what none of them can read."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from stopping.traces.errors import Source

CANNOT_READ = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading bytes, decompressed if its name ends in .gz."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def refuse_repeats(names: list[str], source: Source) -> None:
    """Refuse a table that names a column twice."""
    for name in names:
        if names.count(name) > 1:
            raise source.error("each column once", f"{names.count(name)} of them", column=name)
