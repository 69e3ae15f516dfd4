"""Reports on logs: what a log can be used for, before any work starts."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stopping.traces.answers import NOT_LOGGED
from stopping.traces.splits import FRACTIONS, sizes_of
from stopping.traces.trace_log import TraceLog

CONFIDENCE = 0.95
_CHANCE_DUPLICATES = (
    0.05  # short answers of similar length coincide by chance; a source that is listed twice gives about half
)


@dataclass(frozen=True)
class Use:
    """Whether a log can be used for one purpose, and a sentence saying why, or what is missing."""

    possible: bool
    sentence: str


@dataclass(frozen=True)
class Report:
    """Counts of what is in a log, and what it can be used for.

    Fields:
        counts: whole numbers and shares of traces (0 to 1) by name, `None` for a share of nothing.
        uses: by purpose.
        notes: further remarks, one sentence each.
    """

    counts: dict[str, int | float | None]
    uses: dict[str, Use]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as dictionaries, lists, texts and numbers, for JSON."""
        return asdict(self) | {"notes": list(self.notes)}

    def __str__(self) -> str:
        counts = self.counts
        fewest, most = counts["min_samples"], counts["max_samples"]
        samples = f"{most}" if fewest == most else f"{fewest} to {most}"
        correct = "unknown" if counts["share_correct"] is None else f"{counts['share_correct']:.1%}"
        lines = [
            f"{counts['problems']} problems, {counts['traces']} traces, {samples} samples a problem",
            f"correct {correct} ({counts['unknown_correct']} unknown)",
            f"without an answer {counts['share_without_answer']:.1%}",
            f"censored {counts['share_censored']:.1%} ({counts['unknown_censored']} unknown)",
            *(f"{'yes' if use.possible else 'no ':3}  {name}: {use.sentence}" for name, use in self.uses.items()),
            *(f"note {sentence}" for sentence in self.notes),
        ]
        return "\n".join(lines)


def check(log: TraceLog) -> Report:
    """Return a report on what the log contains, what that is enough for, and which columns are missing for the rest."""
    there = log.present
    known = log.correct_known & there
    counts: dict[str, int | float | None] = {
        "problems": log.num_problems,
        "traces": log.num_traces,
        "min_samples": int(log.samples_per_problem.min()),
        "max_samples": log.num_samples,
        "share_correct": float(log.correct[known].mean()) if known.any() else None,
        "unknown_correct": int((there & ~known).sum()),
        "share_without_answer": float((~log.answered[there]).mean()),
        "share_censored": float(log.censored[there].mean()),
        "unknown_censored": int((there & ~log.censored_known).sum()),
        "possible_duplicates": _possible_duplicates(log),
        "checkpoints": 0 if log.checkpoints is None else len(log.checkpoints.position_tokens),
        "set_aside": sum(log.set_aside.values()),
    }
    uses = {
        "first finish": _first_finish(log),
        "majority vote": _majority_vote(log),
        "certification by labels": _labels(log, counts),
        "thinking exit": _thinking_exit(log),
        "censoring": _censoring(log, counts),
    }
    return Report(counts, uses, tuple(_notes(log, counts)))


def _first_finish(log: TraceLog) -> Use:
    if log.num_samples < 2:
        return Use(False, "each problem has one sample; log several with a 'sample' column")
    if not log.answered.any():
        return Use(False, "no trace has an answer; is the right 'answer' or 'answered' column mapped?")
    if log.answer_equality == "none" and (log.answered == (log.present & ~log.censored)).all():
        return Use(
            True,
            "lengths of several samples; nothing says which have an answer: all but the censored count",
        )
    return Use(True, "lengths of several samples, and which of them have an answer")


