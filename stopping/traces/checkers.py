"""Checkers: functions that compare an answer with its target and say whether it is right."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stopping.traces.answers import Equality, numeric_key
from stopping.traces.errors import LogError, shown

# The name of a built-in checker, "none", or a function from answer and target to whether the answer is right.
Check = str | Callable[[str, str], bool]

_LETTER = re.compile(r"[(\[*]*([A-Ja-j])[)\].:*]*|[(\[*]*([A-J])[)\].:*]+\s.*", re.DOTALL)


@dataclass(frozen=True)
class Checker:
    """Compares answers with a target and, by the same rule, with one another.

    Fields:
        name: "exact", "numeric", "choice" or "custom".
        judge: returns whether an answer is right, given its target.
        answers: which answers are equal, as `load_log` takes it.
    """

    name: str
    judge: Callable[[str, str], bool]
    answers: Equality

    def correct(self, answer: str | None, target: str) -> bool:
        """Return whether the answer is right; a missing answer is wrong.

        Raises `LogError` for an invalid target, or if the user's function fails.
        """
        if answer is None:
            return False
        try:
            right = self.judge(answer, target)
        except LogError:
            raise
        except Exception as error:  # the user's own code: anything
            raise LogError(f"check: the function failed on {shown(answer)}, {shown(target)}: {error!r}") from error
        if not isinstance(right, bool | np.bool_):
            raise LogError(f"check: expected the function to return true or false, got {shown(right)}")
        return bool(right)


def checker(check: Check) -> Checker | None:
    """Return the checker with this name, or a checker for this function; `None` for "none".

    "exact": the stripped texts are the same. "numeric": both are the same number ("1,000" and "1000", "1/2" and "0.50";
    see `answers.numeric_key`); a target that is not a number is refused, because no answer would equal it. "choice": both
    name the same letter A to J, as read by `choice_key`; a target without a letter is refused.

    Raises `LogError` for another name.
    """
    if callable(check):
        return Checker("custom", check, "exact")
    if check == "none":
        return None
    if check not in CHECKERS:
        names = ", ".join(map(repr, CHECKERS))
        raise LogError(f"check: expected {names}, 'none' or a function of answer and target, got {shown(check)}")
    return CHECKERS[check]


def choice_key(text: str) -> str | None:
    """Return the letter A to J that a text names, or `None`.

    The letter is alone, in brackets, bold or followed by a full stop ("b", "(B)", "**B**", "B."), or marked like this before
    the text of the choice ("B) Paris"). "A dog" names no letter. Use `extraction` to find the letter in a sentence.
    """
    match = _LETTER.fullmatch(text.strip())
    return None if match is None else (match[1] or match[2]).upper()


def _exact(answer: str, target: str) -> bool:
    return answer.strip() == target.strip()


def _numeric(answer: str, target: str) -> bool:
    number = numeric_key(target)
    if not isinstance(number, Fraction):
        raise LogError(f"check 'numeric': expected a number as target, got {shown(target)}")
    return numeric_key(answer) == number


def _choice(answer: str, target: str) -> bool:
    letter = choice_key(target)
    if letter is None:
        raise LogError(f"check 'choice': expected a letter A to J as target, got {shown(target)}")
    return choice_key(answer) == letter


CHECKERS = {
    "exact": Checker("exact", _exact, "exact"),
    "numeric": Checker("numeric", _numeric, "numeric"),
    "choice": Checker("choice", _choice, choice_key),
}
