"""Training on a recipe small enough to run twice."""

import dataclasses
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stopping.reasoner import training
from stopping.reasoner.countdown import Difficulty
from stopping.reasoner.llama import LlamaConfig
from stopping.reasoner.training import BATCH_TOKENS, LENGTHS, RECIPES, Batch, Recipe, batches, train
from stopping.reasoner.vocabulary import EOS, PAD
from tests.stopping.reasoner.examples import TINY, texts, untrained

RECIPE = Recipe(LlamaConfig(32, 48, 1, 2, 32), 1e-2, 3, Difficulty(three_number_prob=1.0))


@pytest.fixture
def one_width(monkeypatch):
    """Small batches of one shape, so that one program is compiled, and no more texts than are used."""
    monkeypatch.setattr(training, "LENGTHS", (512,))
    monkeypatch.setattr(training, "BATCH_TOKENS", 1024)
    monkeypatch.setattr(training, "POOL_EXAMPLES", 100)


def test_the_recipes_are_the_published_ones():
    assert list(RECIPES) == ["target", "draft", "weak_draft"]
    assert all(
        recipe.config.vocab_size == 32 and recipe.config.max_position_embeddings == 512 for recipe in RECIPES.values()
    )


def test_a_batch_holds_few_enough_tokens_and_every_text_once(monkeypatch):
    pool = texts(200)
    drawn = iter(pool)
    monkeypatch.setattr(training, "POOL_EXAMPLES", len(pool))
    monkeypatch.setattr(training, "draw_example", lambda random, difficulty: next(drawn))
    rows = Counter()
    stream = batches(RECIPE)
    while sum(rows.values()) < len(pool):
        batch = next(stream)
        count, width = batch.tokens.shape
        assert width in LENGTHS and BATCH_TOKENS - width < count * width <= BATCH_TOKENS
        assert batch.weights.shape == (count, width) and not batch.weights[batch.tokens == PAD].any()
        for tokens, weights in zip(batch.tokens, batch.weights, strict=True):
            length = np.count_nonzero(tokens != PAD)
            assert (weights.sum() > 0) == (length > 0)
            if length:
                assert tokens[length - 1] == EOS
                rows[tokens[:length].tobytes(), weights[:length].tobytes()] += 1
    assert rows == Counter((example.tokens.tobytes(), example.weights.tobytes()) for example in pool)


def test_batches_come_in_mixed_order_and_go_on_for_ever(monkeypatch):
    monkeypatch.setattr(training, "POOL_EXAMPLES", 60)
    widths = [batch.tokens.shape[1] for batch in itertools.islice(batches(RECIPE), 12)]
    assert widths != sorted(widths)


def test_the_seed_decides_every_bit(one_width):
    def trained(seed):
        return jax.tree.leaves(train(dataclasses.replace(RECIPE, seed=seed)))

    one, again, other = trained(0), trained(0), trained(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if a.ndim == 2)


def test_the_loss_falls_and_is_reported(one_width):
    reports = []
    recipe = dataclasses.replace(RECIPE, num_steps=60)
    model = train(recipe, lambda progress: reports.append((*progress[:3], np.asarray(progress.model.norm))), every=25)
    steps, tokens, losses, norms = zip(*reports, strict=True)
    assert steps == (25, 50, 60)
    sizes = [np.count_nonzero(batch.tokens) for batch in itertools.islice(batches(recipe), 60)]
    assert tokens == (sum(sizes[:25]), sum(sizes[:50]), sum(sizes))
    # Among 32 tokens, guessing costs log 32 = 3.47.
    assert losses[0] > losses[1] > losses[2] and losses[2] < 2.6
    np.testing.assert_array_equal(norms[-1], model.norm)


def test_only_learned_tokens_count():
    model, example = untrained(), texts(1)[0]
    tokens = np.zeros((2, 160), np.int32)  # a text, and a row of padding
    tokens[0, : len(example.tokens)] = example.tokens
    logits = jax.jit(lambda tokens: model(tokens))(tokens)
    costs = -jax.nn.log_softmax(logits)[0, np.arange(159), tokens[0, 1:]]
    loss = jax.jit(lambda batch: training._loss(model, batch))
    for learned in (example.weights, np.ones(len(example.tokens)), np.arange(len(example.tokens)) == 5):
        weights = np.zeros((2, 160), np.float32)
        weights[0, : len(learned)] = learned
        expected = np.sum(costs * weights[0, 1:]) / np.sum(weights[0, 1:])
        np.testing.assert_allclose(loss(Batch(tokens, weights)), expected, rtol=1e-4)


def test_only_matrices_decay():
    """Without a gradient, what changes is what decays: matrices, by rate x .05; the embedding and the norms stand still."""
    model = untrained()
    optimiser = training._optimiser(Recipe(TINY, 1e-2, 1000))
    state, nothing = optimiser.init(model), jax.tree.map(jnp.zeros_like, model)
    update = jax.jit(optimiser.update)
    change, state = update(nothing, state, model)
    change, state = update(nothing, state, model)  # the warm-up's first rate is 0, its second 1 % of the peak
    for layer, moved in zip(model.layers, change.layers, strict=True):
        for name, weight in vars(layer).items():
            decay = 1e-4 * 0.05 if weight.ndim == 2 else 0.0
            np.testing.assert_allclose(getattr(moved, name), -decay * weight, rtol=1e-4, atol=1e-12, err_msg=name)
    assert not change.embedding.any() and not change.norm.any()


@pytest.mark.parametrize(
    ("num_steps", "risen", "held"), [(4400, 100, 1320), (2700, 100, 810), (1000, 100, 300), (200, 20, 60)]
)
def test_the_learning_rate_rises_holds_and_falls(num_steps, risen, held):
    """Read from the decay of a weight of 1, at some steps."""
    recipe = Recipe(TINY, 1e-2, num_steps)
    optimiser = training._optimiser(recipe)
    model = jax.tree.map(jnp.ones_like, untrained())
    nothing = jax.tree.map(jnp.zeros_like, model)

    def step(state, _):
        change, state = optimiser.update(nothing, state, model)
        return state, -change.layers[0].query[0, 0] / 0.05

    _, rates = jax.jit(lambda state: jax.lax.scan(step, state, length=num_steps + 1))(optimiser.init(model))
    expected = [0.0, 5e-3, 1e-2, 1e-2, 1e-2 * (1 - 0.98 / 2), 2e-4]
    half = (held + num_steps) // 2
    np.testing.assert_allclose(rates[jnp.array([0, risen // 2, risen, held, half, num_steps])], expected, rtol=1e-4)
