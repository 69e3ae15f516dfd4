"""The part of a text that is wanted: the answer in a response, the number in a target, the problem in a request's name."""

import re
from collections import deque
from collections.abc import Callable

from stopping.traces.errors import LogError, shown

# A regular expression, or a function from the text to the part (`None`: it is not there).
Extraction = str | Callable[[str], str | None]


def extractor(extraction: Extraction, name: str) -> Callable[[str], str | None]:
    r"""The function from a text to its wanted part, stripped; `None` where there is none.

    Of a regular expression, it is the first group that took part in the last match, or the whole match where there is
    no group: `r"\\boxed\{([^{}]*)\}"` finds the answer a response ends on, not the guess it began with, and
    `r"(?s)</think>.*\\boxed\{([^{}]*)\}"` none that was only thought of.

    Args:
        extraction: the expression or function.
        name: the argument it came as, for errors.

    Raises `LogError` for what is neither; the function returned raises it where the user's fails.
    """
    if isinstance(extraction, str):
        try:
            pattern = re.compile(extraction)
        except (re.error, RecursionError, OverflowError) as error:
            raise LogError(f"{name}: expected a regular expression, got {shown(extraction)} ({error})") from error
        return lambda text: _last(pattern, text)
    if not callable(extraction):
        raise LogError(f"{name}: expected a regular expression or a function, got {shown(extraction)}")

    def extract(text: str) -> str | None:
        try:
            part = extraction(text)
        except Exception as error:  # the user's own code: anything
            raise LogError(f"{name}: the function failed on {shown(text)}: {error!r}") from error
        if not isinstance(part, str | None):
            raise LogError(f"{name}: expected the function to give a text or None for {shown(text)}, got {shown(part)}")
        return part if part is None else part.strip()

    return extract


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    match = next(iter(deque(pattern.finditer(text), maxlen=1)), None)
    if match is None:
        return None
    return next((group for group in match.groups() if group is not None), match[0]).strip()
