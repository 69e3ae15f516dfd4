"""Chat completions in OpenAI's format: responses, pairs, and lines of the Batch API."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, TraceLog, load_chat, load_log, save_log
from tests.stopping.traces.examples import STEADY, damaged

ANSWER = r"answer is (\S+)"


def choice(content: str | None, finish_reason: str | None = "stop", index: int = 0, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason} | more


def usage(completion: int, reasoning: int | None = None, prompt: int = 20, apart: int = 0) -> dict[str, Any]:
    details = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    if reasoning is not None:
        details["reasoning_tokens"] = reasoning
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion + apart,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": details,
    }


def response(*choices: dict[str, Any], used: Any = None, **more: Any) -> dict[str, Any]:
    """The body of an answer to POST /v1/chat/completions."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_767_261_600,
        "model": "m-1",
        "choices": list(choices) or [choice("The answer is 4")],
        "usage": usage(10) if used is None else used,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    } | more


def request(question: str = "2+2?", **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "messages": [{"role": "user", "content": question}]} | more


def batch(custom_id: str, body: Any = None, status: int = 200, error: Any = None) -> dict[str, Any]:
    """A line of the Batch API's output file, or of its error file."""
    answer = {"status_code": status, "request_id": "req_1", "body": response() if body is None else body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": None if error else answer, "error": error}


def written(folder: Path, *lines: dict[str, Any], name: str = "chat.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(content) + "\n" for content in lines))
    return path


def read(folder: Path, *lines: dict[str, Any], **options: Any) -> TraceLog:
    return load_chat(written(folder, *lines), **options)


def test_a_batch(tmp_path: Path) -> None:
    lines = [
        batch("p1-sample-0", response(choice("I think the answer is 3; no, the answer is 4"), used=usage(120, 100))),
        batch("p2-sample-0", response(choice("The answer is 7"), used=usage(30, 0))),
        batch("p1-sample-1", response(choice("", "length"), used=usage(200, 200))),
        batch("p1-sample-2", response(choice("The answer is 4.0"), used=usage(90, 50))),
    ]
    references = tmp_path / "targets.csv"
    references.write_text("problem,target\np1,4\np2,8\n")
    log = read(
        tmp_path, *lines, extract_problem=r"(.*)-sample-", extract_answer=ANSWER, check="numeric", references=references
    )
    assert log.problem_ids == ("p1", "p2") and log.samples_per_problem.tolist() == [3, 1]
    assert log.length_tokens.tolist() == [[120, 200, 90], [30, 0, 0]]
    assert log.thought_tokens is not None and log.thought_tokens.tolist() == [
        [100, -1, 50],
        [0, -1, -1],
    ]  # -1: unclosed
    assert log.censored.tolist() == [[False, True, False], [False] * 3] and log.censored_known[log.present].all()
    assert log.answer_text is not None and log.answer_text.tolist() == [["4", None, "4.0"], ["7", None, None]]
    assert log.answer[0].tolist() == [0, -1, 0] and log.answer_equality == "numeric"
    assert log.correct.tolist() == [[True, False, True], [False] * 3] and log.correct_known[log.present].all()
    assert log.groups["model"].tolist() == ["m-1", "m-1"] and not log.set_aside
    assert read(tmp_path, *lines).num_problems == 4  # a batch names every request apart


@pytest.mark.parametrize("word", ["eos", "eos_token", "end", "end_turn", "stop_sequence", "STOP", "done"])
def test_an_end_by_any_name_is_one(tmp_path: Path, word: str) -> None:
    log = read(tmp_path, batch("a", response(choice("4", word))), batch("b", response(choice("4"))))
    assert log.num_problems == 2 and not log.censored.any() and not log.set_aside


@pytest.mark.parametrize("word", ["max_tokens", "MAX_TOKENS", "model_length"])
def test_a_cut_by_any_name_is_one(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, batch("a", response(choice("The ans", word)))).censored.all()


def test_what_failed_is_counted(tmp_path: Path) -> None:
    lines = [
        batch("a"),
        batch(
            "b", {"error": {"message": "slow down", "type": "rate_limit", "code": "rate_limit_exceeded"}}, status=429
        ),
        batch("c", error={"code": "batch_expired", "message": "expired"}),
        batch("d", {"error": {"message": "oops", "type": "server_error", "code": None}}),
        {"error": {"message": "bad", "type": "invalid_request_error", "code": 400}},
        {"request": request(), "response": None},
        {"request": request(), "error": "ReadTimeout after 60.1 s", "response": None},
        batch("e", response(choice("The ans", "content_filter"))),
        batch("f", response(choice(None, "tool_calls"))),
        batch("g", response(choice("The ans", None))),
        batch("h", response(choice(""), used=usage(0))),
    ]
    log = read(tmp_path, *lines)
    assert log.problem_ids == ("a",)
    assert log.set_aside == {
        "status_code is 429": 1,
        "error 'batch_expired'": 1,
        "error 'server_error'": 1,
        "error 400": 1,
        "no response": 1,
        "error": 1,
        "finish_reason is 'content_filter'": 1,
        "finish_reason is 'tool_calls'": 1,
        "finish_reason is null": 1,
        "no token was generated": 1,
    }
    save_log(log, tmp_path / "runs.parquet")
    assert load_log(tmp_path / "runs.parquet").equals(log)
    with pytest.raises(
        LogError, match=r"chat\.jsonl: expected at least one response, got none \(1: status_code is 429 set"
    ):
        read(tmp_path, lines[1])


def test_where_the_problem_is(tmp_path: Path) -> None:
    pairs = [
        {"request": request("2+2?", metadata={"problem": "four"}, temperature=1.0), "response": response()},
        {"request": request("2+3?", metadata={"problem": 5}), "response": response()},
        {"request": {"body": request("2+2?", seed=3)}, "response": response()},
    ]
    by_messages = read(tmp_path, *pairs)
    assert by_messages.samples_per_problem.tolist() == [2, 1]  # the same messages, whatever else was asked
    assert all(len(name) == 16 for name in by_messages.problem_ids)
    assert read(tmp_path, *pairs[:2], problem="request.metadata.problem").problem_ids == ("four", "5")
    assert read(tmp_path, *({"custom_id": "x"} | pair for pair in pairs)).problem_ids == ("x",)
    alone = response(metadata={"problem": "four"})
    assert read(tmp_path, alone, alone, problem="metadata.problem").samples_per_problem.tolist() == [2]
    with pytest.raises(LogError, match=r"row 1 \(line 1\), column 'custom_id': expected the problem: a custom_id"):
        read(tmp_path, alone)
    with pytest.raises(
        LogError, match=r"row 3 \(line 3\), column 'request.metadata.problem': expected the name .* got null"
    ):
        read(tmp_path, *pairs, problem="request.metadata.problem")
    with pytest.raises(LogError, match="column 'custom_id': expected a text in which extract_problem finds"):
        read(tmp_path, batch("a"), extract_problem="-(.)")
    with pytest.raises(LogError, match="column 'custom_id': expected the name of the problem, got ''"):
        read(tmp_path, batch("a"), extract_problem="a(.*)")


def test_several_files_and_kinds_of_lines(tmp_path: Path) -> None:
    one = written(tmp_path, batch("a"), {"custom_id": "b", "request": request(), "response": response()})
    two = written(tmp_path, response(custom_id="a"), name="more.jsonl")
    assert load_chat([one, two]).samples_per_problem.tolist() == [2, 1]


def listed(*counts: int) -> list[dict[str, Any]]:
    token = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    return [
        choice("The answer is 4", index=index, logprobs={"content": [token] * count, "refusal": None})
        for index, count in enumerate(counts)
    ]


def test_choices_that_share_one_usage(tmp_path: Path) -> None:
    for total in (12, 14):  # the end token of each may not be listed
        log = read(tmp_path, batch("a", response(*listed(5, 7), used=usage(total))), extract_answer=ANSWER)
        assert log.length_tokens.tolist() == [[5, 7]] and log.answer.tolist() == [[0, 0]] and log.thought_tokens is None
    without = {name: value for name, value in response(*listed(5)).items() if name != "usage"}
    assert read(tmp_path, batch("a", without)).length_tokens.tolist() == [[5]]
    for choices, used, message in (
        (
            [choice("x"), choice("y", index=1)],
            usage(12),
            "the length of each of 2 choices.*ask for logprobs.*got 12 tokens",
        ),
        (listed(5, 7), usage(40, 26), "the tokens of all choices' logprobs.* got 40 tokens, 12 of them listed"),
        (listed(5, 7), usage(11), "got 11 tokens, 12 of them listed"),
        ([choice("x")], {}, "column 'response.body.usage.completion_tokens': expected the number of tokens generated"),
    ):
        with pytest.raises(LogError, match=message):
            read(tmp_path, batch("a", response(*choices, used=used)))


def test_reasoning_that_a_server_counts_apart(tmp_path: Path) -> None:
    log = read(tmp_path, batch("a", response(used=usage(10, 90, apart=90))), batch("b", response(used=usage(10, 9))))
    assert log.length_tokens[:, 0].tolist() == [100, 10]
    assert log.thought_tokens is not None and log.thought_tokens[:, 0].tolist() == [90, 9]
    for used, message in (
        (usage(10, 90, apart=80), r"usage.total_tokens': expected the prompt's 20 and the completion's 10 .* got 110"),
        (usage(10, apart=80), "usage.total_tokens'"),
        (
            usage(10, 11),
            "usage.completion_tokens_details.reasoning_tokens': expected at most the 10 tokens generated, got 11",
        ),
        (usage(10) | {"completion_tokens": -1}, "usage.completion_tokens': expected a whole number of tokens from 0"),
        (usage(10) | {"completion_tokens": 9.5}, "usage.completion_tokens': expected a whole number.*got 9.5"),
        (usage(10) | {"completion_tokens": 2**31}, "usage.completion_tokens': expected a whole number"),
    ):
        with pytest.raises(LogError, match=message):
            read(tmp_path, batch("a", response(used=used)))


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        (batch("a", response(object="chat.completion.chunk")), {}, "body.object': expected 'chat.completion', a whole"),
        ({"problem": "a", "length_tokens": 3}, {}, "column 'choices': expected the choices of a chat completion, got null"),
        (batch("a", response(choice(3))), {}, "body.choices.0.message.content': expected the text of a message, or null"),  # type: ignore[arg-type]
        (batch("a", response({"finish_reason": "stop", "text": "4"})), {}, "choices.0.message.content': expected the text"),
        (batch("a"), {"check": "numeric"}, "check, references: expected both or neither"),
        (batch("a"), {"references": {"a": "4"}}, "check, references: expected both or neither"),
        (batch("a"), {"check": "exact", "references": {"a": "4"}}, "check: expected with extract_answer="),
        (
            batch("a"),
            {"check": "exact", "references": {"b": "4"}, "extract_answer": ANSWER},
            "expected a problem that the references have a target for, got 'a'",
        ),
        (
            batch("a"),
            {"check": "numeric", "references": {"a": "four"}, "extract_answer": ANSWER},
            r"row 1 \(line 1\), column 'response.body.choices.0.message.content': check 'numeric': expected a number as",
        ),
        (
            batch("a"),
            {"extract_answer": lambda text: 1 / 0},
            r"row 1 \(line 1\), column '.*content': extract_answer: the function failed on 'The answer is 4'",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, line: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        read(tmp_path, line, **options)


def test_one_model_a_problem(tmp_path: Path) -> None:
    with pytest.raises(
        LogError, match=r"row 2 \(line 2\), column 'response.body.model': expected 'm-1', as in the first"
    ):
        read(tmp_path, batch("a"), batch("a", response(model="m-2")))
    log = read(tmp_path, batch("a"), batch("b", response(model="m-2")))
    assert log.where(model="m-2").problem_ids == ("b",)


def test_references(tmp_path: Path) -> None:
    options: dict[str, Any] = {"extract_answer": ANSWER, "check": "exact"}
    path = tmp_path / "targets.jsonl"
    for content, message in (
        ('{"problem": "a"}\n', "no column 'target'"),
        (
            '{"problem": "a", "target": null}\n',
            r"targets.jsonl, row 1 \(line 1\), column 'target': expected a target, got null",
        ),
        (
            '{"problem": "a", "target": 4}\n{"problem": "a", "target": 5}\n',
            r"row 2 \(line 2\), column 'target': expected one target for problem 'a', got 5",
        ),
    ):
        path.write_text(content)
        with pytest.raises(LogError, match=message):
            read(tmp_path, batch("a"), references=path, **options)
    path.write_text('{"problem": "a", "target": 4}\n{"problem": "b", "target": 5}\n')
    for references in (path, {"a": "4"}):
        assert read(tmp_path, batch("a"), references=references, **options).correct.all()


@st.composite
def chat_lines(draw: st.DrawFn) -> list[dict[str, Any]]:
    lines = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "c/d", "\ud800"]), min_size=1, max_size=8)):
        tokens = draw(st.integers(1, 2**31 - 21))
        content = draw(st.sampled_from(["", None, "answer is 4", "answer is 4.0", "answer is \ud800"]))
        ended = draw(st.sampled_from(["stop", "length", "content_filter"]))
        reasoning = draw(st.none() | st.integers(0, tokens))
        lines.append(batch(name, response(choice(content, ended), used=usage(tokens, reasoning))))
    return [*lines, batch("a")]


