"""Logs of chat completions in OpenAI's format, one JSON object a line.

A line is a response (`choices`, `usage`), a pair (`request`, `response`), or a line of the Batch API's output
(`custom_id`, `response.status_code`, `response.body`, `error`). One file may have lines of all three kinds.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stopping.traces.answers import Equality
from stopping.traces.checkers import Check, checker
from stopping.traces.endings import is_cut, is_natural
from stopping.traces.errors import LogError, shown
from stopping.traces.extraction import Extraction, extractor
from stopping.traces.readers import read_table
from stopping.traces.readers.columns import MAX_TOKENS
from stopping.traces.readers.records import Record, as_paths, records
from stopping.traces.readers.responses import AnswerReader, Responses
from stopping.traces.readers.selection import select
from stopping.traces.trace_log import TraceLog

_OK = 200
_REASONING = "completion_tokens_details.reasoning_tokens"
_HASH_CHARACTERS = 16  # 64 bits: among a million problems, two have the same name with probability 3e-8


def load_chat(
    paths: str | Path | Sequence[str | Path],
    *,
    problem: str | None = None,
    extract_problem: Extraction | None = None,
    extract_answer: Extraction | None = None,
    check: Check = "none",
    references: str | Path | Mapping[str, str] | None = None,
    answers: Equality | None = None,
) -> TraceLog:
    r"""Read logs of chat completions: every choice that ended by itself or at its cap becomes a trace.

    Its length is `usage.completion_tokens`, which includes hidden reasoning; if a server counts reasoning separately, which
    `total_tokens` shows, both are added. `reasoning_tokens` of it are the thought. Several choices share one usage: their
    lengths are those of their `logprobs.content` lists, and a line without these lists is refused. `finish_reason`
    "length", or a synonym, means censored; "stop", "eos" and the like mean that the choice ended (see `endings`). Failed
    requests, and choices ended by a filter or a tool call, are counted by reason in `set_aside`. The name of the model
    becomes the group `model`.

        load_chat("batch_output.jsonl", extract_problem=r"(.*)-sample-", extract_answer=r"(?s).*answer is (\S+)",
                  check="numeric", references="targets.csv")

    Args:
        paths: one file or several.
        problem: the path of the field with the name of the problem, "request.metadata.problem". By default `custom_id`, or
            without it a hash of the messages of the request.
        extract_problem: finds the name of the problem in that text (see `extraction.extractor`). In a batch each request
            has its own `custom_id`: samples of one problem get the same name only by this.
        extract_answer: finds the answer in the content of the message; separate reasoning is not searched. Without it the
            log has no answers.
        check: how answers are judged: "exact", "numeric", "choice", a function (see `checkers.checker`) or "none".
        references: what answers are checked against: the target by problem, or a file with the columns `problem` and
            `target` (.parquet, .jsonl, .csv). Each problem of the log must have a target.
        answers: which answers are equal, as in `load_log`; by default as `check` compares them, else "exact".

    Raises `LogError`, naming file, row, field, expected and got; `FileNotFoundError` if there is no such file.
    """
    checks = checker(check)
    if (checks is None) != (references is None):
        raise LogError("check, references: expected both or neither: answers are checked against references")
    if checks is not None and extract_answer is None:
        raise LogError("check: expected with extract_answer=, which finds the answers to check")
    several = as_paths(paths)
    reader = _ChatReader(
        AnswerReader(None if extract_answer is None else extractor(extract_answer, "extract_answer"), checks),
        problem,
        None if extract_problem is None else extractor(extract_problem, "extract_problem"),
        None if references is None else _targets(references),
    )
    for path in several:
        for record in records(path):
            reader.add(record)
    equality = None if extract_answer is None else answers or (checks.answers if checks else "exact")
    return reader.responses.log(", ".join(path.name for path in several), equality)


@dataclass
class _ChatReader:
    """The arguments of `load_chat`, and what has been read so far."""

    reader: AnswerReader
    problem: str | None
    extract_problem: Callable[[str], str | None] | None
    targets: Mapping[str, str] | None
    responses: Responses = field(default_factory=Responses)
    model: dict[str, str | None] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        body = _body(record)
        failure = _failure(record, body)
        if failure is not None:
            self.responses.set_aside[failure] += 1
            return
        if record.get(f"{body}object") not in (None, "chat.completion"):
            raise record.error(
                f"{body}object", "'chat.completion', a whole response (not its chunks, or another API's)"
            )
        choices = record.entries(f"{body}choices", "the choices of a chat completion")
        problem = self._problem(record)
        self._same_model(record, f"{body}model", problem)
        lengths, thoughts = _lengths(record, body, len(choices))
        for index, (length, thought) in enumerate(zip(lengths, thoughts, strict=True)):
            self._add_choice(record, f"{body}choices.{index}.", problem, length, thought)

    def _add_choice(self, record: Record, choice: str, problem: str, length: int, thought: int | None) -> None:
        reason = record.get(f"{choice}finish_reason")
        word = reason if isinstance(reason, str) else ""
        ended, cut = is_natural(word), is_cut(word)
        if not (ended or cut):
            self.responses.set_aside[f"finish_reason is {shown(reason)}"] += 1
            return
        if not length:
            self.responses.set_aside["no token was generated"] += 1
            return
        place = f"{choice}message.content"
        content = record.get(place)
        if not isinstance(content, str | None) or not isinstance(record.get(f"{choice}message"), dict):
            raise record.error(place, "the text of a message, or null")
        answer = self.reader.answer(record, place, content or "")
        closed = ended or bool(content)
        self.responses.add(
            problem,
            length,
            answer=answer,
            correct=None if self.targets is None else self._correct(record, place, problem, answer),
            censored=cut,
            thought_tokens=thought if closed else None,
            groups={"model": self.model[problem]},
        )

    def _correct(self, record: Record, place: str, problem: str, answer: str | None) -> bool | None:
        assert self.targets is not None
        if problem not in self.targets:
            raise record.error(place, "a problem that the references have a target for", shown(problem))
        return self.reader.correct(record, place, answer, self.targets[problem])

    def _problem(self, record: Record) -> str:
        if self.problem is not None:
            place, name = self.problem, record.text(self.problem, "the name of the problem")
        elif record.get("custom_id") is not None:
            place, name = "custom_id", record.text("custom_id")
        else:
            place, name = _messages(record)
        if self.extract_problem is not None:
            with record.at(place):
                found = self.extract_problem(name)
            if found is None:
                raise record.error(place, "a text in which extract_problem finds the problem")
            name = found
        if not name.strip():
            raise record.error(place, "the name of the problem", shown(name))
        return name

    def _same_model(self, record: Record, place: str, problem: str) -> None:
        name = record.text(place) if record.get(place) is not None else None
        if self.model.setdefault(problem, name) != name:
            raise record.error(
                place, f"{shown(self.model[problem])}, as in the first line of problem {problem!r} (one model a log)"
            )


def _body(record: Record) -> str:
    """Return the path prefix of the completion: "" for a response, "response." for a pair, "response.body." for a batch."""
    response = record.get("response")
    if response is None and "response" not in record.content:
        return ""
    return "response.body." if isinstance(response, dict) and "body" in response else "response."


def _failure(record: Record, body: str) -> str | None:
    """Return why a line has no completion (a status, an error, no response); `None` if it should have one."""
    status = record.get("response.status_code")
    if status not in (None, _OK):
        return f"status_code is {shown(status)}"
    for place in ("error", f"{body}error"):
        error = record.get(place)
        if isinstance(error, dict) and error:
            return f"error {shown(error.get('code') or error.get('type'))}"
        if error:
            return "error"  # a text, which may differ from line to line
    if body and record.get(body.rstrip(".")) is None:
        return "no response"
    return None


def _messages(record: Record) -> tuple[str, str]:
    """Return the path of the messages of the request, and a hash of them: equal messages pose the same problem."""
    for place in ("request.messages", "request.body.messages"):
        messages = record.get(place)
        if isinstance(messages, list):
            text = json.dumps(messages, sort_keys=True, separators=(",", ":"))
            return place, hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
    raise record.error(
        "custom_id", "the problem: a custom_id, a request with messages, or the field that problem= names"
    )


def _lengths(record: Record, body: str, num_choices: int) -> tuple[list[int], list[int | None]]:
    """Return the length of each choice, and the tokens of thought in it."""
    usage = f"{body}usage."
    total = _generated(record, usage)
    if num_choices == 1 and total is not None:
        thought = record.count(f"{usage}{_REASONING}", MAX_TOKENS)
        if thought is not None and thought > total:
            raise record.error(f"{usage}{_REASONING}", f"at most the {total} tokens generated")
        return [total], [thought]
    lists = [record.get(f"{body}choices.{index}.logprobs.content") for index in range(num_choices)]
    if not all(isinstance(tokens, list) for tokens in lists):
        if total is None:
            raise record.error(
                f"{usage}completion_tokens",
                "the number of tokens generated (a stream gives it with stream_options include_usage), or logprobs to count",
            )
        raise record.error(
            f"{usage}completion_tokens",
            f"the length of each of {num_choices} choices, which share one usage: ask for logprobs, whose lists are counted, "
            "or for n = 1 and more requests",
            f"{total} tokens for all",
        )
    lengths = [len(tokens) for tokens in lists]
    if total is not None and not 0 <= total - sum(lengths) <= num_choices:  # an end token may not be listed
        raise record.error(
            f"{usage}completion_tokens",
            "the tokens of all choices' logprobs: the lists are counted, and must be whole",
            f"{total} tokens, {sum(lengths)} of them listed",
        )
    return lengths, [None] * num_choices


def _generated(record: Record, usage: str) -> int | None:
    """Return the tokens of all choices, with hidden reasoning; `None` if they were not logged."""
    completion = record.count(f"{usage}completion_tokens", MAX_TOKENS)
    prompt, total = (record.count(f"{usage}{name}_tokens", MAX_TOKENS) for name in ("prompt", "total"))
    if completion is None or not prompt or not total or total == prompt + completion:
        return completion
    reasoning = record.count(f"{usage}{_REASONING}", MAX_TOKENS)
    if total == prompt + completion + (reasoning or 0):
        return total - prompt
    raise record.error(
        f"{usage}total_tokens",
        f"the prompt's {prompt} and the completion's {completion} tokens, with or without reasoning_tokens",
    )


def _targets(references: str | Path | Mapping[str, str]) -> Mapping[str, str]:
    if isinstance(references, Mapping):
        return {str(name): str(target) for name, target in references.items()}
    path = Path(references)
    names: Sequence[str] = ("problem", "target")
    selection = select(read_table, path, canonical=names, required=names, others={}, columns=None, where=None)
    codes, problems = selection.problem_codes()
    column = selection.column("target")
    codes_of_target, texts = column.texts()
    missing = column.missing()
    targets: dict[str, Any] = {}
    for row, (code, target) in enumerate(zip(codes, codes_of_target, strict=True)):
        if missing[row]:
            raise column.error(row, "a target")
        if targets.setdefault(problems[code], texts[target]) != texts[target]:
            raise column.error(row, f"one target for problem {problems[code]!r}")
    return targets
