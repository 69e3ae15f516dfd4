"""Records: lines of JSON with nested fields, read by path. Errors name file, row and field."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stopping.traces.errors import LogError, Source, shown
from stopping.traces.readers.json_lines import json_records


@dataclass(frozen=True)
class Record:
    """One object of a file of JSON lines.

    Fields:
        source: the name of the file, for errors.
        row: from 0.
        content: the object. A path names a field of it: `"response.body.choices.0.message"`.
    """

    source: Source
    row: int
    content: dict[str, Any]

    def get(self, field: str) -> Any:
        """Return the value of the field; `None` if there is none."""
        value: Any = self.content
        for part in field.split("."):
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value

    def entries(self, field: str, expected: str) -> list[Any]:
        """Return the non-empty list in the field. Raises `LogError` for anything else."""
        value = self.get(field)
        if not isinstance(value, list) or not value:
            raise self.error(field, expected)
        return value

    def text(self, field: str, expected: str = "a text") -> str:
        """Return the text in the field; a whole number becomes a text. Raises `LogError` for anything else."""
        value = self.get(field)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.error(field, expected)
        return str(value)

    def count(self, field: str, maximum: int) -> int | None:
        """Return the whole number from 0 to `maximum` in the field, `None` if missing. Raises `LogError` for anything else."""
        value = self.get(field)
        if value is not None and (type(value) is not int or not 0 <= value <= maximum):
            raise self.error(field, f"a whole number of tokens from 0 to {maximum}")
        return value

    def error(self, field: str, expected: str, got: str | None = None) -> LogError:
        """Return the error for the field; `got` is its value unless given."""
        return self.source.error(expected, shown(self.get(field)) if got is None else got, row=self.row, column=field)

    @contextmanager
    def at(self, field: str) -> Iterator[None]:
        """Add file, row and field to an error about the value of the field."""
        try:
            yield
        except LogError as error:
            line = self.source.line_of(self.row) if self.source.line_of else None
            place = f"{self.source.name}, row {self.row + 1}" + (f" (line {line})" if line is not None else "")
            raise LogError(
                f"{place}, column {field!r}: {error}",
                source=self.source.name, row=self.row + 1, line=line, column=field,
            ) from error  # fmt: skip


def records(path: Path) -> Iterator[Record]:
    """Yield the lines of a file ending in .jsonl or .jsonl.gz.

    Raises `LogError` for another ending, and as `json_lines.json_records`; `FileNotFoundError` if there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such log: {path}")
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise LogError(f"{path.name}: expected a name ending in .jsonl or .jsonl.gz", source=path.name)
    source, contents = json_records(path)
    for row, content in enumerate(contents):
        yield Record(source, row, content)


def as_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return one path or several as a list. Raises `LogError` if there are none or one is given twice."""
    several = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not several or len(set(several)) < len(several):
        raise LogError(f"paths: expected one or several files, each once, got {[path.name for path in several]}")
    return several
