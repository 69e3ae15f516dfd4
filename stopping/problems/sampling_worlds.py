"""The worlds of a sampling problem: all that can happen to the traces of one problem."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from stopping.policies import NO_ANSWER
from stopping.policies.checks import whole_number
from stopping.traces import TraceLog, from_columns

NEVER = np.int32(2**30)


class SamplingWorld(NamedTuple):
    """All that can happen to one problem, in the order in which traces would be started.

    Attributes:
        length_tokens: int32 `[traces]`, what each generates if left alone; fewer than `NEVER` in all.
        right: bool `[traces]`.
        answer: int32 `[traces]`, the index of the first trace with the same answer; `NO_ANSWER` or `NOT_LOGGED`.
        logged: bool `[traces]`: False past the end of a log, where nothing is known.
        problem: int32 `[]`, the index of the problem in the model or the log; no policy sees it.
    """

    length_tokens: Int[Array, " traces"]
    right: Bool[Array, " traces"]
    answer: Int[Array, " traces"]
    logged: Bool[Array, " traces"]
    problem: Int[Array, ""]


def logged_worlds(log: TraceLog, num_traces: int, num_orders: int, seed: int, judged: bool) -> SamplingWorld:
    """Return the worlds of a log; see `Sampling.worlds`."""
    num_orders = whole_number("num_orders", num_orders, 1)
    if judged and not log.correct_known[log.present].all():
        unknown = int((log.present & ~log.correct_known).sum())
        raise ValueError(f"log: expected known correctness, got {unknown} traces without; see stopping.check(log)")
    num_problems, num_samples = log.present.shape
    shape = (num_problems, num_orders, num_samples)
    if num_orders == 1:
        order = np.broadcast_to(np.arange(num_samples), shape)
    else:
        random = np.random.default_rng(seed).random(shape)
        order = np.argsort(random + 2 * ~log.present[:, None, :], axis=-1)  # padding last
    order = order[..., :num_traces]

    def ordered(values: np.ndarray) -> np.ndarray:
        values = np.take_along_axis(np.broadcast_to(values[:, None, :], shape), order, axis=-1)
        missing = num_traces - values.shape[-1]
        return np.pad(values, [(0, 0), (0, 0), (0, max(missing, 0))])

    logged = ordered(log.present)
    answer = np.where(logged, ordered(log.answer), NO_ANSWER)
    same = (answer[..., :, None] == answer[..., None, :]) & (answer[..., :, None] >= 0)
    canonical = np.where(answer >= 0, np.argmax(same, axis=-1), answer)
    problem = np.broadcast_to(np.arange(num_problems, dtype=np.int32)[:, None], shape[:2])
    length = ordered(log.length_tokens)
    if (most := int(length.sum(axis=-1, dtype=np.int64).max())) >= NEVER:
        raise ValueError(f"log: expected fewer than {NEVER:,} tokens in all traces of a problem, got {most:,}")
    fields = (length, ordered(log.correct), canonical.astype(np.int32), logged, problem)
    return SamplingWorld(*(jnp.asarray(field) for field in fields))


def log_of(worlds: SamplingWorld, cap_tokens: int | None) -> TraceLog:
    """Return worlds `[problems]` as a log."""
    length, right, answer = (np.asarray(values) for values in (worlds.length_tokens, worlds.right, worlds.answer))
    num_problems, num_traces = length.shape
    return from_columns(
        {
            "problem": np.repeat(np.arange(num_problems), num_traces),
            "sample": np.tile(np.arange(num_traces), num_problems),
            "length_tokens": length.reshape(-1),
            "correct": right.reshape(-1),
            "answer": [None if label == NO_ANSWER else str(label) for label in answer.reshape(-1)],
            "censored": ((answer == NO_ANSWER) & (length >= (cap_tokens or np.inf))).reshape(-1),
        },
        cap_tokens=cap_tokens,
    )
