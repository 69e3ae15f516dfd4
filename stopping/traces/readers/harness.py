"""Logs of lm-evaluation-harness: files `samples_<task>_<time>.jsonl` written by `lm_eval --log_samples`.

There is one line for each document and filter, with the fields `doc_id`, `doc`, `target`, `arguments`, `resps` (requests x
repeats), `filtered_resps` (what the filter left of them), `filter`, `metrics` (names) and the metrics themselves, `doc_hash`,
`prompt_hash`, `target_hash`. The format is that of version 0.4.13; fields that earlier versions lack are optional.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stopping.traces.answers import Equality
from stopping.traces.checkers import Check, checker
from stopping.traces.errors import LogError, listed, shown
from stopping.traces.extraction import Extraction, extractor
from stopping.traces.readers.columns import MAX_TOKENS
from stopping.traces.readers.long_form import NO_ANSWER_VALUES
from stopping.traces.readers.records import Record, as_paths, records
from stopping.traces.readers.responses import AnswerReader, Responses
from stopping.traces.trace_log import TraceLog

APPROXIMATE = "characters/4"
_NAME = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.-]+\.jsonl(\.gz)?")
_NO_ANSWER_VALUES = (*NO_ANSWER_VALUES, "[invalid]")  # the harness's word for it
_NO_FILTER = "none"  # what the harness calls it
_NOT_METRICS = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "doc_hash", "prompt_hash", "target_hash", "bypass",
}  # fmt: skip
_RECOUNT = 0.01  # of the cap: a text tokenized again may have a few tokens more or less than were generated


def load_harness(
    paths: str | Path | Sequence[str | Path],
    count_tokens: Callable[[str], int] | str,
    *,
    filter_name: str | None = None,
    extract_answer: Extraction | None = None,
    extract_target: Extraction | None = None,
    check: Check | None = None,
    metric: str | None = None,
    answers: Equality | None = None,
    cap_tokens: int | None = None,
) -> TraceLog:
    r"""Read logs of lm-evaluation-harness: every response to a document becomes a trace of problem "task/doc_id".

    Several files of one task are several runs, whose responses are further samples of the same documents. The harness
    does not log lengths, so the tokens of each response are counted, at least one. It must have logged whole responses:
    `think_end_token` removes the thought before logging, and such a log has no information on lengths.

        load_harness("samples_gsm8k_2026-01-01T10-00-00.jsonl", tokenizer_length, filter_name="strict-match",
                     extract_target=r"#### (.*)", check="numeric")

    Args:
        paths: one file or several. The task is read from the name that the harness gave them; a single file may have any name.
        count_tokens: a function from a response to its length in tokens; or "characters/4", an approximation, rounded up:
            the log then has the group `token_count` saying so, and it is unknown whether a response reached the cap.
        filter_name: the filter whose lines are read, needed if a file has several. The lines of the others repeat the same
            responses, and are counted in `set_aside`.
        extract_answer: finds the answer in a response (see `extraction.extractor`). By default the answers are
            `filtered_resps`, if the filter left one for each response ("[invalid]" means no answer); a filter that picks or
            votes does not, and the log then has no answers.
        extract_target: finds in `target` the part that answers are checked against; by default all of it.
        check: how answers are judged: "exact", "numeric", "choice", a function (see `checkers.checker`) or "none". By
            default the metric of the line judges a single response. The metric of a vote does not judge its voters, so
            that correctness is then unknown.
        metric: the name of that metric, needed if there are several. Its value must be 0 or 1.
        answers: which answers are equal, as in `load_log`; by default as `check` compares them, else "exact".
        cap_tokens: the cap on length; by default `max_gen_toks`, if the line has it. A response with 99 % of it or more
            counts as censored, with the cap as its length.

    Raises `LogError`, naming file, row, field, expected and got; `FileNotFoundError` if there is no such file.
    """
    several = as_paths(paths)
    if metric is not None and check is not None:
        raise LogError("metric: expected without check=, which judges answers instead")
    checks = None if check is None else checker(check)
    reader = _HarnessReader(
        AnswerReader(
            None if extract_answer is None else extractor(extract_answer, "extract_answer"), checks, _NO_ANSWER_VALUES
        ),
        None if extract_target is None else extractor(extract_target, "extract_target"),
        _counter(count_tokens),
        approximate=not callable(count_tokens),
        filter_name=filter_name,
        by_metric=check is None,
        metric=metric,
        cap_tokens=_cap(cap_tokens, count_tokens),
    )
    for path in several:
        reader.read(path, _task(path, alone=len(several) == 1))
    equality = (answers or (checks.answers if checks else "exact")) if reader.has_answers else None
    cap = reader.caps.pop() if len(reader.caps) == 1 else None
    return reader.responses.log(", ".join(path.name for path in several), equality, cap)


@dataclass
class _HarnessReader:
    """The arguments of `load_harness`, and what has been read so far."""

    reader: AnswerReader
    extract_target: Callable[[str], str | None] | None
    count: Callable[[str], int]
    approximate: bool
    filter_name: str | None
    by_metric: bool
    metric: str | None
    cap_tokens: int | None
    responses: Responses = field(default_factory=Responses)
    caps: set[int | None] = field(default_factory=set)
    doc_hash: dict[str, str] = field(default_factory=dict)
    has_answers: bool | None = None

    def read(self, path: Path, task: str) -> None:
        filters: dict[str, None] = {}  # an ordered set
        seen: set[str] = set()
        for record in records(path):
            name = record.text("filter") if record.get("filter") is not None else _NO_FILTER
            filters[name] = None
            if self.filter_name not in (None, name):
                self.responses.set_aside[f"filter is not {self.filter_name!r}"] += 1
                continue
            if self.filter_name is None and len(filters) > 1:
                raise record.error(
                    "filter", f"one filter (or filter_name= to choose, of {listed(filters)} and perhaps more)"
                )
            problem = f"{task}/{record.text('doc_id', 'the number of a document')}"
            if problem in seen:
                raise record.error("doc_id", "one line for each document and filter", f"{problem!r} again")
            seen.add(problem)
            doc_hash = record.get("doc_hash")
            if self.doc_hash.setdefault(problem, doc_hash) != doc_hash:
                raise record.error("doc_hash", f"{self.doc_hash[problem]!r}, the document {problem!r} of another file")
            self._add(record, problem, task)
        if self.filter_name is not None and self.filter_name not in filters:
            raise LogError(
                f"{path.name}: no line has filter = {self.filter_name!r}; there are: {listed(filters)}",
                source=path.name,
            )

    def _add(self, record: Record, problem: str, task: str) -> None:
        responses = _responses(record)
        answers = self._answers(record, responses)
        if self.has_answers not in (None, answers is not None):
            raise record.error(
                "filtered_resps", "as in earlier lines, one for each response or fewer (or give extract_answer=)"
            )
        self.has_answers = answers is not None
        corrects = self._corrects(record, answers, len(responses))
        cap = self._cap(record)
        self.caps.add(cap)
        groups = {"task": task} | ({"token_count": f"approximate: {APPROXIMATE}"} if self.approximate else {})
        for index, (response, correct) in enumerate(zip(responses, corrects, strict=True)):
            length, censored = self._length(record, f"resps.0.{index}", response, cap)
            answer = None if answers is None else answers[index]
            self.responses.add(problem, length, answer=answer, correct=correct, censored=censored, groups=groups)

    def _answers(self, record: Record, responses: list[str]) -> list[str | None] | None:
        if self.reader.extract is not None:
            return [self.reader.answer(record, f"resps.0.{index}", text) for index, text in enumerate(responses)]
        left = record.get("filtered_resps")
        if isinstance(left, list) and len(left) == 1 and isinstance(left[0], list):
            left = left[0]
        if not isinstance(left, list) or len(left) != len(responses):
            if self.reader.checker is not None:
                raise record.error(
                    "filtered_resps",
                    f"one for each of the {len(responses)} responses, to check (or give extract_answer=)",
                )
            return None
        if not all(isinstance(text, str) for text in left):
            raise record.error("filtered_resps", "texts")
        return [self.reader.valid(text) for text in left]

    def _corrects(self, record: Record, answers: list[str | None] | None, num_responses: int) -> Sequence[bool | None]:
        if self.by_metric and num_responses == 1:
            return [self._metric(record)]
        if self.metric is not None:
            raise record.error("resps", "one response, which the metric judges", f"{num_responses} of them")
        if self.reader.checker is None or answers is None:
            return [None] * num_responses
        target = record.text("target")
        if self.extract_target is not None:
            with record.at("target"):
                found = self.extract_target(target)
            if found is None:
                raise record.error("target", "a target in which extract_target finds something")
            target = found
        return [self.reader.correct(record, "target", answer, target) for answer in answers]

    def _metric(self, record: Record) -> bool | None:
        said = record.content if record.get("metrics") is None else record.entries("metrics", "names of metrics")
        names = [name for name in map(str, said) if name not in _NOT_METRICS]
        if self.metric is None and not names:
            return None
        if self.metric is None and len(names) > 1:
            raise record.error("metrics", "one metric (or give metric= to choose, or check=)", listed(names))
        name = names[0] if self.metric is None else self.metric
        value = record.content.get(name)  # a name may contain dots
        if value not in (0, 1):
            raise record.error(name, "a metric that is 0 or 1 (or give metric= to choose, or check=)", shown(value))
        return bool(value)

    def _cap(self, record: Record) -> int | None:
        if self.approximate or self.cap_tokens is not None:
            return self.cap_tokens
        return record.count("arguments.gen_args_0.arg_1.max_gen_toks", MAX_TOKENS) or None

    def _length(self, record: Record, place: str, response: str, cap: int | None) -> tuple[int, bool | None]:
        with record.at(place):
            length = max(self.count(response), 1)
        if cap is None:
            return length, None
        if length > cap * (1 + _RECOUNT):
            raise record.error(
                place, f"at most the cap of {cap} tokens, as count_tokens counts (or give the true one, cap_tokens=)",
                f"{length} tokens",
            )  # fmt: skip
        censored = length >= cap * (1 - _RECOUNT)
        return cap if censored else length, censored


def _responses(record: Record) -> list[str]:
    """Return the responses to a document. Raises `LogError` for log-likelihoods of choices and the like."""
    expected = "the responses to one request that generates text (output_type: generate_until)"
    requests = record.entries("resps", expected)
    responses = requests[0]
    if len(requests) != 1 or not isinstance(responses, list) or not responses:
        raise record.error("resps", expected)
    if not all(isinstance(text, str) for text in responses):
        raise record.error("resps", expected)
    request = record.get("arguments.gen_args_0")
    if isinstance(request, dict) and not isinstance(request.get("arg_1"), dict):
        raise record.error("arguments", expected)
    return responses


def _counter(count_tokens: Callable[[str], int] | str) -> Callable[[str], int]:
    if count_tokens == APPROXIMATE:
        return lambda text: math.ceil(len(text) / 4)
    if isinstance(count_tokens, str) or not callable(count_tokens):
        raise LogError(
            f"count_tokens: expected a function from text to its number of tokens, or {APPROXIMATE!r} to approximate it, "
            f"got {shown(count_tokens)}"
        )

    def count(text: str) -> int:
        try:
            length = count_tokens(text)
        except Exception as error:  # the user's own code: anything
            raise LogError(f"count_tokens: the function failed on {shown(text)}: {error!r}") from error
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or not 0 <= length <= MAX_TOKENS:
            raise LogError(f"count_tokens: expected the function to return a whole number >= 0, got {shown(length)}")
        return int(length)

    return count


def _cap(cap_tokens: int | None, count_tokens: Callable[[str], int] | str) -> int | None:
    if cap_tokens is None:
        return None
    if not callable(count_tokens):
        raise LogError(f"cap_tokens: expected with a function as count_tokens: {APPROXIMATE} cannot say what hit a cap")
    if isinstance(cap_tokens, bool) or not isinstance(cap_tokens, int) or not 1 <= cap_tokens <= MAX_TOKENS:
        raise LogError(f"cap_tokens: expected a whole number of tokens >= 1, got {shown(cap_tokens)}")
    return cap_tokens


def _task(path: Path, *, alone: bool) -> str:
    match = _NAME.fullmatch(path.name)
    if match is None and not alone:
        raise LogError(
            f"{path.name}: expected the name that the harness gave it, samples_TASK_TIME.jsonl, which says the task"
        )
    return match[1] if match else path.name.removesuffix(".gz").removesuffix(".jsonl")
