"""The decoder against itself read in other pieces; other libraries read it in `test_weights.py` and `test_gguf.py`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stopping.reasoner.llama import Cache, Llama, initialise
from stopping.reasoner.training import RECIPES
from tests.stopping.reasoner.examples import TINY, untrained

TOKENS = jax.random.randint(jax.random.key(3), (3, 24), 0, 32)
extend = eqx.filter_jit(Llama.extend)
made = jax.jit(initialise, static_argnums=1)


@eqx.filter_jit
def read(model, tokens):
    return model(tokens)


@pytest.mark.parametrize(("name", "count"), [("target", 2_220_096), ("draft", 102_720), ("weak_draft", 29_328)])
def test_parameter_counts(name, count):
    shapes = jax.eval_shape(lambda: initialise(jax.random.key(0), RECIPES[name].config))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_the_tied_embedding_counts_once():
    matrices, norms = 4 * 32 * 32 + 3 * 32 * 48, 2 * 32
    assert untrained().num_parameters == 32 * 32 + 2 * (matrices + norms) + 32


@pytest.mark.parametrize(
    "pieces", [[1] * 24, [24], [7, 1, 1, 15], [23, 1]], ids=["one by one", "whole", "mixed", "last"]
)
def test_pieces_give_the_logits_of_the_whole(pieces):
    model = untrained()
    whole = read(model, TOKENS)
    assert whole.shape == (3, 24, 32) and whole.dtype == jnp.float32
    cache, position, logits = model.empty_cache(3, 40), 0, []
    for piece in pieces:
        part, cache = extend(model, cache, TOKENS[:, position : position + piece], jnp.asarray(position))
        logits.append(part)
        position += piece
    # Sums of float32 in another order.
    np.testing.assert_allclose(jnp.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-5)


def test_a_later_token_changes_nothing_before_it():
    model = untrained()
    before = read(model, TOKENS)
    for place in (1, 12, 23):
        after = read(model, TOKENS.at[:, place].add(1) % 32)
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (jnp.abs(after[:, place] - before[:, place]) > 1e-3).any()


def test_earlier_tokens_and_their_order_matter():
    model = untrained()
    swapped = TOKENS[:, jnp.array([1, 0, *range(2, 24)])]
    assert (jnp.abs(read(model, swapped)[:, -1] - read(model, TOKENS)[:, -1]) > 1e-5).any()


def test_rows_do_not_see_each_other():
    model = untrained()
    np.testing.assert_allclose(read(model, TOKENS)[1:2], read(model, TOKENS[1:2]), rtol=1e-4, atol=1e-5)


def test_the_content_of_unread_slots_does_not_matter():
    model = untrained()
    _, cache = extend(model, model.empty_cache(3, 12), TOKENS[:, :8], jnp.asarray(0))
    dirty = Cache(*jax.tree.map(lambda slots: slots.at[:, :, 8:].set(100.0), cache))
    for position in range(8, 12):
        clean_logits, cache = extend(model, cache, TOKENS[:, position : position + 1], jnp.asarray(position))
        logits, dirty = extend(model, dirty, TOKENS[:, position : position + 1], jnp.asarray(position))
        np.testing.assert_array_equal(logits, clean_logits)


def test_keys_decide_the_weights():
    one, again, other = (made(jax.random.key(seed), TINY) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one, again))
    assert not jnp.array_equal(one.layers[0].query, other.layers[0].query)
    assert not jnp.array_equal(one.layers[0].query, one.layers[1].query)
    # Normal weights; 5 standard errors of a deviation from 1024 of them.
    deviations = [float(jnp.std(weight)) * 32**0.5 for weight in (one.layers[0].query, one.layers[0].attention_output)]
    np.testing.assert_allclose(deviations, [0.8, 0.4], rtol=5 / 2048**0.5)
