"""Models and texts the reasoner's tests share."""

import functools

import equinox as eqx
import jax
import numpy as np
from hypothesis import settings

from stopping.reasoner.countdown import Difficulty
from stopping.reasoner.llama import Llama, LlamaConfig, initialise
from stopping.reasoner.script import Example, draw_example
from stopping.reasoner.vocabulary import TOKENS, encode
from stopping.reasoner.weights import load_model

# Seeds are constants: a test that fails, fails for everyone.
STEADY = settings(max_examples=100, deadline=None, derandomize=True)

TINY = LlamaConfig(32, 48, 2, 2, len(TOKENS))
TEXT = "<bos>12 2 7>98<think>12+2=14,14*7=98 yes\nwait\n12*7=84,84+2=86 no\ncheck (12+2)*7=98 ok\n</think>(12+2)*7<eos>"
TOKEN_IDS = np.array([encode(TEXT)], np.int32)


@functools.cache
def texts(count: int, seed: int = 0) -> tuple[Example, ...]:
    random = np.random.default_rng(seed)
    return tuple(draw_example(random, Difficulty()) for _ in range(count))


@functools.cache
def untrained() -> Llama:
    """Two layers and heads, float32; the embedding is large enough for an uneven law that depends on the context."""
    model = initialise(jax.random.key(1), TINY)
    return eqx.tree_at(lambda model: model.embedding, model, 10 * model.embedding)


@functools.cache
def shipped() -> Llama:
    """The smallest shipped model: it thinks, closes its thought, answers and ends, mostly wrongly."""
    return load_model("weak_draft")
