"""How a model writes: where its thought ends, how an answer is forced, and what an answer counts as."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stopping.adapters.server.capabilities import Capabilities, tokens_of_text
from stopping.adapters.server.client import Upstream, UpstreamError
from stopping.adapters.server.protocol import Token

BLANKS = (" ", "\n", "\n\n", "\r\n")  # that a chat template may write behind the opening tag


@dataclass(frozen=True)
class Markup:
    """The marks of one model, as token ids of its server.

    Attributes:
        open, close: the tags around a thought.
        open_ids, close_ids: their tokens.
        answer_prefix, answer_ids: what is written after it where an answer is forced; empty for nothing.
        candidate_ids: tokens that each put forward a result; None where none are known.
        answer_tokens: the most that a forced answer may take.
        answer_of: what the text of an answer counts as: equal ones are one answer. None where it is none. The text of a forced
            answer begins with its prefix, as the client reads it.
        openings: tokens of the opening tag with blanks behind it, where these are other tokens than the tag's and the blanks'.
        blank_ids: tokens of blanks.
    """

    open: str
    open_ids: tuple[int, ...]
    close: str
    close_ids: tuple[int, ...]
    answer_prefix: str
    answer_ids: tuple[int, ...]
    candidate_ids: frozenset[int] | None
    answer_tokens: int
    answer_of: Callable[[str], str | None]
    openings: tuple[tuple[int, ...], ...] = ()
    blank_ids: frozenset[int] = frozenset()

    def opens(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends with the opening tag, blanks left aside: a tag further up is what somebody wrote about."""
        end = len(prompt_ids)
        while not any(tuple(prompt_ids[end - len(tag) : end]) == tag for tag in (self.open_ids, *self.openings) if end):
            if not end or prompt_ids[end - 1] not in self.blank_ids:
                return False
            end -= 1
        return True

    def begins(self, tokens: Sequence[Token]) -> bool:
        """Whether a trace begins with the opening tag, blanks left aside."""
        first = next((place for place, token in enumerate(tokens) if not self.is_blank(token)), len(tokens))
        ids = tuple(token.id for token in tokens)
        return any(ids[place : place + len(self.open_ids)] == self.open_ids for place in range(first + 1))

    def is_blank(self, token: Token) -> bool:
        """Whether a token adds blanks and nothing else."""
        return not token.text.strip() if token.text else token.id in self.blank_ids

    def closes(self, tokens: Sequence[Token]) -> tuple[int, int, str] | None:
        """Return where the thought ends in these tokens; None if it does not.

        Returns:
            The place of the first token of the closing tag, that behind its last, and the text of the last behind the tag.
        """
        for place in range(len(tokens)):
            end = place
            while end < len(tokens) and may_be(tokens[place:end], self.close_ids, self.close):
                end += 1
                if (rest := behind(tokens[place:end], self.close_ids, self.close)) is not None:
                    return place, end, rest
        return None

    @property
    def tags(self) -> list[tuple[str, int]]:
        """What is written to force an answer, as tokens; the text of each part stands at its first."""
        found = []
        for text, ids in ((self.close, self.close_ids), (self.answer_prefix, self.answer_ids)):
            found += [("" if place else text, number) for place, number in enumerate(ids)]
        return found


def behind(tokens: Sequence[Token], tag_ids: tuple[int, ...], tag: str) -> str | None:
    """Return what stands behind a tag that these tokens are; None if they are none.

    A tag of several tokens may come as others, the last merged with what follows: then its text tells.
    """
    text = "".join([token.text for token in tokens])
    if tuple([token.id for token in tokens]) == tag_ids or (len(tag_ids) > 1 and text.startswith(tag)):
        return text[len(tag) :] if text.startswith(tag) else ""
    return None


def may_be(tokens: Sequence[Token], tag_ids: tuple[int, ...], tag: str) -> bool:
    """Whether these tokens are the beginning of a tag."""
    ids, text = tuple([token.id for token in tokens]), "".join([token.text for token in tokens])
    return ids == tag_ids[: len(ids)] or (len(tag_ids) > 1 and bool(text) and tag.startswith(text))


def stripped(text: str) -> str | None:
    """An answer is its text without blanks around it, and none if nothing is left."""
    return text.strip() or None


async def read_markup(
    upstream: Upstream,
    capabilities: Capabilities,
    *,
    open: str = "<think>",
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
        open: the tag that begins a thought.
        close: the tag that ends it.
        answer_prefix: what is written after it where an answer is forced.
        candidates: texts of one token each that put forward a result.
        answer_tokens: the most that a forced answer may take.
        answer_of: what an answer's text counts as.

    Raises:
        ValueError: if a tag is empty, or a candidate is not one token.
    """

    async def ids(text: str) -> tuple[int, ...]:
        found = await tokens_of_text(upstream, text, capabilities.tokenizer, start=False) if text else []
        return tuple(found)

    open_ids, close_ids = await ids(open), await ids(close)
    if not (open_ids and close_ids):
        raise ValueError(f"open, close: expected the tags around a thought, got {open!r} and {close!r}")
    known = []
    for text in candidates:
        if len(found := await ids(text)) != 1:
            raise ValueError(f"candidates: expected texts of one token each, got {text!r}, which has {len(found)}")
        known.append(found[0])
    openings, blank_ids = [], set[int]()
    for blank in BLANKS:
        try:
            found, alone = await ids(open + blank), await ids(blank)
        except UpstreamError:  # a tokeniser without it
            continue
        if found[: len(open_ids)] == open_ids:
            blank_ids |= {*found[len(open_ids) :]}
        elif found:
            openings.append(found)
        blank_ids |= {*alone}
    marks = open, open_ids, close, close_ids, answer_prefix, await ids(answer_prefix)
    candidate_ids = frozenset(known) if known else None
    return Markup(
        *marks, candidate_ids, answer_tokens, answer_of, tuple(openings), frozenset(blank_ids - {*open_ids, *close_ids})
    )
