"""Extraction of a part of a text: the answer in a response, the number in a target, the problem in the name of a request."""

import re
from collections import deque
from collections.abc import Callable

from stopping.traces.errors import LogError, shown

# A regular expression, or a function from the text to the part (`None` if the text has no such part).
Extraction = str | Callable[[str], str | None]


def extractor(extraction: Extraction, name: str) -> Callable[[str], str | None]:
    r"""Return a function from a text to the part of it that is wanted, stripped, or `None` if the text has no such part.

    A regular expression gives the first group that took part in the last match, or the whole match if it has no group:
    `r"\\boxed\{([^{}]*)\}"` finds the answer at the end of a response and not an earlier guess, and
    `r"(?s)</think>.*\\boxed\{([^{}]*)\}"` ignores answers inside the thought.

    Args:
        extraction: the expression or function.
        name: the name of the argument, for errors.

    Raises `LogError` for anything else. The function returned raises it if the user's function fails.
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
            raise LogError(
                f"{name}: expected the function to return a text or None for {shown(text)}, got {shown(part)}"
            )
        return part if part is None else part.strip()

    return extract


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    match = next(iter(deque(pattern.finditer(text), maxlen=1)), None)
    if match is None:
        return None
    return next((group for group in match.groups() if group is not None), match[0]).strip()
