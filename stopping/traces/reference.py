"""The rule that produced the answer that counts: one value, with one text for logs, options and saved policies."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from stopping.traces.errors import LogError, shown

MAX_AMOUNT = 10**9 - 1
PATTERN = r"single|logged|majority@[1-9][0-9]{0,8}|budget=[1-9][0-9]{0,8}"  # a number of at most nine digits
_SIGN = {"majority": "@", "budget": "="}


@dataclass(frozen=True)
class Reference:
    """The reference rule: how the answer that counts was produced. Losses are measured against it.

    Its text, which `str` gives and `parse` reads, is one of

        single        the answer of one sample
        majority@n    the most frequent answer of n samples
        budget=B      the answer after at most B tokens of thought
        logged        the answer that was logged, by a rule that the log does not state

    Attributes:
        kind: the word.
        amount: n samples or B tokens, from 1 to `MAX_AMOUNT`; 0 for the other two.

    Raises:
        LogError: for another kind, or an amount that does not fit it.
    """

    kind: Literal["single", "majority", "budget", "logged"]
    amount: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(PATTERN, str(self)):
            raise _error(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference with this text.

        Raises:
            LogError: listing the four forms.
        """
        if not isinstance(text, str) or not re.fullmatch(PATTERN, text):
            raise _error(text)
        kind, _, amount = text.replace("=", "@").partition("@")
        return cls(kind, int(amount or 0))  # type: ignore[arg-type]

    @classmethod
    def vote(cls, num_samples: int) -> Self:
        """Return the majority of so many samples; `single` for one."""
        return cls("single") if num_samples == 1 else cls("majority", num_samples)

    def __str__(self) -> str:
        sign = _SIGN.get(self.kind, "@" if self.amount else "")
        return f"{self.kind}{sign}{self.amount}" if sign else self.kind


def _error(got: object) -> LogError:
    return LogError(
        "reference: expected 'single', 'majority@n', 'budget=B' or 'logged', with n samples or B tokens from 1 to "
        f"{MAX_AMOUNT:,}, got {shown(got)}"
    )
