"""Finished traces on disk, one line each, so that an interrupted recording loses nothing that was paid for.

The first line holds the options of the recording. An incomplete last line, left by a killed process, is dropped.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VERSION = 1


class Journal:
    """A journal of finished traces next to a recording's output, open for appending.

    Args:
        path: the file; created if it does not exist.
        options: the options that the lines depend on, by name.

    Attributes:
        lines: the lines so far, in order.
        num_torn: incomplete lines dropped at the end, 0 or 1.

    Raises:
        ValueError: naming the first option that differs from those of the file, or an invalid line.
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
        """Return the journal, which is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file without deleting it."""
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        self._write(line)
        self.lines.append(dict(line))

    def remove(self) -> None:
        """Delete the file, once its content is saved elsewhere."""
        self._file.close()
        self.path.unlink()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, head: Mapping[str, Any]) -> int:
        """Read the complete lines; return their size in bytes."""
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
                    "move the file away to start again"
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
                    f"{name}: {self.path.name} was started with {theirs.get(name)!r}, got {ours.get(name)!r}; "
                    "continue with the same value, or move the file away to start again"
                )