def bag(log: TraceLog) -> Counter[Any]:
    """What is known of each trace, but not its place."""
    problem, sample = np.nonzero(log.present)
    columns = [log.length_tokens, log.correct, log.correct_known, log.answered, log.censored, log.censored_known]
    columns += [column for column in (log.answer_text, log.thought_tokens) if column is not None]
    values = zip(*(column[problem, sample].tolist() for column in columns), strict=True)
    return Counter((log.problem_ids[index], *value) for index, value in zip(problem, values, strict=True))


@STEADY
@given(lines=chat_lines(), seed=st.integers(0, 5))
def test_laws(tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], seed: int) -> None:
    """A log survives Parquet, and the order of lines decides the order of problems and samples only."""
    folder = tmp_path_factory.mktemp("log")
    targets = dict.fromkeys(["a", "b", "c/d", "\ud800"], "4")
    options: dict[str, Any] = {"extract_answer": ANSWER, "check": "numeric", "references": targets}
    log = read(folder, *lines, **options)
    save_log(log, folder / "runs.parquet")
    assert load_log(folder / "runs.parquet").equals(log)
    assert log.num_traces + sum(log.set_aside.values()) == len(lines)
    order = np.random.default_rng(seed).permutation(len(lines))
    again = read(folder, *(lines[index] for index in order), **options)
    assert bag(again) == bag(log) and again.set_aside == log.set_aside


@STEADY
@given(
    lines=damaged(
        [
            batch("a"),
            batch("a", response(*listed(2, 3), used=usage(5))),
            batch("a", {"error": {"code": "x"}}, status=500),
            batch("a", error={"code": "x"}),
            {"request": request(), "response": response(used=usage(10, 3))},
        ]
    )
)
def test_a_damaged_log_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
) -> None:
    with contextlib.suppress(LogError):
        log = read(tmp_path_factory.mktemp("log"), *lines, extract_answer=ANSWER)
        assert log.num_traces + sum(log.set_aside.values()) >= len(lines)
