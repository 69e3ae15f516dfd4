"""The reasoner's 32 tokens. Numbers are written digit by digit; decoding is concatenation."""

from collections.abc import Sequence

TOKENS: tuple[str, ...] = (
    *("<pad>", "<bos>", "<eos>", "<think>", "</think>"),
    *(" no", " yes", " ok", "check ", "wait", "stop"),
    *"0123456789",
    *"+-*/()=,>",
    *(" ", "\n"),
)
ID = {token: index for index, token in enumerate(TOKENS)}
PAD, BOS, EOS, OPEN_THINK, CLOSE_THINK = range(5)
UNKNOWN = PAD  # what libraries make of a character that is in no token; `encode` refuses it
CONTROLS = TOKENS[:5]
WORDS = TOKENS[5:11]
YES, NEWLINE = ID[" yes"], ID["\n"]

_BY_LENGTH = sorted(TOKENS, key=len, reverse=True)


def encode(text: str) -> list[int]:
    """Token ids of `text`, longest match first.

    Raises:
        ValueError: a character is in no token.
    """
    ids, start = [], 0
    while start < len(text):
        token = next((token for token in _BY_LENGTH if text.startswith(token, start)), None)
        if token is None:
            raise ValueError(f"text, character {start}: expected one of the {len(TOKENS)} tokens, got {text[start]!r}")
        ids.append(ID[token])
        start += len(token)
    return ids


def decode(ids: Sequence[int]) -> str:
    """Return the text of `ids`, control tokens included."""
    return "".join(TOKENS[index] for index in ids)
