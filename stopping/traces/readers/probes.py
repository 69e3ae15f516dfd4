"""Tables with one row a probe, joined to their traces as checkpoints."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stopping.traces.answers import NOT_LOGGED, Equality, answer_keys, checkpoint_labels, key_numbers
from stopping.traces.checkpoints import Checkpoints
from stopping.traces.errors import LogError
from stopping.traces.readers import read_table
from stopping.traces.readers.columns import MAX_TOKENS
from stopping.traces.readers.long_form import MAX_SAMPLE_ID, NO_ANSWER_VALUES
from stopping.traces.readers.selection import ColumnNames, Selection, select
from stopping.traces.readers.tables import as_table
from stopping.traces.trace_log import TraceLog

CANONICAL = ("problem", "sample", "position_tokens", "answer", "correct", "probe_cost_tokens")
REQUIRED = ("problem", "sample", "position_tokens")


def with_checkpoints(
    log: TraceLog,
    data: Any,
    columns: ColumnNames | None = None,
    *,
    grid: str,
    protocol: str,
    signals: Sequence[str] = (),
    answers: Equality | None = None,
    no_answer_values: Collection[str] = NO_ANSWER_VALUES,
    where: Mapping[str, Any] | None = None,
) -> TraceLog:
    """Return the log with the checkpoints of a file or of a table in memory, which replace any that it had.

    The columns are `problem`, `sample` and `position_tokens` (required; `problem` has names in `log.problem_ids`),
    `answer` (the forced answer), `correct` (of the forced answer) and `probe_cost_tokens`. Traces may have no checkpoint.

    Args:
        log: the traces that were probed.
        data: a path, or a table as for `from_columns`.
        columns: from the name above to the table's, as for `load_log`.
        grid: "token", "cue" or "fraction_of_final", see `Checkpoints`.
        protocol: a few words on how the answer was forced.
        signals: further columns of numbers to keep.
        answers: how answers are compared; by default as the log did. A log that used a function needs the function
            again.
        no_answer_values: texts that mean no answer.
        where: from the table's name of a column to the label or labels to keep.

    Raises `LogError` for a row without a trace, two rows at one position of a trace, a position beyond the end of its
    trace, and as `load_log`.
    """
    if answers is None:
        if log.answer_equality == "custom":
            raise LogError("answers: the log compared answers by a custom function; pass the same function")
        answers = "exact" if log.answer_equality == "none" else log.answer_equality
    if isinstance(signals, str):
        raise LogError(f"signals: expected a sequence of names, got {signals!r}; write ({signals!r},)")
    others = {name: name for name in signals}
    reader, data = (read_table, Path(data)) if isinstance(data, (str, Path)) else (as_table, data)
    selection = select(
        reader, data, canonical=CANONICAL, required=REQUIRED, others=others, columns=columns, where=where
    )
    if not len(selection.rows):
        raise selection.source.error("at least one row", "none")
    position, known = selection.column("position_tokens").whole_numbers(0, MAX_TOKENS, " of tokens")
    if not known.all():
        raise selection.column("position_tokens").error(int(np.argmin(known)), "a whole number of tokens >= 0")
    problem, sample = _find_traces(log, selection)
    beyond = position > log.length_tokens[problem, sample]
    if beyond.any():
        index = int(np.argmax(beyond))
        end = log.length_tokens[problem[index], sample[index]]
        raise selection.column("position_tokens").error(index, f"at most the {end} tokens of its trace")
    order = np.lexsort((position, sample, problem))
    p, s, at = problem[order], sample[order], position[order]
    again = np.flatnonzero((p[1:] == p[:-1]) & (s[1:] == s[:-1]) & (at[1:] == at[:-1]))
    if len(again):
        first, second = order[again[0]], order[again[0] + 1]
        raise selection.column("position_tokens").error(
            int(second),
            "one row for each position of a trace",
            f"{position[second]} again, first in row {selection.rows[first] + 1}",
        )
    label, text = _labels(log, selection, problem, order, answers, no_answer_values)
    correct = correct_known = np.zeros(len(order), np.bool_)
    if "correct" in selection:
        correct, correct_known = selection.column("correct").booleans()
    cost = np.zeros(len(order), np.int64)
    if "probe_cost_tokens" in selection:
        cost, _ = selection.column("probe_cost_tokens").whole_numbers(0, MAX_TOKENS, " of tokens")
    checkpoints = Checkpoints(
        problem_index=p.astype(np.int32),
        sample_index=s.astype(np.int32),
        position_tokens=at.astype(np.int32),
        answer=label.astype(np.int32),
        answer_text=None if text is None else text[order],
        correct=(correct & correct_known)[order],
        correct_known=correct_known[order],
        probe_cost_tokens=cost[order].astype(np.int32),
        signals={name: selection.column(name).numbers()[order] for name in signals},
        grid=grid,
        protocol=protocol,
    )
    return dataclasses.replace(log, checkpoints=checkpoints)


def _find_traces(log: TraceLog, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Return the problem and sample index of each row, [rows] int64."""
    index_of = {name: index for index, name in enumerate(log.problem_ids)}
    codes, names = selection.problem_codes()
    problem = np.array([index_of.get(name, -1) for name in names])[codes]
    if (problem < 0).any():
        index = int(np.argmax(problem < 0))
        column = selection.named(selection.problem[-1])
        raise column.error(index, "the name of a problem in the log", repr(names[codes[index]]))
    wanted, known = selection.column("sample").whole_numbers(0, MAX_SAMPLE_ID)
    distinct, rank = np.unique(log.sample_ids[log.present], return_inverse=True)
    owner, position = np.nonzero(log.present)
    trace_key = owner * len(distinct) + rank  # ascending: samples are sorted by id
    row_rank = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
    row_key = problem * len(distinct) + row_rank
    found = np.minimum(np.searchsorted(trace_key, row_key), len(trace_key) - 1)
    matched = known & (distinct[row_rank] == wanted) & (trace_key[found] == row_key)
    if not matched.all():
        index = int(np.argmin(matched))
        raise selection.column("sample").error(
            index, f"a sample the log has of problem {log.problem_ids[problem[index]]!r}"
        )
    return problem, position[found]


def _labels(
    log: TraceLog,
    selection: Selection,
    problem: np.ndarray,
    order: np.ndarray,
    answers: Equality,
    no_answer_values: Collection[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return labels sorted by problem, sample and position, and texts in order of rows."""
    if "answer" not in selection:
        return np.full(len(order), NOT_LOGGED), None
    codes, vocabulary = selection.column("answer").texts()
    words = np.array(
        [*(None if given.strip() in no_answer_values else given for given in vocabulary), None], dtype=object
    )
    owner = np.zeros(0, np.int64)
    final_label, final_texts = owner, []
    if log.answer_text is not None:
        owner, final_sample = np.nonzero(log.answer >= 0)
        final_texts = log.answer_text[owner, final_sample].tolist()
        final_label = log.answer[owner, final_sample]
    distinct = {text: index for index, text in enumerate(dict.fromkeys([*vocabulary, *final_texts]))}
    number = key_numbers(answer_keys(list(distinct), answers, no_answer_values))
    row_key = number[np.array([*(distinct[text] for text in vocabulary), -1])[codes]][order]
    final_key = number[np.array([distinct[text] for text in final_texts], dtype=np.int64)]
    pairs = list(zip(owner.tolist(), final_key.tolist(), strict=True))
    final = dict(zip(reversed(pairs), reversed(final_label.tolist()), strict=True))  # the first sample wins
    return checkpoint_labels(problem[order], row_key, final, log.samples_per_problem), words[codes]
