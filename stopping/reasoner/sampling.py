"""Drawing many traces at once from a model, coupled: each token's noise depends on its problem, sample and position alone.

A token is the largest of logit / temperature + Gumbel noise (the Gumbel-max trick: an exact draw), and the noise comes from a key
folded from (problem, sample, position). So one sample does not depend on which others are drawn with it, and a run that is
stopped early is an exact prefix of the full one (up to a near tie that another batch size rounds the other way).

All rows are at the same position. Work goes in stages of `STAGE_TOKENS`; between stages the finished rows are taken out and
the cache grows, so attention pays for the tokens there are. At the same places answers can be forced: `</think>` is appended,
the answer decoded greedily, and the trace goes on unchanged, or is stopped there.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stopping.reasoner.llama import Cache, Llama
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, PAD

STAGE_TOKENS = 32
ANSWER_TOKENS = 20  # the longest expression has 15 tokens and an end
_SLOTS = 64  # the cache grows by this
# XLA's default, also where the process asks for quick compilation instead (as the tests do): these programs run for minutes.
_OPTIMIZED = {"xla_backend_optimization_level": 3}
_FEWEST_ROWS = 32  # a power of two, as all numbers of rows are after the first stage


class Samples(NamedTuple):
    """Traces of some problems; per-token arrays are [problems, samples, tokens] and hold 0 from a trace's end on.

    Attributes:
        tokens: Generated ids, int8; `<pad>` from the end on.
        log_prob: Of each token at temperature 1, float32.
        entropy: Of the next-token distribution at temperature 1, nats, float32.
        log_close_prob: Log-probability of `</think>` in each token's place, float32.
        length_tokens: int32 [problems, samples], `<eos>` included.
        censored: bool [problems, samples], whether the cap came before `<eos>`.
        probes: Answers forced on the way, in order of position.
    """

    tokens: np.ndarray
    log_prob: np.ndarray
    entropy: np.ndarray
    log_close_prob: np.ndarray
    length_tokens: np.ndarray
    censored: np.ndarray
    probes: list["Probes"]


class Probes(NamedTuple):
    """Answers forced at one position, from the traces that were still thinking there.

    Attributes:
        position_tokens: Tokens generated before.
        problem: int [probes], row of the samples.
        sample: int [probes], column.
        tokens: int8 [probes, tokens], the greedy answer, with `<eos>` where it ended in time.
        mean_log_prob: float32 [probes], of the answer's tokens.
        least_log_prob: float32 [probes].
    """

    position_tokens: int
    problem: np.ndarray
    sample: np.ndarray
    tokens: np.ndarray
    mean_log_prob: np.ndarray
    least_log_prob: np.ndarray


class Answers(NamedTuple):
    """Answers forced from some traces; `[traces]` each but for `tokens`, int8 `[traces, tokens]`."""

    tokens: np.ndarray
    mean_log_prob: np.ndarray
    least_log_prob: np.ndarray


class Boundary(NamedTuple):
    """The state between two stages, where a watcher may force answers and stop traces.

    Attributes:
        position_tokens: tokens generated before.
        traces: those that still think, problem * samples + sample; int `[thinking]`.
        tokens, log_prob, entropy: of all traces so far, `[traces, cap]`.
        log_close_prob: of closing the thought here; float32 `[thinking]`.
        force: forces answers from the traces whose places in `traces` are given.
    """

    position_tokens: int
    traces: np.ndarray
    tokens: np.ndarray
    log_prob: np.ndarray
    entropy: np.ndarray
    log_close_prob: np.ndarray
    force: Callable[[np.ndarray], Answers]


class _Rows(NamedTuple):
    """Traces being drawn."""

    cache: Cache
    logits: Float[Array, "rows vocab"]
    keys: PRNGKeyArray
    done: Bool[Array, " rows"]
    closed: Bool[Array, " rows"]  # `</think>` was generated


class _Step(NamedTuple):
    token: Array
    log_prob: Array
    entropy: Array
    log_close_prob: Array


def sample(
    key: PRNGKeyArray,
    model: Llama,
    prompts: Int[np.ndarray, "problems prompt"],
    problem_index: Sequence[int],
    num_samples: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    probe_every_tokens: int | None = None,
) -> Samples:
    """Draw `num_samples` traces of each problem.

    Args:
        key: With `problem_index` and the sample's number it fixes all noise.
        model: What is sampled.
        prompts: Token ids, all of one length.
        problem_index: A number for each problem that no other has, in this call or in another with the same key.
        num_samples: Traces a problem.
        max_tokens: The cap on generated tokens.
        temperature: Above 0.
        probe_every_tokens: Force answers after every so many tokens, and before the first; a multiple of `STAGE_TOKENS`.

    Raises:
        ValueError: a size or the temperature is out of range, or prompt and cap exceed the model's context.
    """
    probes: list[Probes] = []

    def probe(here: Boundary) -> np.ndarray:
        everyone = np.arange(len(here.traces))
        place = here.traces // num_samples, here.traces % num_samples
        probes.append(Probes(here.position_tokens, *place, *here.force(everyone)))
        return everyone[:0]

    samples = sample_watched(
        key, model, prompts, problem_index, num_samples,
        max_tokens=max_tokens, temperature=temperature, watch=probe, every_tokens=probe_every_tokens,
    )  # fmt: skip
    return samples._replace(probes=probes)


def sample_watched(
    key: PRNGKeyArray,
    model: Llama,
    prompts: Int[np.ndarray, "problems prompt"],
    problem_index: Sequence[int],
    num_samples: int,
    *,
    max_tokens: int,
    temperature: float,
    watch: Callable[[Boundary], np.ndarray],
    every_tokens: int | None,
) -> Samples:
    """Draw traces that are watched: `watch` returns the places in `Boundary.traces` of those to be stopped there.

    It is called after every `every_tokens`, a multiple of `STAGE_TOKENS`, and before the first; never if that is None. A stopped
    trace ends at once: `</think>` and the answer are not drawn. Other arguments, and errors, as in `sample`.
    """
    num_problems, prompt_tokens = prompts.shape
    context = model.config.max_position_embeddings
    if prompt_tokens + max_tokens > context:
        raise ValueError(f"max_tokens: expected at most {context - prompt_tokens} after this prompt, got {max_tokens}")
    if every_tokens is not None and (every_tokens < 1 or every_tokens % STAGE_TOKENS):
        raise ValueError(f"probe_every_tokens: expected a multiple of {STAGE_TOKENS}, got {every_tokens}")
    if not temperature > 0 or num_samples < 1 or max_tokens < 1 or len(problem_index) != num_problems:
        raise ValueError(
            "expected temperature > 0, num_samples and max_tokens >= 1 and a problem_index for each prompt, "
            f"got {temperature}, {num_samples}, {max_tokens} and {len(problem_index)} for {num_problems}"
        )
    total = num_problems * num_samples
    grid = (total, math.ceil(max_tokens / STAGE_TOKENS) * STAGE_TOKENS)
    drawn = [np.full(grid, PAD, np.int8), *(np.zeros(grid, np.float32) for _ in range(3))]

    padded = np.pad(np.arange(num_problems), (0, _power_of_two(num_problems) - num_problems))
    keys = _row_keys(key, jnp.asarray(np.asarray(problem_index)[padded]), num_samples)
    rows = _start(model, jnp.asarray(prompts[padded]), keys, jnp.asarray(total))
    live = np.arange(total)  # which trace each row is; rows beyond are padding
    stopped_at = np.full(total, -1, np.int32)
    for start in range(0, max_tokens, STAGE_TOKENS):
        # What this stage and an answer before it write must find a slot.
        needed = prompt_tokens + start + max(STAGE_TOKENS, ANSWER_TOKENS + 1)
        if np.all(rows.done):
            break
        rows, live = _fitted(rows, live, needed)
        position = jnp.asarray(prompt_tokens + start)
        if every_tokens is not None and start % every_tokens == 0:
            thinking = np.flatnonzero(~np.asarray(rows.closed | rows.done)[: len(live)])
            here = _boundary(model, rows, position, start, thinking, live, drawn)
            stopped = thinking[watch(here)]
            if len(stopped):
                rows = rows._replace(done=rows.done | np.isin(np.arange(rows.done.shape[0]), stopped))
                stopped_at[live[stopped]] = start
                if np.all(rows.done):
                    break
        rows, steps = _stage(model, rows, position, jnp.asarray(start), jnp.asarray(temperature))
        for whole, part in zip(drawn, steps, strict=True):
            whole[live, start : start + STAGE_TOKENS] = np.asarray(part).T[: len(live)]

    tokens, log_prob, entropy, log_close_prob = (
        np.reshape(part[:, :max_tokens], (num_problems, num_samples, max_tokens)) for part in drawn
    )
    stopped_at = stopped_at.reshape(num_problems, num_samples)
    return Samples(
        tokens, log_prob, entropy, log_close_prob,
        length_tokens=np.where(stopped_at >= 0, stopped_at, _lengths(np, tokens)).astype(np.int32),
        censored=~np.any(tokens == EOS, axis=-1) & (stopped_at < 0),
        probes=[],
    )  # fmt: skip


def _boundary(
    model: Llama,
    rows: _Rows,
    position: Array,
    start: int,
    thinking: np.ndarray,
    live: np.ndarray,
    drawn: list[np.ndarray],
) -> Boundary:
    def force(places: np.ndarray) -> Answers:
        chosen = thinking[places]
        idle = np.ones(rows.done.shape[0], bool)
        idle[chosen] = False
        return Answers(*(np.asarray(part)[chosen] for part in _forced(model, rows.cache, position, jnp.asarray(idle))))

    close = np.asarray(jax.nn.log_softmax(rows.logits)[:, CLOSE_THINK])[thinking]
    tokens, log_prob, entropy, _ = drawn
    return Boundary(start, live[thinking], tokens, log_prob, entropy, close, force)


def _lengths(xp: ModuleType, tokens: Any) -> Any:
    """Return the number of tokens up to the end token, or all; a model may draw `<pad>` before its end."""
    ends = tokens == EOS
    return xp.where(xp.any(ends, axis=-1), xp.argmax(ends, axis=-1) + 1, tokens.shape[-1])


def _row_keys(key: PRNGKeyArray, problem_index: Array, num_samples: int) -> PRNGKeyArray:
    def of(problem: Array, sample: Array) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(key, problem), sample)

    each = jax.vmap(jax.vmap(of, (None, 0)), (0, None))(problem_index, jnp.arange(num_samples))
    return jnp.reshape(each, (-1,))


@jax.jit
def _start(model: Llama, prompts: Int[Array, "problems prompt"], keys: PRNGKeyArray, num_rows: Int[Array, ""]) -> _Rows:
    """Read each prompt once and hand its cache to all its samples; rows beyond `num_rows` are padding."""
    repeats = keys.shape[0] // prompts.shape[0]
    logits, cache = model.extend(model.empty_cache(*prompts.shape), prompts, 0)
    cache, logits = jax.tree.map(lambda leaf: jnp.repeat(leaf, repeats, axis=0), (cache, logits[:, -1]))
    place = jnp.arange(keys.shape[0])
    return _Rows(cache, logits, keys, place >= num_rows, jnp.zeros_like(place, jnp.bool_))


def _power_of_two(number: int) -> int:
    """Return the next batch size that is not smaller; there are few, so that few programs are compiled."""
    return 1 << (number - 1).bit_length()


def _fitted(rows: _Rows, live: np.ndarray, needed_slots: int) -> tuple[_Rows, np.ndarray]:
    """Return the rows without the finished ones where that makes a smaller batch, and with the slots needed."""
    going = np.flatnonzero(~np.asarray(rows.done))
    num_rows = max(_power_of_two(len(going)), _FEWEST_ROWS)
    if num_rows != rows.done.shape[0]:
        padding = np.full(num_rows - len(going), going[0])
        rows = jax.tree.map(lambda leaf: leaf[np.concatenate([going, padding])], rows)
        rows = rows._replace(done=rows.done | (np.arange(num_rows) >= len(going)))
        live = live[going]
    more = math.ceil(needed_slots / _SLOTS) * _SLOTS - rows.cache.keys[0].shape[2]
    if more > 0:
        cache = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, more), (0, 0))), rows.cache)
        rows = rows._replace(cache=cache)
    return rows, live


# Each buffer of the rows becomes one of the result.
@partial(jax.jit, donate_argnums=1, compiler_options=_OPTIMIZED)
def _stage(
    model: Llama, rows: _Rows, position: Int[Array, ""], start: Int[Array, ""], temperature: Float[Array, ""]
) -> tuple[_Rows, _Step]:
    """Draw `STAGE_TOKENS` more tokens of every row that is not done; what was drawn is [tokens, rows]."""

    def step(rows: _Rows, index: Array) -> tuple[_Rows, _Step]:
        log_probs = jax.nn.log_softmax(rows.logits)
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, start + index), log_probs.shape[1:]))
        token = jnp.argmax(rows.logits / temperature + noise(rows.keys), axis=-1)
        token = jnp.where(rows.done, PAD, token)
        shown = _Step(
            token.astype(jnp.int8),
            jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0],
            -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1),
            log_probs[:, CLOSE_THINK],
        )
        shown = jax.tree.map(lambda value: jnp.where(rows.done, jnp.zeros_like(value), value), shown)
        logits, cache = model.extend(rows.cache, token[:, None], position + index)
        closed, done = rows.closed | (token == CLOSE_THINK), rows.done | (token == EOS)
        return _Rows(cache, logits[:, 0], rows.keys, done, closed), shown

    return jax.lax.scan(step, rows, jnp.arange(STAGE_TOKENS))


@partial(jax.jit, compiler_options=_OPTIMIZED)
def _forced(
    model: Llama, cache: Cache, position: Int[Array, ""], idle: Bool[Array, " rows"]
) -> tuple[Array, Array, Array]:
    """Close the thought here and decode greedily, but in idle rows: tokens, mean and least log-probability."""
    num_rows = idle.shape[0]

    class Answer(NamedTuple):
        cache: Cache
        token: Array
        done: Array
        tokens: Array
        log_probs: Array

    def step(index_and_answer: tuple[Array, Answer]) -> tuple[Array, Answer]:
        index, answer = index_and_answer
        logits, cache = model.extend(answer.cache, answer.token[:, None], position + index)
        log_probs = jax.nn.log_softmax(logits[:, 0])
        token = jnp.where(answer.done, PAD, jnp.argmax(log_probs, axis=-1)).astype(jnp.int32)
        log_prob = jnp.where(answer.done, 0.0, jnp.max(log_probs, axis=-1))
        return index + 1, Answer(
            cache,
            token,
            answer.done | (token == EOS),
            answer.tokens.at[:, index].set(token.astype(jnp.int8)),
            answer.log_probs.at[:, index].set(log_prob),
        )

    empty = Answer(
        cache,
        jnp.full(num_rows, CLOSE_THINK, jnp.int32),
        idle,
        jnp.full((num_rows, ANSWER_TOKENS), PAD, jnp.int8),
        jnp.zeros((num_rows, ANSWER_TOKENS)),
    )

    def unfinished(index_and_answer: tuple[Array, Answer]) -> Array:
        return (index_and_answer[0] < ANSWER_TOKENS) & ~jnp.all(index_and_answer[1].done)

    _, answer = jax.lax.while_loop(unfinished, step, (jnp.asarray(0), empty))
    mean = jnp.sum(answer.log_probs, axis=-1) / _lengths(jnp, answer.tokens)
    return answer.tokens, mean, jnp.min(answer.log_probs, axis=-1)
