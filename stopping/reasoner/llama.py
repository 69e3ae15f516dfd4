"""A decoder of the Llama layout: RMSNorm, rotary positions, SwiGLU, tied embeddings, no biases.

The parameters have the names, shapes and meaning of Hugging Face's `LlamaForCausalLM` (transposed, so that a row vector is
multiplied from the left), so a trained model opens in any engine that knows the layout.

References: Touvron et al., LLaMA (2023); Su et al., RoFormer (2021); Shazeer, GLU variants improve transformer (2020).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class LlamaConfig(NamedTuple):
    """Sizes of a model, under the names of `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    @property
    def head_size(self) -> int:
        """The size of one head's query, key or value."""
        return self.hidden_size // self.num_attention_heads


class Cache(NamedTuple):
    """Keys and values of the tokens read so far, a slot a position; slots not yet written are zero and never attended to."""

    keys: tuple[Float[Array, "rows heads slots head_size"], ...]  # a layer each, so that a loop can write in place
    values: tuple[Float[Array, "rows heads slots head_size"], ...]


class Layer(eqx.Module):
    """One block: attention and a gated feed-forward network, each behind a norm and around a residual."""

    attention_norm: Float[Array, " hidden"]
    query: Float[Array, "hidden hidden"]
    key: Float[Array, "hidden hidden"]
    value: Float[Array, "hidden hidden"]
    attention_output: Float[Array, "hidden hidden"]
    feed_forward_norm: Float[Array, " hidden"]
    gate: Float[Array, "hidden intermediate"]
    up: Float[Array, "hidden intermediate"]
    down: Float[Array, "intermediate hidden"]


class Llama(eqx.Module):
    """A language model: `model(tokens)` are the logits after each token of each row."""

    embedding: Float[Array, "vocab hidden"]
    layers: tuple[Layer, ...]
    norm: Float[Array, " hidden"]
    config: LlamaConfig = eqx.field(static=True)

    def __call__(self, tokens: Int[Array, "rows tokens"]) -> Float[Array, "rows tokens vocab"]:
        """Return the logits after every token of rows that start at position 0."""
        return self.extend(self.empty_cache(*tokens.shape), tokens, 0)[0]

    def extend(
        self, cache: Cache, tokens: Int[Array, "rows tokens"], position: Int[Array, ""] | int
    ) -> tuple[Float[Array, "rows tokens vocab"], Cache]:
        """Read `tokens` at `position` and after, on top of the cached ones before; logits after each, and the fuller cache.

        All rows are at the same position. The cache must have slots for the new tokens.
        """
        num_rows, num_tokens = tokens.shape
        positions = position + jnp.arange(num_tokens)
        rotation = _rotation(positions, self.config)
        visible = positions[:, None] >= jnp.arange(cache.keys[0].shape[-2])[None, :]
        whole = isinstance(position, int) and (position, num_tokens) == (0, cache.keys[0].shape[-2])

        # Rows and tokens share one axis: the gradient of a matrix product is then one too, without a strided copy (25 % on CPU).
        hidden = jnp.reshape(self.embedding[tokens], (num_rows * num_tokens, -1))
        split = (num_rows, num_tokens, self.config.num_attention_heads, self.config.head_size)
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            normed = _normed(hidden, layer.attention_norm, self.config)
            query, key, value = (
                jnp.swapaxes(jnp.reshape(normed @ weight, split), 1, 2)
                for weight in (layer.query, layer.key, layer.value)
            )
            query, key = _rotated(query, rotation), _rotated(key, rotation)
            if not whole:  # where nothing came before, the new keys and values are the cache
                start = (0, 0, position, 0)
                key = jax.lax.dynamic_update_slice(cache.keys[index], key, start)
                value = jax.lax.dynamic_update_slice(cache.values[index], value, start)
            attended = jnp.reshape(jnp.swapaxes(_attend(query, key, value, visible), 1, 2), hidden.shape)
            hidden = hidden + attended @ layer.attention_output
            normed = _normed(hidden, layer.feed_forward_norm, self.config)
            hidden = hidden + (jax.nn.silu(normed @ layer.gate) * (normed @ layer.up)) @ layer.down
            keys.append(key)
            values.append(value)
        logits = _normed(hidden, self.norm, self.config) @ self.embedding.T
        return jnp.reshape(logits, (num_rows, num_tokens, -1)), Cache(tuple(keys), tuple(values))

    def empty_cache(self, num_rows: int, num_slots: int) -> Cache:
        """Return a cache for rows of up to `num_slots` tokens."""
        config = self.config
        empty = jnp.zeros((num_rows, config.num_attention_heads, num_slots, config.head_size), self.embedding.dtype)
        return Cache((empty,) * config.num_hidden_layers, (empty,) * config.num_hidden_layers)

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters; the tied embedding counts once."""
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(self, eqx.is_array)))


def initialise(key: PRNGKeyArray, config: LlamaConfig) -> Llama:
    """Return an untrained model: normal weights of deviation .8/sqrt(hidden size), half of that in output projections."""
    key_embedding, *keys = jax.random.split(key, 1 + config.num_hidden_layers)
    hidden, wide = config.hidden_size, config.intermediate_size
    deviation = 0.8 / hidden**0.5

    def layer(key: PRNGKeyArray) -> Layer:
        keys = iter(jax.random.split(key, 7))

        def weights(deviation: float, inputs: int = hidden, outputs: int = hidden) -> Array:
            return deviation * jax.random.normal(next(keys), (inputs, outputs))

        return Layer(
            attention_norm=jnp.ones(hidden),
            query=weights(deviation),
            key=weights(deviation),
            value=weights(deviation),
            attention_output=weights(deviation / 2),
            feed_forward_norm=jnp.ones(hidden),
            gate=weights(deviation, outputs=wide),
            up=weights(deviation, outputs=wide),
            down=weights(deviation / 2, inputs=wide),
        )

    embedding = 0.02 * jax.random.normal(key_embedding, (config.vocab_size, hidden))
    return Llama(embedding, tuple(map(layer, keys)), jnp.ones(hidden), config)


def _normed(x: Array, scale: Array, config: LlamaConfig) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.rms_norm_eps) * scale


def _rotation(positions: Int[Array, " tokens"], config: LlamaConfig) -> tuple[Array, Array]:
    """Return cosine and sine of each position's angle at each of half a head's frequencies."""
    half = config.head_size // 2
    angles = positions[:, None] * config.rope_theta ** (-jnp.arange(half) / half)
    return jnp.cos(angles), jnp.sin(angles)


def _rotated(x: Float[Array, "rows heads tokens head_size"], rotation: tuple[Array, Array]) -> Array:
    cosine, sine = rotation
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _attend(query: Array, key: Array, value: Array, visible: Bool[Array, "tokens slots"]) -> Array:
    scores = (query / query.shape[-1] ** 0.5) @ jnp.swapaxes(key, -1, -2)
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    return (weights / jnp.sum(weights, axis=-1, keepdims=True)) @ value
