"""Thirty-two tokens, longest match first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.reasoner.vocabulary import (
    BOS,
    CLOSE_THINK,
    CONTROLS,
    EOS,
    ID,
    NEWLINE,
    OPEN_THINK,
    PAD,
    TOKENS,
    WORDS,
    decode,
    encode,
)
from tests.stopping.reasoner.examples import STEADY, texts


def test_the_tokens_are_pinned():
    assert len(TOKENS) == len(set(TOKENS)) == 32
    assert CONTROLS == ("<pad>", "<bos>", "<eos>", "<think>", "</think>")
    assert WORDS == (" no", " yes", " ok", "check ", "wait", "stop")
    assert [TOKENS[index] for index in (PAD, BOS, EOS, OPEN_THINK, CLOSE_THINK)] == list(CONTROLS)
    assert "".join(TOKENS[11:]) == "0123456789+-*/()=,> \n"
    assert TOKENS[NEWLINE] == "\n"


def test_by_hand():
    names = ["<bos>", "1", "2", " ", "3", ">", "1", "5", "<think>", "check ", "1", "2", "+", "3", " ok", "\n", "wait"]
    assert encode("<bos>12 3>15<think>check 12+3 ok\nwait") == [ID[name] for name in names]
    assert encode("") == []


@STEADY
@given(st.lists(st.sampled_from(range(32))))
def test_any_tokens_survive(ids):
    # No letter and no "<" alone is a token, so tokens never join to a longer one.
    assert encode(decode(ids)) == ids


def test_training_texts_survive():
    for example in texts(200):
        assert encode(decode(example.tokens.tolist())) == example.tokens.tolist()


@pytest.mark.parametrize(
    ("text", "position", "shown"), [("3x", 1, "'x'"), (" nope", 3, "'p'"), ("<bo", 0, "'<'"), ("check", 0, "'c'")]
)
def test_an_unknown_character_is_named(text, position, shown):
    with pytest.raises(ValueError, match=f"character {position}: expected one of the 32 tokens, got {shown}"):
        encode(text)
