"""Writing recorded traces as a log."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stopping.adapters.server.prompts import Prompt
from stopping.adapters.server.recording import TOKEN_SIGNALS, RecordedTrace
from stopping.traces import Checker, TraceLog, load_log, save_log, with_checkpoints
from stopping.traces.answers import Equality

_ROWS_AT_ONCE = 1024  # the row group size, by which per-token lists are read back
_HALVES = pa.list_(pa.float16())


@dataclasses.dataclass(frozen=True)
class Judging:
    """How answers are extracted, compared and checked.

    Attributes:
        extract: returns the answer in the text after a thought; None if there is none.
        answers: which answers are equal, as in `traces.load`.
        checker: decides which answers are correct; None leaves this unknown.
        prefix: the prefix of forced answers, which `extract` is given as well.
    """

    extract: Callable[[str], str | None]
    answers: Equality = "exact"
    checker: Checker | None = None
    prefix: str = ""

    def answer(self, text: str | None, *, forced: bool = False) -> str | None:
        """Return the answer in a text; None if there is none."""
        return None if text is None else self.extract(self.prefix + text if forced else text)

    def correct(self, answer: str | None, target: str | None) -> bool | None:
        """Return whether an answer is correct; None if that is unknown."""
        return None if self.checker is None or target is None else self.checker.correct(answer, target)


def save_recorded(
    traces: Sequence[RecordedTrace],
    prompts: Sequence[Prompt],
    path: Path,
    *,
    judging: Judging,
    signals: Sequence[str],
    protocol: str,
    cap_tokens: int,
    set_aside: Mapping[str, int],
) -> TraceLog:
    """Write recorded traces to a Parquet file, completely or not at all, and return the log.

    Args:
        traces: the traces, in any order.
        prompts: their prompts, in the order of the log's problems.
        path: the file.
        judging: how answers are judged.
        signals: the signals of checkpoints, as in `RecordedTrace.probes`.
        protocol: a description of how answers were forced.
        cap_tokens: the cap on all traces.
        set_aside: the numbers of traces that could not be recorded, by reason.

    Raises:
        LogError: if an answer cannot be judged.
    """
    place = {prompt.problem: index for index, prompt in enumerate(prompts)}
    ordered = sorted(traces, key=lambda trace: (place[trace.problem], trace.sample))
    groups = tuple(dict.fromkeys(name for prompt in prompts for name in prompt.groups))
    lists = [name for name in TOKEN_SIGNALS if any(name in trace.tokens for trace in ordered)]
    rows = [_row(trace, prompts[place[trace.problem]], judging) for trace in ordered]
    with tempfile.TemporaryDirectory() as folder:
        # Per-token lists are read from a file, so the log is written to one before checkpoints are added.
        first = Path(folder) / "traces.parquet"
        table = pa.Table.from_pylist(rows, _schema(groups, lists))
        pa.parquet.write_table(table, first, row_group_size=_ROWS_AT_ONCE)
        log = load_log(first, groups=groups, answers=judging.answers, cap_tokens=cap_tokens, reference="single")
        if probes := _probes(ordered, prompts, place, judging):
            kinds = {"correct": pa.bool_(), "answer": pa.string(), **dict.fromkeys(signals, pa.float64())}
            shown = {name: pa.array([probe[name] for probe in probes], kinds.get(name)) for name in probes[0]}
            log = with_checkpoints(
                log, pa.table(shown), grid="token", protocol=protocol, signals=tuple(signals), answers=judging.answers
            )
        save_log(dataclasses.replace(log, set_aside=dict(set_aside)), path)
    return load_log(path)


def _schema(groups: Sequence[str], lists: Sequence[str]) -> pa.Schema:
    fields = {
        "problem": pa.string(), "sample": pa.int32(), "length_tokens": pa.int32(), "thought_tokens": pa.int32(),
        "correct": pa.bool_(), "answer": pa.string(), "censored": pa.bool_(),
        **dict.fromkeys(groups, pa.string()),
        **{name: pa.list_(pa.int32()) if name == "token_id" else _HALVES for name in lists},
    }  # fmt: skip
    return pa.schema(fields)


def _row(trace: RecordedTrace, prompt: Prompt, judging: Judging) -> dict[str, Any]:
    answer = judging.answer(trace.answer)
    return {
        "problem": trace.problem,
        "sample": trace.sample,
        "length_tokens": trace.length_tokens,
        "thought_tokens": trace.thought_tokens,
        "correct": judging.correct(answer, prompt.target),
        "answer": answer,
        "censored": trace.censored,
        **prompt.groups,
        **{name: np.array(values, None if name == "token_id" else np.float16) for name, values in trace.tokens.items()},
    }


def _probes(
    traces: Sequence[RecordedTrace], prompts: Sequence[Prompt], place: Mapping[str, int], judging: Judging
) -> list[dict[str, Any]]:
    made = []
    for trace in traces:
        target = prompts[place[trace.problem]].target
        for probe in trace.probes:
            answer = judging.answer(probe["text"], forced=True)
            kept = {name: value for name, value in probe.items() if name != "text"}
            own = {"problem": trace.problem, "sample": trace.sample}
            made.append(own | {"answer": answer, "correct": judging.correct(answer, target)} | kept)
    return made
