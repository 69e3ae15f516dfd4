"""How a model writes: where its thought ends, how an answer is forced, and which answers are equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stopping.adapters.server.capabilities import Capabilities, tokens_of_text
from stopping.adapters.server.client import Upstream, UpstreamError
from stopping.adapters.server.protocol import Token

BLANKS = (" ", "\n", "\n\n", "\r\n")  # that a chat template may write after the opening tag


@dataclass(frozen=True)
class Markup:
    """The markup of one model, as token ids of its server.

    Attributes:
        open, close: the tags around a thought.
        open_ids, close_ids: their token ids.
        answer_prefix, answer_ids: what is written after the closing tag when an answer is forced, and its token ids; may be
            empty.
        candidate_ids: tokens that each propose a result; None if unknown.
        answer_tokens: the maximum length of a forced answer.
        answer_of: returns the value of an answer's text, by which answers are compared; None if the text is not an answer. The
            text of a forced answer includes its prefix, as a client reads it.
        openings: token ids of the opening tag followed by blanks, where these differ from the tag's and the blanks' own.
        blank_ids: token ids of blanks.
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
        """Return whether a prompt ends with the opening tag, ignoring blanks; an earlier tag is part of the text."""
        end = len(prompt_ids)
        while not any(tuple(prompt_ids[end - len(tag) : end]) == tag for tag in (self.open_ids, *self.openings) if end):
            if not end or prompt_ids[end - 1] not in self.blank_ids:
                return False
            end -= 1
        return True

    def begins(self, tokens: Sequence[Token]) -> bool:
        """Return whether a trace begins with the opening tag, ignoring blanks."""
        first = next((place for place, token in enumerate(tokens) if not self.is_blank(token)), len(tokens))
        ids = tuple(token.id for token in tokens)
        return any(ids[place : place + len(self.open_ids)] == self.open_ids for place in range(first + 1))

    def is_blank(self, token: Token) -> bool:
        """Return whether a token consists of blanks."""
        return not token.text.strip() if token.text else token.id in self.blank_ids

    def closes(self, tokens: Sequence[Token]) -> tuple[int, int, str] | None:
        """Return where the thought ends in these tokens; None if it does not.

        Returns:
            The index of the closing tag's first token, the index after its last, and the text after the tag in its last token.
        """
        for place in range(len(tokens)):
            end = place
            while end < len(tokens) and may_be_tag(tokens[place:end], self.close_ids, self.close):
                end += 1
                if (rest := text_after(tokens[place:end], self.close_ids, self.close)) is not None:
                    return place, end, rest
        return None

    @property
    def tags(self) -> list[tuple[str, int]]:
        """The tokens written to force an answer: (text, id), where the first token of each part holds its text."""
        found = []
        for text, ids in ((self.close, self.close_ids), (self.answer_prefix, self.answer_ids)):
            found += [("" if place else text, number) for place, number in enumerate(ids)]
        return found


def text_after(tokens: Sequence[Token], tag_ids: tuple[int, ...], tag: str) -> str | None:
    """Return the text after the tag that these tokens form; None if they do not form it.

    A tag of several tokens may be tokenised differently, its end merged with the text after it; it is then recognised by its
    text.
    """
    text = "".join([token.text for token in tokens])
    if tuple([token.id for token in tokens]) == tag_ids or (len(tag_ids) > 1 and text.startswith(tag)):
        return text[len(tag) :] if text.startswith(tag) else ""
    return None


def may_be_tag(tokens: Sequence[Token], tag_ids: tuple[int, ...], tag: str) -> bool:
    """Return whether these tokens are the beginning of a tag."""
    ids, text = tuple([token.id for token in tokens]), "".join([token.text for token in tokens])
    return ids == tag_ids[: len(ids)] or (len(tag_ids) > 1 and bool(text) and tag.startswith(text))


def stripped(text: str) -> str | None:
    """Return an answer without surrounding blanks; None if nothing is left."""
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
    """Return a model's markup, with the texts turned into the server's token ids.

    Args:
        upstream: the server.
        capabilities: its capabilities.
        open: the tag that opens a thought.
        close: the tag that closes it.
        answer_prefix: what is written after the closing tag when an answer is forced.
        candidates: texts of one token each that propose a result.
        answer_tokens: the maximum length of a forced answer.
        answer_of: returns the value of an answer's text; None if it is not an answer.

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
        except UpstreamError:  # the tokeniser does not know this blank
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
