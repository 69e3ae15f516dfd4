"""How many tokens a server has room for, found by requesting fewer after a refusal.

vLLM and others refuse a request whose prompt and `max_tokens` together exceed the context, while llama.cpp generates what fits.
The wording of such a refusal is not specified, so it serves only as a hint; what counts is which numbers are refused.
"""

import re
from collections.abc import Sequence
from typing import Any

from stopping.adapters.server.client import REFUSALS, Completion, Upstream, UpstreamError

# Patterns by which a refusal states a limit, the most reliable first.
_STATED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bn_ctx\D{0,5}(\d+)",
        r"max_model_len\D{0,20}(\d+)",
        r"context\D{0,40}(\d+)",
        r"(?:maximum|limit|at most|<=?|up to|no more than|exceed\w*|room for|available|left|remaining)\D{0,40}(\d+)",
        r"(\d+)[a-z\s]{0,20}(?:left|remain\w*|available|free)",
    )
)
_SEPARATOR = re.compile(r"(?<=\d)[,_'](?=\d{3}\b)")
_OF_CONTEXT = re.compile(r"context|too (?:long|large|many)|exceed|max_(?:model_len|tokens)|n_ctx", re.IGNORECASE)
_ABOUT_LENGTH = re.compile(r"context|length|token|too (?:long|large|many)|exceed|n_ctx|maximum", re.IGNORECASE)


def refuses(error: UpstreamError) -> bool:
    """Return whether the server refused the content of a request, rather than to serve at all."""
    if error.status in REFUSALS:
        return True
    is_other = error.status is None or error.status in (401, 403, 404, 408, 425, 429)
    return not is_other and bool(_OF_CONTEXT.search(error.body))


def is_about_length(error: UpstreamError) -> bool:
    """Return whether a refusal may concern a number of tokens, by its wording."""
    return bool(_ABOUT_LENGTH.search(error.body or str(error)))


class Room:
    """What is known about the room for one trace.

    Args:
        upstream: the server.

    Attributes:
        asked_tokens: tokens requested by the last `complete`.
        num_requests: requests sent by `complete`.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.asked_tokens = self.num_requests = 0
        self._upstream, self._tried_one, self._tried = upstream, False, set[int]()
        self._refused_from: int | None = None  # prompt and requested tokens together

    def most(self, num_prompt: int, wanted: int) -> int:
        """Return how many of the wanted tokens to request, given the refusals so far."""
        if self._refused_from is None:
            return wanted
        return min(wanted, max(self._refused_from - num_prompt - 1, 1))

    def accepted(self, num_prompt: int, asked: int) -> None:
        """Note that a number of tokens was accepted."""
        if self._refused_from is not None and num_prompt + asked >= self._refused_from:
            self._refused_from = None  # the refusal was not about the context
        self._tried.clear()

    async def fewer(self, error: UpstreamError, num_prompt: int, asked: int, *, has_begun: bool) -> int | None:
        """Return how many tokens to request after a refusal; None if even one was refused.

        Args:
            error: the refusal.
            num_prompt: the length of the prompt.
            asked: the number of tokens requested.
            has_begun: whether the server has generated tokens of this trace, so that it refuses their number. If it has not, one
                token is requested early: if that is refused as well, the refusal is not about the number.
        """
        if asked <= 1:
            return None
        total = num_prompt + asked
        self._refused_from = total if self._refused_from is None else min(total, self._refused_from)
        limits = _limits(error.body or str(error))
        if not limits and (known := await self._upstream.context_tokens()) is not None:
            limits = [known]
        # a limit may be on the whole context, or on an answer
        for room in (*(limit - num_prompt for limit in limits), *limits):
            if 0 < room < asked and num_prompt + room not in self._tried:
                self._tried.add(num_prompt + room)
                return room
        if not self._tried_one and (not has_begun or limits):
            self._tried_one = True
            return 1
        return asked // 2

    async def complete(self, prompt: Sequence[int], most: int, **settings: Any) -> Completion | None:
        """Return a completion with up to `most` tokens, as many as there is room for; None if there is no room.

        Raises:
            UpstreamError: if the server fails, or refuses for another reason.
        """
        refusal, asked = None, self.most(len(prompt), most)
        while True:
            self.asked_tokens = asked
            self.num_requests += 1
            try:
                found = await self._upstream.complete(prompt, asked, **settings)
            except UpstreamError as error:
                refusal = refusal or error
                if not (refuses(error) and is_about_length(refusal)):
                    raise
                if (fewer := await self.fewer(error, len(prompt), asked, has_begun=True)) is None:
                    return None
                asked = fewer
            else:
                self.accepted(len(prompt), asked)
                return found


def _limits(said: str) -> list[int]:
    """The numbers in a refusal that may be limits, the most likely first."""
    said = _SEPARATOR.sub("", said)
    return list(dict.fromkeys(int(each[1][:12]) for pattern in _STATED for each in pattern.finditer(said)))
