"""Collecting responses one by one, with their answers read and judged, until they become a `TraceLog`."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stopping.traces.answers import Equality
from stopping.traces.checkers import Checker
from stopping.traces.errors import LogError
from stopping.traces.readers.long_form import NO_ANSWER_VALUES, from_columns
from stopping.traces.readers.records import Record
from stopping.traces.trace_log import TraceLog


@dataclass(frozen=True)
class AnswerReader:
    """Finds the answer in a response, and judges it.

    Fields:
        extract: returns the answer in a response; `None` if answers are not extracted.
        checker: judges answers; `None` if they are not judged.
        no_answer_values: texts that mean no answer.
    """

    extract: Callable[[str], str | None] | None
    checker: Checker | None
    no_answer_values: tuple[str, ...] = NO_ANSWER_VALUES

    def answer(self, record: Record, field: str, text: str) -> str | None:
        """Return the answer in the response in this field; `None` if there is none."""
        if self.extract is None:
            return None
        with record.at(field):
            return self.valid(self.extract(text))

    def valid(self, answer: str | None) -> str | None:
        """Return the answer, or `None` for a text that means no answer."""
        return None if answer is None or answer.strip() in self.no_answer_values else answer

    def correct(self, record: Record, field: str, answer: str | None, target: str) -> bool | None:
        """Return whether the answer is right; `field` has the target."""
        if self.checker is None:
            return None
        with record.at(field):
            return self.checker.correct(answer, target)


class Responses:
    """The columns of a log with one row a response; a problem's samples are in order of arrival."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("problem", "length_tokens", "thought_tokens", "answer", "correct", "censored")
        }
        self.groups: dict[str, list[str | None]] = {}
        self.set_aside: Counter[str] = Counter()

    def add(
        self,
        problem: str,
        length_tokens: int,
        *,
        answer: str | None,
        correct: bool | None,
        censored: bool | None,
        groups: Mapping[str, str | None],
        thought_tokens: int | None = None,
    ) -> None:
        """Add a row; `None` means unknown, or no answer. Every row has the same groups."""
        row = (problem, length_tokens, thought_tokens, answer, correct, censored)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        for name, label in groups.items():
            self.groups.setdefault(name, []).append(label)

    def log(self, source: str, answers: Equality | None, cap_tokens: int | None = None) -> TraceLog:
        """Return the log.

        Args:
            source: the name of where the responses came from, for errors.
            answers: which answers are equal; `None` if answers were not extracted.
            cap_tokens: the cap that all responses had.

        Raises `LogError` if there is no response, saying what was set aside.
        """
        if not self.columns["problem"]:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in self.set_aside.items())
            raise LogError(f"{source}: expected at least one response, got none ({reasons} set aside)", source=source)
        without = {"answer"} if answers is None else set()
        if all(thought is None for thought in self.columns["thought_tokens"]):
            without.add("thought_tokens")
        log = from_columns(
            {name: column for name, column in self.columns.items() if name not in without} | self.groups,
            groups=tuple(self.groups),
            answers=answers,
            cap_tokens=cap_tokens,
        )
        return dataclasses.replace(log, set_aside=dict(self.set_aside))