def _majority_vote(log: TraceLog) -> Use:
    if not (log.answer >= 0).any():
        return Use(False, "no answers are logged: the 'answer' column is missing or empty")
    if (log.answer == NOT_LOGGED).any():
        return Use(
            False,
            f"the answer of {int((log.answer == NOT_LOGGED).sum())} answered traces is missing in the 'answer' column",
        )
    if log.num_samples < 2:
        return Use(False, "each problem has one sample; log several with a 'sample' column")
    return Use(True, f"answers of several samples, compared as {log.answer_equality}")


def _labels(log: TraceLog, counts: dict[str, Any]) -> Use:
    unknown = counts["unknown_correct"]
    if unknown == counts["traces"]:
        return Use(
            False,
            "no trace is judged: the 'correct' column is missing or empty (disagreement can still be certified)",
        )
    if unknown:
        return Use(False, f"the 'correct' column is empty for {unknown} of {counts['traces']} traces")
    return Use(
        True,
        f"every trace is judged, on {counts['problems']} problems, {_enough_for(log.num_problems)}; the reference rule is "
        f"'{log.reference}'",
    )


def _enough_for(num_problems: int) -> str:
    """Return which losses `stopping.tune` can rule out with so many problems, if none of them changes its outcome."""
    certify_on = sizes_of(num_problems, FRACTIONS)[1]
    if not certify_on:
        return "too few to certify anything by data"
    least = 1 - (1 - CONFIDENCE) ** (1 / certify_on)
    return (
        f"of which tune certifies on {certify_on}: enough to rule out a loss of {100 * least:.2g} % or more at "
        f"{CONFIDENCE:.0%}, if a rule changes no outcome on them"
    )


def _thinking_exit(log: TraceLog) -> Use:
    probes = log.checkpoints
    if probes is None:
        return Use(False, "no checkpoints are logged; add them with with_checkpoints(log, ...)")
    if probes.grid == "fraction_of_final":
        return Use(
            False, "checkpoints are at fractions of the final length, which a live run does not know: for plots only"
        )
    if probes.answer_text is None and not probes.signals:
        return Use(False, "checkpoints have neither an 'answer' nor signals")
    probed = len(np.unique(probes.problem_index * np.int64(log.num_samples) + probes.sample_index))
    return Use(
        True,
        f"checkpoints on {probed} of {log.num_traces} traces, grid '{probes.grid}', signals {list(probes.signals)}",
    )


def _censoring(log: TraceLog, counts: dict[str, Any]) -> Use:
    unknown = counts["unknown_censored"]
    if unknown == counts["traces"]:
        return Use(
            False, "whether traces hit the cap is unknown and taken as no; give a 'censored' column or cap_tokens"
        )
    if unknown:
        return Use(False, f"the 'censored' column is empty for {unknown} traces, which are taken as not censored")
    return Use(
        True,
        "every trace says whether it hit the cap" + ("" if log.cap_tokens is None else f" of {log.cap_tokens} tokens"),
    )


def _notes(log: TraceLog, counts: dict[str, Any]) -> list[str]:
    notes = [f"{count} rows were set aside ({reason})" for reason, count in log.set_aside.items()]
    if counts["possible_duplicates"] > _CHANCE_DUPLICATES * counts["traces"]:
        notes.append(
            f"{counts['possible_duplicates']} traces repeat another of their problem in length, answer and "
            "correctness: is the source listed twice?"
        )
    if log.live is not None:
        missing = int((np.isnan(log.live.propensity) & log.present).sum())
        unknown = f"; propensity is missing for {missing} traces" if missing else ""
        notes.append(f"a live policy ran: where it stopped traces, censoring is informative{unknown}")
    return notes


def _possible_duplicates(log: TraceLog) -> int:
    """Count answered traces that repeat another; traces without an answer often have the same length, the cap."""
    problem = np.nonzero(log.answered)[0]
    columns = [log.length_tokens, log.answer, log.correct, log.correct_known]
    rows = np.stack([problem, *(column[log.answered].astype(np.int64) for column in columns)])
    rows = rows[:, np.lexsort(rows)]
    return int((rows[:, 1:] == rows[:, :-1]).all(axis=0).sum())
