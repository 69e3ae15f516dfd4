"""Finished traces on disk, one line each: what was paid for is kept, whatever happens to the run.

The first line says what was asked for. A line that a kill tore off is dropped; everything before it counts.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VERSION = 1


class Journal:
    """The file beside a recording's output, open for more lines.

    Args:
        path: the file; begun if it is not there.
        options: by name, what the lines depend on.

    Attributes:
        lines: that were there, in order.
        num_torn: lines dropped at the end, 0 or 1.

    Raises:
        ValueError: naming the first option that the file was begun with otherwise, or what is no line of it.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path, self.num_torn = path, 0
        self.lines: list[dict[str, Any]] = []
        head = {"stopping_record": VERSION, "options": json.loads(json.dumps(options))}
        kept = self._read(head) if path.exists() else 0
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(kept)
        self._file.seek(kept)
        if not kept:
            self._write(head)

    def __enter__(self) -> Self:
        """Open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it stays."""
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        self._write(line)
        self.lines.append(dict(line))

    def remove(self) -> None:
        """Delete the file: what it held is safe elsewhere."""
        self._file.close()
        self.path.unlink()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, head: Mapping[str, Any]) -> int:
        """Take the whole lines; returns the bytes they take."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self.num_torn = int(len(whole) < len(content))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                found = json.loads(line)
                if not isinstance(found, dict) or (number == 1 and "stopping_record" not in found):
                    raise ValueError("no such object")
            except ValueError:
                raise ValueError(
                    f"{self.path.name}, line {number}: expected a line of a recording, got {line[:60]!r}; "
                    "move the file away to begin again"
                ) from None
            if number == 1:
                self._compare(found, head)
            else:
                self.lines.append(found)
        return len(whole)

    def _compare(self, found: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        if found["stopping_record"] != VERSION:
            raise ValueError(f"{self.path.name}: expected version {VERSION}, got {found['stopping_record']!r}")
        theirs, ours = found.get("options") or {}, head["options"]
        for name in dict.fromkeys([*ours, *theirs]):
            if theirs.get(name) != ours.get(name):
                raise ValueError(
                    f"{name}: {self.path.name} was begun with {theirs.get(name)!r}, got {ours.get(name)!r}; "
                    "go on with the same, or move that file away to begin again"
                )
