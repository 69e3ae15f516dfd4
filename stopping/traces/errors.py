"""Errors in logs: what is wrong, and where."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MAX_SHOWN_CHARACTERS = 80  # a longer value is cut: the row number finds the rest


class LogError(ValueError):
    """Raised for a log that is not valid.

    The message names the file, the row (counted from 1, without the header), the line of a text file, the column, the
    expected value and the value found. The same facts are attributes, `None` where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(message)
        self.source = source
        self.row = row
        self.line = line
        self.column = column


def shown(value: object) -> str:
    """Return the value as errors quote it: strings in quotes, a missing value as null, long values cut."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[: _MAX_SHOWN_CHARACTERS - 3] + "..."


def listed(names: Iterable[object], most: int = 20) -> str:
    """Return the first `most` names in quotes, separated by commas."""
    quoted = [shown(name) for name in names]
    return ", ".join(quoted[:most]) + (f", ... ({len(quoted)} in all)" if len(quoted) > most else "") or "none"


@dataclass(frozen=True)
class Source:
    """Where a table came from, as errors name it.

    Fields:
        name: the file's name, or "columns" for a table in memory.
        line_of: returns the line number (from 1) of a data row (from 0) in a text file; `None` for other sources.
    """

    name: str
    line_of: Callable[[int], int | None] | None = None

    def error(
        self, expected: str, got: str | None = None, *, row: int | None = None, column: str | None = None
    ) -> LogError:
        """Return the error to raise; `row` counts from 0 here and from 1 in the message."""
        place = [self.name]
        line = self.line_of(row) if self.line_of and row is not None else None
        if row is not None:
            place.append(f"row {row + 1}" + (f" (line {line})" if line is not None else ""))
        if column is not None:
            place.append(f"column {column!r}")
        message = f"{', '.join(place)}: expected {expected}" + (f", got {got}" if got is not None else "")
        return LogError(message, source=self.name, row=None if row is None else row + 1, line=line, column=column)
