"""Which answers are right: an answer beside its target."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stopping.traces.answers import Equality, numeric_key
from stopping.traces.errors import LogError, shown

# The name of one of our checkers, "none", or a function of answer and target that says whether the answer is right.
Check = str | Callable[[str, str], bool]

_LETTER = re.compile(r"[(\[*]*([A-Ja-j])[)\].:*]*|[(\[*]*([A-J])[)\].:*]+\s.*", re.DOTALL)


@dataclass(frozen=True)
class Checker:
    """Compares answers with a target, and, in the same way, with one another.

    Fields:
        name: "exact", "numeric", "choice" or "custom".
        judge: from an answer and its target to whether the answer is right.
        answers: which answers are equal, as `load_log` takes it.
    """

    name: str
    judge: Callable[[str, str], bool]
    answers: Equality

    def correct(self, answer: str | None, target: str) -> bool:
        """Whether the answer is right; no answer is not.

        Raises `LogError` for a target that cannot be one, or where the user's function fails.
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
            raise LogError(f"check: expected the function to give true or false, got {shown(right)}")
        return bool(right)


def checker(check: Check) -> Checker | None:
    """The checker that a name or a function stands for; `None` for "none".

    "exact": the stripped texts are the same. "numeric": both are the same number ("1,000" and "1000", "1/2" and "0.50";
    see `answers.numeric_key`); a target that is no number is refused, as nothing would equal it. "choice": both name the
    same of the letters A to J, as `choice_key` reads them; a target without is refused.

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
    """The letter A to J that a text names, or `None`.

    It stands alone, in brackets, bold or before a full stop ("b", "(B)", "**B**", "B."), or marked so before the text of
    the choice ("B) Paris"). "A dog" names none, and a sentence is left to `extraction`.
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
