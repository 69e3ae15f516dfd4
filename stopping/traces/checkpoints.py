"""What was seen on the way: forced answers and signals at some positions of a trace."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from stopping.traces.answers import checkpoint_labels
from stopping.traces.errors import LogError, shown

GRIDS = ("token", "cue", "fraction_of_final")


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """Probes of traces in long form, ordered by problem, sample and position.

    Fields:
        problem_index: [checkpoints] int32, into the log.
        sample_index: [checkpoints] int32, into the log.
        position_tokens: [checkpoints] int32, tokens of the trace generated before the probe.
        answer: [checkpoints] int32, forced answer: the label the log gives an equal final answer of the problem, else
            samples_per_problem + 0, 1, ... in order of first appearance; -1: none, -2: an answer that was not logged.
        answer_text: [checkpoints] str as logged, `None` without; `None` altogether where answers were not logged.
        correct: [checkpoints] bool, whether the forced answer is right, meaningful where `correct_known`.
        correct_known: [checkpoints] bool.
        probe_cost_tokens: [checkpoints] int32, tokens the probe itself took, 0 if unknown.
        signals: by name, [checkpoints] float64 each, NaN where not logged.
        grid: how positions were chosen: every so many tokens ("token"), at words such as "wait" ("cue"), or as a share
            of the final length ("fraction_of_final": this looks ahead, a live run cannot do it, and certification
            refuses it).
        protocol: how the answer was forced, in the user's words.

    Raises `LogError` for an unknown grid, or arrays of different lengths.
    """

    problem_index: np.ndarray
    sample_index: np.ndarray
    position_tokens: np.ndarray
    answer: np.ndarray
    answer_text: np.ndarray | None
    correct: np.ndarray
    correct_known: np.ndarray
    probe_cost_tokens: np.ndarray
    signals: Mapping[str, np.ndarray]
    grid: str
    protocol: str

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise LogError(f"grid: expected one of {GRIDS}, got {shown(self.grid)}")
        if not isinstance(self.protocol, str) or not self.protocol.strip():
            raise LogError(f"protocol: expected a few words on how the answer was forced, got {shown(self.protocol)}")
        columns = [value for field in fields(self) if isinstance(value := getattr(self, field.name), np.ndarray)]
        if len({column.shape for column in [*columns, *self.signals.values()]}) != 1 or self.problem_index.ndim != 1:
            raise LogError("checkpoints: expected columns of one length")

    @property
    def interval_tokens(self) -> int:
        """The usual distance of two checkpoints of a trace, in tokens; their usual position where no trace has two."""
        trace = np.stack([self.problem_index, self.sample_index])
        gaps = np.diff(self.position_tokens)[(trace[:, 1:] == trace[:, :-1]).all(axis=0)]
        return int(np.median(gaps if gaps.size else self.position_tokens))

    def take(self, problem_indices: np.ndarray, num_problems: int) -> "Checkpoints":
        """The checkpoints of these problems ([n] distinct indices of `num_problems`), renumbered 0, 1, ..., n - 1."""
        starts = np.searchsorted(self.problem_index, np.arange(num_problems + 1))
        counts = (starts[1:] - starts[:-1])[problem_indices]
        ends = np.cumsum(counts)
        rows = np.arange(ends[-1]) + np.repeat(starts[:-1][problem_indices] - (ends - counts), counts)
        return self._of(rows, problem_index=np.repeat(np.arange(len(problem_indices), dtype=np.int32), counts))

    def take_samples(self, kept: np.ndarray, final: Mapping[tuple[int, int], int]) -> "Checkpoints":
        """Return the checkpoints of the samples kept, renumbered.

        Args:
            kept: [problems, samples] bool.
            final: the new labels of the final answers kept, by problem and old label.
        """
        rows = np.flatnonzero(kept[self.problem_index, self.sample_index])
        problem, sample = self.problem_index[rows], self.sample_index[rows]
        position = np.cumsum(kept, axis=1, dtype=np.int32) - 1
        labels = checkpoint_labels(problem, self.answer[rows], final, kept.sum(axis=1))
        return self._of(rows, sample_index=position[problem, sample], answer=labels)

    def _of(self, rows: np.ndarray, **changed: np.ndarray) -> "Checkpoints":
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {name: values[rows] for name, values in columns.items() if isinstance(values, np.ndarray)}
        signals = {name: values[rows] for name, values in self.signals.items()}
        return replace(self, **taken | {"signals": signals} | changed)
