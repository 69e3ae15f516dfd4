"""Training the reasoner from nothing, deterministic from its seed.

Batches hold about `BATCH_TOKENS` tokens of texts of similar length, from a pool of fresh texts; each length is padded to one of
`LENGTHS`, so that few programs are compiled. The target and its two drafts differ in size, learning rate and number of steps.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from stopping.reasoner.countdown import Difficulty
from stopping.reasoner.llama import Llama, LlamaConfig, initialise
from stopping.reasoner.script import CHECK_PROB, CONTEXT_TOKENS, DIRECT_PROB, Example, draw_example
from stopping.reasoner.vocabulary import PAD, TOKENS

BATCH_TOKENS = 4096
POOL_EXAMPLES = 1600
LENGTHS = range(64, CONTEXT_TOKENS + 1, 32)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        config: Sizes.
        peak_learning_rate: Held for the first 30 % of the steps after a warm-up of 100 (of a tenth, of fewer than a
            thousand), then falling linearly to 2 %.
        num_steps: Batches of about `BATCH_TOKENS` tokens.
        difficulty: Of the problems in the texts.
        seed: Of the weights and of the texts.
    """

    config: LlamaConfig
    peak_learning_rate: float
    num_steps: int
    difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)
    seed: int = 0


RECIPES = {
    "target": Recipe(LlamaConfig(192, 512, 5, 3, len(TOKENS)), 2.5e-3, 4400),
    "draft": Recipe(LlamaConfig(64, 176, 2, 2, len(TOKENS)), 4e-3, 2700),
    "weak_draft": Recipe(LlamaConfig(48, 128, 1, 1, len(TOKENS)), 4e-3, 2000),
}


class Batch(NamedTuple):
    """Padded texts."""

    tokens: Int[np.ndarray | Array, "texts tokens"]
    weights: Float[np.ndarray | Array, "texts tokens"]


class Progress(NamedTuple):
    """Steps and tokens so far, mean loss since the last report, and the model, which is to be looked at at once."""

    num_steps: int
    num_tokens: int
    loss: float
    model: Llama


def train(recipe: Recipe, report: Callable[[Progress], None] = lambda progress: None, every: int = 100) -> Llama:
    """Train the model of a recipe and return it; `report` is called with the mean loss of each `every` steps."""
    model = initialise(jax.random.key(recipe.seed), recipe.config)
    optimiser = _optimiser(recipe)
    state = optimiser.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit(donate="warn-except-first")
    def update(batch: Batch, model: Llama, state: optax.OptState) -> tuple[Llama, optax.OptState, Array]:
        loss, gradient = eqx.filter_value_and_grad(_loss)(model, batch)
        change, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, change), state, loss

    num_tokens, losses = 0, []
    for step, batch in zip(range(1, recipe.num_steps + 1), batches(recipe), strict=False):
        num_tokens += int(np.sum(batch.tokens != PAD))
        model, state, loss = update(jax.tree.map(jnp.asarray, batch), model, state)
        losses.append(loss)
        if step % every == 0 or step == recipe.num_steps:
            report(Progress(step, num_tokens, float(np.mean(losses)), model))
            losses = []
    return model


def batches(recipe: Recipe) -> Iterator[Batch]:
    """Batches for ever, from texts drawn on the fly."""
    random = np.random.default_rng(recipe.seed)
    while True:
        pool = sorted(
            (draw_example(random, recipe.difficulty) for _ in range(POOL_EXAMPLES)),
            key=lambda example: len(example.tokens),
        )
        made, start = [], 0
        while start < len(pool):
            # The longest text of a batch sets its width, and the width how many texts fit.
            count = next(
                count
                for count in range(BATCH_TOKENS // LENGTHS[0], 0, -1)
                if _padded(len(pool[min(start + count, len(pool)) - 1].tokens)) * count <= BATCH_TOKENS
            )
            made.append(_batch(pool[start : start + count]))
            start += count
        yield from (made[index] for index in random.permutation(len(made)))


def _padded(length: int) -> int:
    return next(padded for padded in LENGTHS if padded >= length)


def _batch(examples: list[Example]) -> Batch:
    width = _padded(len(examples[-1].tokens))
    batch = Batch(
        np.full((BATCH_TOKENS // width, width), PAD, np.int32), np.zeros((BATCH_TOKENS // width, width), np.float32)
    )
    for row, example in enumerate(examples):
        batch.tokens[row, : len(example.tokens)] = example.tokens
        batch.weights[row, : len(example.tokens)] = example.weights
    return batch


def _loss(model: Llama, batch: Batch) -> Float[Array, ""]:
    """Mean cross-entropy of the learned tokens."""
    logits = model(jnp.asarray(batch.tokens[:, :-1]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.tokens[:, 1:])
    weights = batch.weights[:, 1:]
    return jnp.sum(losses * weights) / jnp.sum(weights)


def _optimiser(recipe: Recipe) -> optax.GradientTransformation:
    peak, steps = recipe.peak_learning_rate, recipe.num_steps
    risen, falling = min(100, steps // 10), int(0.3 * steps)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, risen),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.02 * peak, steps - falling),
        ],
        [risen, falling],
    )

    def decayed(model: Llama) -> Llama:
        """Return True for matrices; norms and embeddings do not decay."""
        marks = jax.tree.map(lambda leaf: leaf.ndim == 2, model)
        return eqx.tree_at(lambda marks: marks.embedding, marks, False)

    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=0.05, mask=decayed)
    )


def card(name: str, recipe: Recipe, last: Progress) -> str:
    """Return the card of a trained model, in Markdown."""
    tokens = f"{last.num_tokens / 1e6:.1f} million tokens in {last.num_steps:,} steps"
    return f"""# The {name.replace("_", " ")} of the shipped reasoner

A decoder of {last.model.num_parameters:,} parameters in the Llama layout that plays Countdown aloud: it reads
`2 3 4>24`, searches between `<think>` and `</think>`, and answers with an expression. Trained from nothing on texts
made by a rule-guided search (`stopping/reasoner/script.py`): {tokens}, seed {recipe.seed}, on
{jax.default_backend()}; loss at the end {last.loss:.3f} nats a learned token. Numbers of test problems were held
out. Written by `stopping reasoner train {name}`.

It is a specimen for studying when to stop, not a reasoner of use: one task, one seed. Its phenomena are real
properties of its samples; their sizes are not those of large models. It was trained to `wait` after
{1 - DIRECT_PROB - CHECK_PROB:.0%} of its successes, which sets how much there is to gain by stopping: quote gains together
with this share.
"""
