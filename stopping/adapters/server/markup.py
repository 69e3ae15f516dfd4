"""How a model writes: where its thought ends, how an answer is forced, and what an answer counts as."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stopping.adapters.server.capabilities import Capabilities, tokens_of_text
from stopping.adapters.server.client import Upstream


@dataclass(frozen=True)
class Markup:
    """The marks of one model, as token ids of its server.

    Attributes:
        close_ids: end a thought.
        answer_ids: what is written after them where an answer is forced; empty for nothing.
        candidate_ids: tokens that each put forward a result; None where none are known.
        answer_tokens: the most that a forced answer may take.
        answer_of: what the text of an answer counts as: equal ones are one answer. None where it is none.
    """

    close_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    candidate_ids: frozenset[int] | None
    answer_tokens: int
    answer_of: Callable[[str], str | None]

    def closes(self, ids: Sequence[int]) -> int | None:
        """Return where the thought ends in these tokens: the place of the first of its closing ones, None if it does not."""
        size = len(self.close_ids)
        for place in range(len(ids) - size + 1):
            if tuple(ids[place : place + size]) == self.close_ids:
                return place
        return None


def stripped(text: str) -> str | None:
    """An answer is its text without blanks around it, and none if nothing is left."""
    return text.strip() or None


async def read_markup(
    upstream: Upstream,
    capabilities: Capabilities,
    *,
    close: str = "</think>",
    answer_prefix: str = "",
    candidates: Sequence[str] = (),
    answer_tokens: int = 32,
    answer_of: Callable[[str], str | None] = stripped,
) -> Markup:
    """Turn marks given as text into token ids.

    Args:
        upstream: the server.
        capabilities: of it.
        close: the tag that ends a thought.
        answer_prefix: what is written after it where an answer is forced.
        candidates: texts of one token each that put forward a result.
        answer_tokens: the most that a forced answer may take.
        answer_of: what an answer's text counts as.

    Raises:
        ValueError: if the closing tag is empty, or a candidate is not one token.
    """

    async def ids(text: str) -> tuple[int, ...]:
        found = await tokens_of_text(upstream, text, capabilities.tokenizer, start=False) if text else []
        return tuple(found)

    if not (close_ids := await ids(close)):
        raise ValueError(f"close: expected the tag that ends a thought, got {close!r}")
    known = []
    for text in candidates:
        if len(found := await ids(text)) != 1:
            raise ValueError(f"candidates: expected texts of one token each, got {text!r}, which has {len(found)}")
        known.append(found[0])
    return Markup(close_ids, await ids(answer_prefix), frozenset(known) if known else None, answer_tokens, answer_of)
