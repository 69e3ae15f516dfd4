"""The worlds of a thinking problem: one trace each, with the answers forced on the way."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stopping.policies import NO_ANSWER, ThinkingObservation
from stopping.traces import TraceLog, from_columns, with_checkpoints
from stopping.traces.answers import NOT_LOGGED

NEVER = np.int32(2**30)
SIGNALS = tuple(
    name for name in ThinkingObservation._fields if name not in ("elapsed_tokens", "probed", "probed_answer")
)


class ThinkingWorld(NamedTuple):
    """All that can happen to one trace.

    Attributes:
        length_tokens: int32 `[]`, thought and answer, if it is left alone.
        right: bool `[]`, its own answer.
        answer: int32 `[]`, its label; `NO_ANSWER` if it gave none.
        position_tokens: int32 `[points]`, ascending; `NEVER` past the last decision point.
        probe_answer: int32 `[points]`, label of the answer forced there; `NO_ANSWER` if none came.
        probe_right: bool `[points]`.
        probe_cost_tokens: int32 `[points]`, closing tag and answer.
        signals: by name, float32 `[points]`; those alone that there are.
        probe_known: bool `[points]`, whether `probe_right` is known.
        problem: int32 `[]`, the index of the problem in the log; no policy sees it.
    """

    length_tokens: Int[Array, ""]
    right: Bool[Array, ""]
    answer: Int[Array, ""]
    position_tokens: Int[Array, " points"]
    probe_answer: Int[Array, " points"]
    probe_right: Bool[Array, " points"]
    probe_cost_tokens: Int[Array, " points"]
    signals: dict[str, Float[Array, " points"]]
    probe_known: Bool[Array, " points"]
    problem: Int[Array, ""]


def logged_worlds(log: TraceLog, judged: bool) -> ThinkingWorld:
    """Return the worlds of a log; see `Thinking.worlds`."""
    probes = log.checkpoints
    if probes is None:
        raise ValueError("log: expected checkpoints, got none; add them with stopping.traces.with_checkpoints")
    if probes.grid == "fraction_of_final":
        raise ValueError(
            "log: expected checkpoints at tokens or cues, got fractions of the final length, which a live run does not know"
        )
    if not log.probed.all():
        raise ValueError(
            f"log: expected checkpoints on every problem, got {int((~log.probed).sum())} without; "
            "take those that have them: log.take(log.probed)"
        )
    if judged and not log.correct_known[log.present].all():
        unknown = int((log.present & ~log.correct_known).sum())
        raise ValueError(f"log: expected known correctness, got {unknown} traces without; see stopping.check(log)")
    chosen = probes.position_tokens > 0
    if (probes.answer[chosen] == NOT_LOGGED).any():
        raise ValueError(
            "log: expected the answer forced at every checkpoint, got some without; see stopping.check(log)"
        )
    if not chosen.any():
        raise ValueError("log: expected checkpoints past the first token, got none")

    problem, sample = (index[chosen] for index in (probes.problem_index, probes.sample_index))
    trace = problem * np.int64(log.num_samples) + sample
    starts = np.searchsorted(trace, trace)
    point = np.arange(len(trace)) - starts
    shape = (*log.present.shape, int(point.max()) + 1)

    def placed(values: np.ndarray, empty: object, dtype: type) -> np.ndarray:
        grid = np.full(shape, empty, dtype)
        grid[problem, sample, point] = values[chosen]
        return grid

    signals = {
        name: placed(probes.signals[name], 0, np.float32)
        for name in SIGNALS
        if name in probes.signals and np.isfinite(probes.signals[name][chosen]).all()
    }
    world: dict[str, Any] = {
        "length_tokens": log.length_tokens,
        "right": log.correct,
        "answer": log.answer,
        "position_tokens": placed(probes.position_tokens, NEVER, np.int32),
        "probe_answer": placed(probes.answer, NO_ANSWER, np.int32),
        "probe_right": placed(probes.correct, False, np.bool_),
        "probe_cost_tokens": placed(probes.probe_cost_tokens, 0, np.int32),
        "signals": signals,
        "probe_known": placed(probes.correct_known | (not judged), True, np.bool_),
        "problem": np.broadcast_to(np.arange(log.num_problems, dtype=np.int32)[:, None], log.present.shape),
    }
    own = np.arange(log.num_samples) % log.samples_per_problem[:, None]  # a shorter row repeats its own samples
    rows = np.arange(log.num_problems)[:, None]
    return ThinkingWorld(**jax.tree.map(lambda grid: grid[rows, own], world))


def log_of(worlds: ThinkingWorld) -> TraceLog:
    """Return worlds as a log; see `Thinking.log`."""
    number = np.arange(len(worlds.length_tokens))

    def text(labels: Any) -> list[str | None]:
        return [None if label == NO_ANSWER else str(label) for label in np.asarray(labels).tolist()]

    log = from_columns(
        {
            "problem": number, "length_tokens": worlds.length_tokens, "correct": worlds.right,
            "answer": text(worlds.answer), "censored": np.zeros(len(number), bool),
        },
        reference="single",
    )  # fmt: skip
    row, point = np.nonzero(worlds.position_tokens < NEVER)
    checkpoints = {
        "problem": number[row],
        "sample": np.zeros(len(row), int),
        "position_tokens": worlds.position_tokens[row, point],
        "answer": text(worlds.probe_answer[row, point]),
        "correct": [
            bool(right) if known else None
            for right, known in zip(worlds.probe_right[row, point], worlds.probe_known[row, point], strict=True)
        ],
        "probe_cost_tokens": worlds.probe_cost_tokens[row, point],
        **{name: values[row, point] for name, values in worlds.signals.items()},
    }
    return with_checkpoints(log, checkpoints, grid="token", protocol="drawn", signals=tuple(worlds.signals))
