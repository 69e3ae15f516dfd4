"""Long form: tables with one row a trace, read into arrays of problems x samples. Padding happens only here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stopping.traces.answers import NONE, NOT_LOGGED, Equality, answer_keys, equality_name, first_equal, key_numbers
from stopping.traces.errors import LogError, shown
from stopping.traces.readers.columns import MAX_TOKENS
from stopping.traces.readers.selection import ColumnNames, Reader, Selection, select
from stopping.traces.readers.tables import as_table
from stopping.traces.reference import Reference
from stopping.traces.trace_log import LiveColumns, TraceLog

LIVE = ("policy_id", "would_stop_at", "propensity")
CANONICAL = (
    "problem",
    "sample",
    "length_tokens",
    "thought_tokens",
    "correct",
    "answer",
    "answer_label",
    "answered",
    "censored",
    "cap_tokens",
    *LIVE,
)
REQUIRED = ("problem", "length_tokens")
CHECKPOINT = "checkpoint_"  # prefix of the columns in which `save_log` writes checkpoints
NO_ANSWER_VALUES = ("NO_ANSWER", "")
MAX_SAMPLE_ID = 2**62 - 1
_MAX_PADDING = 100_000_000  # cells: one problem with very many samples must not fill the memory


class Padding:
    """The cell of each row in [problems, samples]: problems in order of appearance, samples by id or in order of rows."""

    def __init__(self, selection: Selection) -> None:
        self.problem_of_row, names = selection.problem_codes()
        self.problem_ids = tuple(names)
        num_rows, num_problems = len(self.problem_of_row), len(names)
        if "sample" in selection:
            sample, known = selection.column("sample").whole_numbers(0, MAX_SAMPLE_ID)
            if not known.all():
                raise selection.column("sample").error(int(np.argmin(known)), "a whole number >= 0")
            self.order = np.lexsort((sample, self.problem_of_row))
            self._refuse_duplicates(selection, sample)
        else:
            self.order = np.argsort(self.problem_of_row, kind="stable")
        self.problem = self.problem_of_row[self.order]
        counts = np.bincount(self.problem, minlength=num_problems)
        self.position = np.arange(num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
        self.shape = (num_problems, int(counts.max()))
        if self.shape[0] * self.shape[1] - num_rows > _MAX_PADDING:
            raise LogError(
                f"{selection.source.name}: {num_rows} rows would be padded to {num_problems} x {self.shape[1]}, "
                f"problems x samples; problem {names[int(np.argmax(counts))]!r} alone has that many: load it separately"
            )
        self.sample_ids = (
            self.grid(sample, -1, np.int64) if "sample" in selection else self.ordered_grid(self.position, -1, np.int64)
        )

    def grid(self, values: np.ndarray, fill: Any, dtype: Any) -> np.ndarray:
        """Return [problems, samples] from [rows]."""
        return self.ordered_grid(values[self.order], fill, dtype)

    def ordered_grid(self, values: np.ndarray, fill: Any, dtype: Any) -> np.ndarray:
        """Return [problems, samples] from [rows] sorted by problem and sample."""
        out = np.full(self.shape, fill, dtype)
        out[self.problem, self.position] = values
        return out

    def _refuse_duplicates(self, selection: Selection, sample: np.ndarray) -> None:
        problem, ordered = self.problem_of_row[self.order], sample[self.order]
        again = np.flatnonzero((problem[1:] == problem[:-1]) & (ordered[1:] == ordered[:-1]))
        if len(again):
            first, second = (
                self.order[again[0]],
                self.order[again[0] + 1],
            )  # lexsort is stable: rows stay in file order
            name = self.problem_ids[int(self.problem_of_row[second])]
            raise selection.column("sample").error(
                int(second),
                f"one row for each sample of problem {name!r}",
                f"sample {sample[second]} again, first in row {selection.rows[first] + 1}",
            )


@dataclass(frozen=True)
class Reading:
    """How rows are read: the arguments of `load_log`."""

    columns: ColumnNames | None
    groups: Sequence[str]
    answers: Equality | None
    no_answer_values: Collection[str]
    cap_tokens: int | str | None
    reference: Reference | str | None
    where: Mapping[str, Any] | None
    set_aside_incomplete: bool

    def __post_init__(self) -> None:
        if isinstance(self.groups, str):
            raise LogError(f"groups: expected a sequence of names, got {self.groups!r}; write ({self.groups!r},)")
        for name in self.groups:
            if name in CANONICAL or name.startswith(CHECKPOINT):
                raise LogError(
                    f"groups: {name!r} is a column of the log itself; give it another name and map it in columns="
                )
        if isinstance(self.no_answer_values, str):
            raise LogError(f"no_answer_values: expected several texts, got {self.no_answer_values!r}")


def from_columns(
    data: Any,
    columns: ColumnNames | None = None,
    *,
    groups: Sequence[str] = (),
    answers: Equality | None = None,
    no_answer_values: Collection[str] = NO_ANSWER_VALUES,
    cap_tokens: int | str | None = None,
    reference: Reference | str | None = None,
    where: Mapping[str, Any] | None = None,
    set_aside_incomplete: bool = False,
) -> TraceLog:
    """Return the log in a dictionary of columns, a pandas DataFrame or a pyarrow Table; arguments and errors as in `load_log`."""
    reading = Reading(columns, groups, answers, no_answer_values, cap_tokens, reference, where, set_aside_incomplete)
    return build(as_table, data, reading)[0]


def build(read: Reader, data: Any, reading: Reading) -> tuple[TraceLog, np.ndarray]:
    """Return the log, and of each trace its row in the source, [problems, samples] int64 (-1 in the padding)."""
    others = {name: name for name in reading.groups}
    if isinstance(reading.cap_tokens, str):
        others["cap_tokens"] = reading.cap_tokens
    selection = select(
        read, data, canonical=CANONICAL, required=REQUIRED, others=others, columns=reading.columns, where=reading.where
    )
    length_column = selection.column("length_tokens")
    incomplete = length_column.missing()
    if incomplete.any():
        if not reading.set_aside_incomplete:
            raise length_column.error(
                int(np.argmax(incomplete)),
                "a whole number of tokens >= 1 (set_aside_incomplete=True leaves out and counts rows without)",
            )
        selection = selection.without(incomplete, f"{length_column.name} is missing")
    if not len(selection.rows):
        raise selection.source.error("at least one row with a length", "none")
    length, _ = selection.column("length_tokens").whole_numbers(1, MAX_TOKENS, " of tokens")
    padding = Padding(selection)
    cap, common_cap = _caps(selection, reading.cap_tokens, length)
    censored, censored_known = _or_unknown(selection, "censored", len(length))
    if cap is not None:
        censored, censored_known = np.where(censored_known, censored, length >= cap), np.ones(len(length), np.bool_)
    correct, correct_known = _or_unknown(selection, "correct", len(length))
    answered, label, text, equality = _answers(selection, padding, censored, reading)
    reference = reading.reference
    if reference is None:
        votes = padding.shape[1] == 1 or (label >= 0).any()
        reference = Reference.vote(padding.shape[1]) if votes else Reference("logged")
    elif isinstance(reference, str):
        reference = Reference.parse(reference)
    log = TraceLog(
        problem_ids=padding.problem_ids,
        sample_ids=padding.sample_ids,
        present=padding.grid(np.ones(len(length), np.bool_), False, np.bool_),
        length_tokens=padding.grid(length, 0, np.int32),
        correct=padding.grid(correct & correct_known, False, np.bool_),
        correct_known=padding.grid(correct_known, False, np.bool_),
        answered=padding.grid(answered, False, np.bool_),
        answer=padding.ordered_grid(label, NONE, np.int32),
        censored=padding.grid(censored & censored_known, False, np.bool_),
        censored_known=padding.grid(censored_known, False, np.bool_),
        answer_text=None if text is None else padding.grid(text, None, object),
        thought_tokens=_thought(selection, padding, length),
        answer_equality=equality,
        groups={name: _group(selection, padding, name) for name in reading.groups},
        cap_tokens=common_cap,
        reference=reference,
        set_aside=selection.set_aside,
        live=_live(selection, padding),
    )
    return log, padding.grid(selection.rows, -1, np.int64)


def _or_unknown(selection: Selection, name: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    if name in selection:
        return selection.column(name).booleans()
    return np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.bool_)


def _caps(
    selection: Selection, cap_tokens: int | str | None, length: np.ndarray
) -> tuple[np.ndarray | None, int | None]:
    """Return the cap of each row, and the common cap if all are equal. Raises `LogError` for a length above its cap."""
    if "cap_tokens" in selection and (cap_tokens is None or isinstance(cap_tokens, str)):
        column = selection.column("cap_tokens")
        cap, known = column.whole_numbers(1, MAX_TOKENS, " of tokens")
        if not known.all():
            raise column.error(int(np.argmin(known)), "the cap of this row, a whole number of tokens >= 1")
    elif cap_tokens is None:
        return None, None
    else:
        if (
            isinstance(cap_tokens, bool)
            or not isinstance(cap_tokens, (int, np.integer))
            or not 1 <= cap_tokens <= MAX_TOKENS
        ):
            raise LogError(
                f"cap_tokens: expected a whole number of tokens >= 1 or the name of a column, got {shown(cap_tokens)}"
            )
        cap = np.full(len(length), int(cap_tokens))
    above = length > cap
    if above.any():
        index = int(np.argmax(above))
        raise selection.column("length_tokens").error(
            index, f"at most the cap of {cap[index]} tokens (give the true cap, or no cap and a 'censored' column)"
        )
    return cap, int(cap[0]) if (cap == cap[0]).all() else None


def _answers(
    selection: Selection,
    padding: Padding,
    censored: np.ndarray,
    reading: Reading,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Return `answered` [rows], labels [rows] sorted by problem and sample, texts [rows], and how answers were compared."""
    answers, no_answer_values = reading.answers, reading.no_answer_values
    has_text, has_label = "answer" in selection, answers is None and "answer_label" in selection
    name = equality_name(answers or "exact")
    key, text = np.full(len(censored), -1), None
    if has_text:
        codes, vocabulary = selection.column("answer").texts()
        key = key_numbers(answer_keys(vocabulary, answers or "exact", no_answer_values))[codes]
        blank = [given.strip() in no_answer_values for given in vocabulary]
        words = np.array(
            [*(None if skip else given for skip, given in zip(blank, vocabulary, strict=True)), None], dtype=object
        )
        text = words[codes]
    if has_label:
        label, known = selection.column("answer_label").whole_numbers(NOT_LOGGED)
        key = np.where(known, label, NONE)
    answered = key >= 0 if has_text or has_label else ~censored
    if "answered" in selection:
        said, known = selection.column("answered").booleans()
        usable = np.ones(len(said), np.bool_)
        if callable(answers) and text is not None:
            usable = (key >= 0) | np.array([value is None for value in text])
        answered = np.where(known, said & usable, answered)
    key = np.where(answered, np.where(key >= 0, key, NOT_LOGGED), NONE)[padding.order]
    labelled = key >= 0
    key[labelled] = first_equal(padding.problem[labelled], padding.position[labelled], key[labelled])
    return answered, key, text, "custom" if has_label else name if has_text else "none"


