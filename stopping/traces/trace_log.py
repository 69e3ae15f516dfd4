"""Logs of traces: arrays of problems x samples, padded once, with a mask.

Every array below is [problems, samples]. A problem's samples are packed to the left in order of sample id: row `p` has
`samples_per_problem[p]` traces, followed by padding. Arrays are read-only.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from stopping.traces.answers import NOT_LOGGED, first_equal
from stopping.traces.checkpoints import Checkpoints
from stopping.traces.errors import LogError, listed, shown
from stopping.traces.reference import Reference
from stopping.traces.token_signals import TokenSignals

if TYPE_CHECKING:
    import pandas

_LOGGED = Reference("logged")


@dataclass(frozen=True, eq=False)
class LiveColumns:
    """What a live policy did while the log was written. Where it stopped traces itself, censoring is informative.

    Fields:
        policy_id: [problems, samples] str, `None` where unknown.
        would_stop_at: [problems, samples] int32, tokens after which the policy stopped or, in shadow mode, would have
            stopped; -1: never.
        propensity: [problems, samples] float64, probability of the logged choice, in (0, 1]; NaN where unknown.
    """

    policy_id: np.ndarray
    would_stop_at: np.ndarray
    propensity: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class TraceLog:
    """Completions of many problems, several samples each.

    Fields:
        problem_ids: [problems] names, each once; the parts of a composite key are joined with "/".
        sample_ids: [problems, samples] int64, -1 where there is no trace.
        present: [problems, samples] bool, False in the padding.
        length_tokens: [problems, samples] int32, 0 in the padding.
        correct: [problems, samples] bool, valid where `correct_known`.
        correct_known: [problems, samples] bool.
        answered: [problems, samples] bool, whether a valid answer was given.
        answer: [problems, samples] int32, label of the answer: the index of the first sample of the problem with an equal
            answer; -1: no answer, -2: an answer that was not logged.
        censored: [problems, samples] bool, whether the trace reached the cap, so that its length is a lower bound.
        censored_known: [problems, samples] bool, False where the log does not say; `censored` is then False.
        answer_text: [problems, samples] str as logged, `None` where there is no answer; `None` altogether if no answers
            were logged.
        thought_tokens: [problems, samples] int32, tokens before the end of the thought, -1 where it did not end or this was
            not logged; `None` altogether if it was never logged. The rest of the length is the answer.
        answer_equality: how answers were compared: "exact", "numeric", "custom", or "none" without answers.
        groups: per-problem labels by name (model, dataset, ...), [problems] str or `None` each.
        cap_tokens: the cap on length that all traces had; `None` if there was none.
        reference: how the answer that counts was produced.
        set_aside: number of rows that were left out when the log was read, as the caller asked, by reason.
        live: what a live policy did, for logs of live runs.
        checkpoints: forced answers and signals before the end of traces, if they were logged.
        token_signals: where the per-token lists are; `token_signal` reads them.

    Raises `LogError` for arrays of different shapes or of other types than the above, and for an invalid reference.
    """

    problem_ids: tuple[str, ...]
    sample_ids: np.ndarray
    present: np.ndarray
    length_tokens: np.ndarray
    correct: np.ndarray
    correct_known: np.ndarray
    answered: np.ndarray
    answer: np.ndarray
    censored: np.ndarray
    censored_known: np.ndarray
    answer_text: np.ndarray | None = None
    thought_tokens: np.ndarray | None = None
    answer_equality: str = "none"
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    cap_tokens: int | None = None
    reference: Reference = _LOGGED
    set_aside: Mapping[str, int] = field(default_factory=dict)
    live: LiveColumns | None = None
    checkpoints: Checkpoints | None = None
    token_signals: TokenSignals | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.reference, Reference):
            raise LogError(f"reference: expected a Reference, got {shown(self.reference)}")
        shape = self.present.shape
        if len(shape) != 2 or 0 in shape or len(self.problem_ids) != shape[0]:
            raise LogError(f"present: expected shape [{len(self.problem_ids)} problems, samples], got {shape}")
        if len(set(self.problem_ids)) != len(self.problem_ids):
            raise LogError("problem_ids: expected each problem once")
        for name, dtype in _GRID_TYPES.items():
            array = getattr(self, name)
            if array is not None and (array.shape != shape or array.dtype != dtype):
                raise LogError(f"{name}: expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
        for name, array in vars(self.live).items() if self.live else ():
            if array.shape != shape:
                raise LogError(f"live.{name}: expected shape {shape}, got {array.shape}")
        for name, labels in self.groups.items():
            if labels.shape != shape[:1]:
                raise LogError(f"group {name!r}: expected one label a problem, shape {shape[:1]}, got {labels.shape}")
        if not self.present[:, 0].all() or (self.present[:, 1:] & ~self.present[:, :-1]).any():
            raise LogError("present: expected at least one sample a problem, packed to the left")
        for array in _arrays(self):
            array.setflags(write=False)

    @property
    def num_problems(self) -> int:
        """Number of rows of the arrays."""
        return self.present.shape[0]

    @property
    def num_samples(self) -> int:
        """Number of samples of the problem that has most: the width of the arrays."""
        return self.present.shape[1]

    @property
    def num_traces(self) -> int:
        """Number of completions, padding not counted."""
        return int(self.present.sum())

    @property
    def samples_per_problem(self) -> np.ndarray:
        """Number of samples by problem, [problems] int64."""
        return self.present.sum(axis=1)

    @property
    def probed(self) -> np.ndarray:
        """Whether a problem has checkpoints, [problems] bool. `log.take(log.probed)` is what a thinking problem needs."""
        there: np.ndarray = np.zeros(self.num_problems, np.bool_)
        if self.checkpoints is not None:
            there[self.checkpoints.problem_index] = True
        return there

    @property
    def has_answers(self) -> bool:
        """Whether there are answers, and each of them was logged, so that votes can be counted."""
        return bool((self.answer >= 0).any() and not (self.answer == NOT_LOGGED).any())

    @property
    def all_judged(self) -> bool:
        """Whether every trace is known to be right or wrong."""
        return bool(self.correct_known[self.present].all())

    @property
    def informative_censoring(self) -> str | None:
        """A clause saying how many traces end where a live policy stopped them; `None` if none does."""
        if self.live is None:
            return None
        stop = self.live.would_stop_at
        cut = int((self.present & (stop >= 0) & (self.length_tokens <= stop)).sum())
        return f"{cut} that end where a live policy stopped them" if cut else None

    def take(self, problem_indices: Iterable[int] | np.ndarray) -> Self:
        """Return the log of these problems, [n] indices or [problems] bool, in this order; unused padding is cut.

        Raises `LogError` if there are none, or one occurs twice or is outside the log.
        """
        indices = np.asarray(problem_indices if isinstance(problem_indices, np.ndarray) else list(problem_indices))
        if indices.dtype == np.bool_:
            if indices.shape != (self.num_problems,):
                raise LogError(f"take: expected {self.num_problems} booleans, got shape {indices.shape}")
            indices = np.flatnonzero(indices)
        if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer):
            raise LogError("take: expected at least one problem index")
        if indices.min() < 0 or indices.max() >= self.num_problems or len(np.unique(indices)) != len(indices):
            raise LogError(f"take: expected distinct problem indices from 0 to {self.num_problems - 1}")
        width = int(self.samples_per_problem[indices].max())

        def cut(array: np.ndarray) -> np.ndarray:
            return array[indices, :width]

        grids: dict[str, Any] = {name: cut(array) for name in _GRID_TYPES if (array := getattr(self, name)) is not None}
        live, signals = self.live, self.token_signals
        return dataclasses.replace(
            self,
            problem_ids=tuple(self.problem_ids[index] for index in indices),
            **grids,
            groups={name: labels[indices] for name, labels in self.groups.items()},
            live=live and LiveColumns(cut(live.policy_id), cut(live.would_stop_at), cut(live.propensity)),
            checkpoints=self.checkpoints and self.checkpoints.take(indices, self.num_problems),
            token_signals=signals and dataclasses.replace(signals, source_row=cut(signals.source_row)),
        )

    def take_samples(self, sample_indices: Iterable[int] | np.ndarray) -> Self:
        """Return the log of these samples alone, in the order of the log; those that a problem does not have are skipped.

        Answers get new labels, and checkpoints go with their samples.

        Args:
            sample_indices: int `[k]`, the same of every problem, or `[problems, k]`.

        Raises:
            LogError: for an index outside the log or given twice for one problem, or a problem left without a sample.
        """
        indices = np.asarray(sample_indices if isinstance(sample_indices, np.ndarray) else list(sample_indices))
        if indices.ndim == 1:
            indices = np.broadcast_to(indices, (self.num_problems, indices.size))
        if indices.ndim != 2 or len(indices) != self.num_problems or not np.issubdtype(indices.dtype, np.integer):
            raise LogError(
                f"take_samples: expected sample indices [k] or [{self.num_problems}, k], got {indices.shape}"
            )
        if not indices.size or indices.min() < 0 or indices.max() >= self.num_samples:
            raise LogError(f"take_samples: expected sample indices from 0 to {self.num_samples - 1}")
        times = np.zeros(self.present.shape, np.int64)
        np.add.at(times, (np.arange(self.num_problems)[:, None], indices), 1)
        if times.max() > 1:
            raise LogError("take_samples: expected distinct sample indices for each problem")
        kept = self.present & (times > 0)
        if not kept.any(axis=1).all():
            name = self.problem_ids[int(np.argmin(kept.any(axis=1)))]
            raise LogError(f"take_samples: problem {name!r} has none of these samples")
        order = np.argsort(~kept, axis=1, kind="stable")[:, : int(kept.sum(axis=1).max())]
        there = np.take_along_axis(kept, order, axis=1)

        def cut(array: np.ndarray, padding: Any) -> np.ndarray:
            return np.where(there, np.take_along_axis(array, order, axis=1), padding).astype(array.dtype)

        arrays = {name: array for name in _GRID_TYPES if (array := getattr(self, name)) is not None}
        grids: dict[str, Any] = {name: cut(array, _PADDING[name]) for name, array in arrays.items()}
        problem, sample = np.nonzero(grids["answer"] >= 0)
        old = grids["answer"][problem, sample]
        new = first_equal(problem, sample, old)
        grids["answer"][problem, sample] = new
        labels = {(p, key): label for p, key, label in zip(problem.tolist(), old.tolist(), new.tolist(), strict=True)}
        live, signals = self.live, self.token_signals
        return dataclasses.replace(
            self,
            **grids,
            live=live
            and LiveColumns(cut(live.policy_id, None), cut(live.would_stop_at, -1), cut(live.propensity, np.nan)),
            checkpoints=self.checkpoints and self.checkpoints.take_samples(kept, labels),
            token_signals=signals and dataclasses.replace(signals, source_row=cut(signals.source_row, -1)),
        )

    def where(self, **labels: Any) -> Self:
        """Return the log of the problems whose groups have these labels: `log.where(model="R1", dataset=["aime2024", "gpqa"])`.

        Labels are compared as text. Raises `LogError` for a group or label that the log does not have, listing those that
        it has, and if no problem has all labels.
        """
        keep = np.ones(self.num_problems, np.bool_)
        for name, wanted in labels.items():
            if name not in self.groups:
                raise LogError(f"where: the log has no group {name!r}; its groups: {listed(self.groups)}")
            available = set(self.groups[name])
            for label in as_labels(wanted):
                if label not in available:
                    there = sorted(available, key=lambda text: (text is None, text))
                    raise LogError(f"where: no problem has {name} = {shown(label)}; there are: {listed(there)}")
            keep &= np.isin(self.groups[name], np.array(as_labels(wanted), dtype=object))
        if not keep.any():
            raise LogError(f"where: each label occurs, but no problem has all of {labels}")
        return self.take(keep)

    def token_signal(self, name: str, problem_index: int, sample_index: int) -> np.ndarray:
        """Return the per-token list `name` of one trace, [tokens], read from the file that the log came from.

        Raises `LogError` if the log was not read from Parquet, the file has no such list column or has changed since,
        or nothing was logged for this trace.
        """
        if self.token_signals is None:
            raise LogError(f"token signal {name!r}: the log does not come from a Parquet file with list columns")
        return self.token_signals.read(name, problem_index, sample_index)

    def to_table(self) -> pa.Table:
        """Return a table with one row a trace, in order of problem and sample, in the columns that `from_columns` reads."""
        there = self.present
        problem = np.repeat(np.arange(self.num_problems, dtype=np.int32), self.samples_per_problem)
        columns: dict[str, Any] = {
            "problem": pa.DictionaryArray.from_arrays(pa.array(problem), pa.array(self.problem_ids, pa.string())).cast(
                pa.string()
            ),
            "sample": self.sample_ids[there],
            "length_tokens": self.length_tokens[there],
            "correct": pa.array(self.correct[there], mask=~self.correct_known[there]),
            "answered": self.answered[there],
            "censored": pa.array(self.censored[there], mask=~self.censored_known[there]),
        }
        if self.answer_text is not None:
            columns["answer"] = pa.array(self.answer_text[there], pa.string())
        if self.answer_text is not None or (self.answer >= 0).any():
            columns["answer_label"] = self.answer[there]
        if self.thought_tokens is not None:
            thought = self.thought_tokens[there]
            columns["thought_tokens"] = pa.array(thought, mask=thought < 0)
        if self.live is not None:
            stop = self.live.would_stop_at[there]
            columns["policy_id"] = pa.array(self.live.policy_id[there], pa.string())
            columns["would_stop_at"] = pa.array(stop, mask=stop < 0)
            columns["propensity"] = pa.array(self.live.propensity[there], mask=np.isnan(self.live.propensity[there]))
        columns |= {name: pa.array(labels[problem], pa.string()) for name, labels in self.groups.items()}
        return pa.table(
            {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
        )

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the table of `to_table` as a data frame, in which unknown values are NA.

        Raises:
            ImportError: without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        frame = self.to_table().to_pandas(types_mapper={pa.bool_(): pandas.BooleanDtype()}.get)
        for name in ("thought_tokens", "would_stop_at"):
            if name in frame:
                frame[name] = frame[name].astype("Int64")
        return frame

    def equals(self, other: "TraceLog") -> bool:
        """Return whether both have the same values; per-token lists, which stay in their files, are compared by name alone."""
        return _same(self, other)

    def __repr__(self) -> str:
        parts = [
            f"{self.num_problems} problems x {self.num_samples} samples",
            f"{self.num_traces} traces",
            f"reference={str(self.reference)!r}",
        ]
        if self.cap_tokens is not None:
            parts.append(f"cap_tokens={self.cap_tokens}")
        if self.groups:
            parts.append(f"groups={tuple(self.groups)}")
        if self.checkpoints is not None:
            parts.append(f"{len(self.checkpoints.position_tokens)} checkpoints")
        return f"TraceLog({', '.join(parts)})"


_GRID_TYPES: dict[str, np.dtype] = {
    "sample_ids": np.dtype(np.int64),
    "present": np.dtype(np.bool_),
    "length_tokens": np.dtype(np.int32),
    "correct": np.dtype(np.bool_),
    "correct_known": np.dtype(np.bool_),
    "answered": np.dtype(np.bool_),
    "answer": np.dtype(np.int32),
    "censored": np.dtype(np.bool_),
    "censored_known": np.dtype(np.bool_),
    "answer_text": np.dtype(object),
    "thought_tokens": np.dtype(np.int32),
}
_PADDING: dict[str, Any] = dict.fromkeys(_GRID_TYPES, False) | {
    "sample_ids": -1,
    "length_tokens": 0,
    "answer": -1,
    "answer_text": None,
    "thought_tokens": -1,
}


def as_labels(wanted: Any) -> list[str | None]:
    """Return one label or several as the texts that groups have."""
    several = isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes))
    return [_label(value) for value in (wanted if several else [wanted])]


def _label(value: Any) -> str | None:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return None if value is None else str(value)


def _arrays(holder: Any) -> Iterable[np.ndarray]:
    for value in (
        holder.values()
        if isinstance(holder, Mapping)
        else (getattr(holder, f.name) for f in dataclasses.fields(holder))
    ):
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            yield from _arrays(value)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, TokenSignals):
        return set(one.names) == set(other.names)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if dataclasses.is_dataclass(one):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)
