"""Golden lines: observation streams and the decisions they must give, in any runtime and language.

They are kept away from ties: where a policy has a `score` (its margin over the threshold), a stream ends before the
first step with |score| <= 1e-5, where float32 and float64 may differ. The bound is absolute, for a margin is on a scale
on which 1e-5 is a tie (see `Policy`): of a margin alone, 1e-5 max(1, |score|) is the same bound.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np

from stopping.artifacts.error import ArtifactError
from stopping.artifacts.files import GOLDEN, MAX_GOLDEN_LINES
from stopping.artifacts.schema import GoldenLine, parse
from stopping.policies import Kind, bind
from stopping.policies.namespace import namespace

Stream = list[dict[str, Any]]  # for each step, the value of each signal
Decisions = list[tuple[int, int]]  # for each step, kind and amount

TIE = 1e-5


def lines(policy: Any, streams: Iterable[Iterable[Any]]) -> list[GoldenLine]:
    """Return the streams with their decisions on NumPy, cut before the first tie, without repetition.

    Args:
        policy: the policy.
        streams: of observations: objects or mappings with the policy's signals, single numbers or short lists.

    Raises:
        ArtifactError: if a stream lacks a signal, or none is left.
    """
    given = [
        [_signals(policy, observation, number) for observation in stream] for number, stream in enumerate(streams, 1)
    ]
    given = [stream for stream in given if stream]
    answers = decide(policy, given, cut_at_ties=True)
    kept: dict[str, None] = {}
    for stream, decisions in zip(given, answers, strict=True):
        if decisions:
            line = {"observations": stream[: len(decisions)], "decisions": decisions}
            kept[json.dumps(line)] = None
    if not kept:
        raise ArtifactError(GOLDEN, "", "expected at least one observation stream away from ties")
    if len(kept) > MAX_GOLDEN_LINES:
        raise ArtifactError(GOLDEN, "", f"expected at most {MAX_GOLDEN_LINES:,} lines, got {len(kept):,}")
    return [parse(GoldenLine, text, GOLDEN, f"line {number}") for number, text in enumerate(kept, 1)]


def write(golden: Iterable[GoldenLine]) -> bytes:
    """Return the content of `golden.jsonl`."""
    return "".join(json.dumps(line.model_dump(), allow_nan=False) + "\n" for line in golden).encode()


def read(text: str) -> list[GoldenLine]:
    """Return the lines of `golden.jsonl`.

    Raises:
        ArtifactError: naming the line and the field.
    """
    *written, rest = text.split("\n")
    if rest:
        raise ArtifactError(GOLDEN, f"line {len(written) + 1}", "expected the end of a line: is the file cut?")
    if not 1 <= len(written) <= MAX_GOLDEN_LINES:
        raise ArtifactError(GOLDEN, "", f"expected 1 to {MAX_GOLDEN_LINES:,} lines, got {len(written):,}")
    return [parse(GoldenLine, line, GOLDEN, f"line {number}") for number, line in enumerate(written, 1)]


def check(policy: Any, golden: list[GoldenLine], plain_python: bool) -> None:
    """Run every line on NumPy and, where the policy can, on plain Python.

    Raises:
        ArtifactError: naming the first line that gives other decisions, or cannot be run.
    """
    kinds = {int(kind) for kind in policy.kinds}
    for number, line in enumerate(golden, 1):
        for step, (observation, (kind, _)) in enumerate(zip(line.observations, line.decisions, strict=True)):
            if observation.keys() != set(policy.signals):
                expected, got = ", ".join(policy.signals), ", ".join(observation)
                raise ArtifactError(GOLDEN, f"line {number}.observations.{step}", f"expected {expected}, got {got}")
            if kind not in kinds:
                raise ArtifactError(GOLDEN, f"line {number}.decisions.{step}", f"{Kind(kind).name} is not legal here")
    streams = [line.observations for line in golden]
    runs = {"NumPy": decide(policy, streams)}
    if plain_python:
        runs["plain Python"] = decide_plainly(policy, streams)
    for backend, answers in runs.items():
        for number, (line, decisions) in enumerate(zip(golden, answers, strict=True), 1):
            if decisions != line.decisions:
                raise ArtifactError(GOLDEN, f"line {number}", _difference(backend, line.decisions, decisions))


def decide(policy: Any, streams: list[Stream], cut_at_ties: bool = False) -> list[Decisions]:
    """Return the decisions for each stream on NumPy, streams of one length at a time.

    Raises:
        ArtifactError: if the policy cannot be run on them.
    """
    answers: list[Decisions] = [[] for _ in streams]
    bound, xp = bind(policy, "numpy"), namespace("numpy")
    has_score = cut_at_ties and hasattr(policy, "score")
    for length, group in groupby(sorted(range(len(streams)), key=lambda i: len(streams[i])), lambda i: len(streams[i])):
        rows = list(group)
        try:
            state, open_rows = bound.init((len(rows),)), np.full(len(rows), True)
            for step in range(length):
                observation = _columns(policy, [streams[row][step] for row in rows])
                if has_score:
                    open_rows = open_rows & (np.abs(policy.score(xp, state, observation)) > TIE)
                state, action = bound.step(state, observation)
                kinds, amounts = (np.broadcast_to(x, (len(rows),)).tolist() for x in action)
                for row, kind, amount, is_open in zip(rows, kinds, amounts, open_rows.tolist(), strict=True):
                    if is_open:
                        answers[row].append((kind, amount))
        except Exception as error:  # the policy may be custom, the observations arbitrary
            raise ArtifactError(GOLDEN, f"line {rows[0] + 1}", f"cannot be run: {error!r}") from error
    return answers


def decide_plainly(policy: Any, streams: list[Stream]) -> list[Decisions]:
    """Return the decisions for each stream on plain Python numbers.

    Raises:
        ArtifactError: if the policy cannot be run on them.
    """
    bound, answers = bind(policy, "python"), []
    for number, stream in enumerate(streams, 1):
        try:
            state, decisions = bound.init(), []
            for values in stream:
                state, action = bound.step(state, SimpleNamespace(**{k: _plain(value) for k, value in values.items()}))
                decisions.append((int(action.kind), int(action.amount)))
            answers.append(decisions)
        except Exception as error:
            raise ArtifactError(GOLDEN, f"line {number}", f"cannot be run on plain Python: {error!r}") from error
    return answers


def _signals(policy: Any, observation: Any, number: int) -> dict[str, Any]:
    values = {}
    for signal in policy.signals:
        try:
            value = observation[signal] if isinstance(observation, Mapping) else getattr(observation, signal)
        except (KeyError, AttributeError):
            raise ArtifactError(GOLDEN, f"line {number}", f"the observation has no signal {signal!r}") from None
        array = np.asarray(value)
        values[signal] = (array.astype(np.float32) if array.dtype.kind == "f" else array).tolist()
    return values


def _columns(policy: Any, observations: list[dict[str, Any]]) -> SimpleNamespace:
    columns = {signal: np.asarray([values[signal] for values in observations]) for signal in policy.signals}
    return SimpleNamespace(**{signal: _narrow(signal, column) for signal, column in columns.items()})


def _narrow(signal: str, column: np.ndarray) -> np.ndarray:
    narrow: np.ndarray = column.astype({"i": np.int32, "f": np.float32, "b": np.bool_}[column.dtype.kind])
    if column.dtype.kind == "i" and (narrow != column).any():
        raise ValueError(f"{signal}: expected int32")
    return narrow


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _difference(backend: str, expected: Decisions, got: Decisions) -> str:
    step = next(step for step in range(len(expected)) if expected[step] != got[step])
    (kind, amount), (other, other_amount) = expected[step], got[step]
    asked, given = f"{Kind(kind).name} {amount}", f"{Kind(other).name} {other_amount}"
    return f"decision {step} must be {asked}, this policy gives {given} on {backend}"