def _thought(selection: Selection, padding: Padding, length: np.ndarray) -> np.ndarray | None:
    if "thought_tokens" not in selection:
        return None
    column = selection.column("thought_tokens")
    thought, known = column.whole_numbers(0, MAX_TOKENS, " of tokens")
    above = known & (thought > length)
    if above.any():
        index = int(np.argmax(above))
        raise column.error(index, f"at most the length of {length[index]} tokens")
    return padding.grid(np.where(known, thought, -1), -1, np.int32)


def _group(selection: Selection, padding: Padding, name: str) -> np.ndarray:
    column = selection.column(name)
    codes, texts = column.texts()
    _, first = np.unique(padding.problem_of_row, return_index=True)
    differs = codes != codes[first][padding.problem_of_row]
    vocabulary = np.array([*texts, None], dtype=object)
    if differs.any():
        index = int(np.argmax(differs))
        problem = int(padding.problem_of_row[index])
        label = shown(vocabulary[codes[first[problem]]])
        raise column.error(
            index,
            f"{label}, as in the first row of problem {padding.problem_ids[problem]!r} (one label a problem)",
        )
    return vocabulary[codes[first]]


def _live(selection: Selection, padding: Padding) -> LiveColumns | None:
    if not any(name in selection for name in LIVE):
        return None
    num_rows = len(padding.order)
    policy_id = np.full(num_rows, None, dtype=object)
    would_stop_at, propensity = np.full(num_rows, -1), np.full(num_rows, np.nan)
    if "policy_id" in selection:
        codes, texts = selection.column("policy_id").texts()
        policy_id = np.array([*texts, None], dtype=object)[codes]
    if "would_stop_at" in selection:
        values, known = selection.column("would_stop_at").whole_numbers(0, MAX_TOKENS, " of tokens")
        would_stop_at = np.where(known, values, -1)
    if "propensity" in selection:
        column = selection.column("propensity")
        propensity = column.numbers()
        bad = ~column.missing() & ~((propensity > 0) & (propensity <= 1))
        if bad.any():
            raise column.error(int(np.argmax(bad)), "a probability above 0 and at most 1")
    return LiveColumns(
        padding.grid(policy_id, None, object),
        padding.grid(would_stop_at, -1, np.int32),
        padding.grid(propensity, np.nan, np.float64),
    )
