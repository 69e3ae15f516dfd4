"""Sample logs of lm-evaluation-harness, in the lines its version 0.4.13 writes."""

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, check, load_harness, load_log, save_log
from tests.stopping.traces.examples import STEADY, damaged

NAME = "samples_gsm8k_2026-01-01T10-00-00.123456.jsonl"
LATER = "samples_gsm8k_2026-01-02T10-00-00.jsonl"
TARGETS = ["3*6 = <<3*6=18>>18\n#### 18", "2000/2=1000\n#### 1,000", "yes\n#### 1"]
TARGET = r"#### (.*)"
ANSWER = r"answer is (-?[\d.,]*\d)"


def words(text: str) -> int:
    return len(text.split())


def line(doc_id: int, responses: list[str], filtered: list[Any], **more: Any) -> dict[str, Any]:
    """As `EvaluationTracker.save_results_samples` writes it: one request, `responses` its repeats."""
    question = f"Question {doc_id}?"
    return {
        "doc_id": doc_id,
        "doc": {"question": question, "answer": TARGETS[doc_id]},
        "target": TARGETS[doc_id],
        "arguments": {
            "gen_args_0": {
                "arg_0": f"Q: {question}\nA:",
                "arg_1": {"until": ["Q:"], "do_sample": True, "temperature": 0.6, "max_gen_toks": 64},
            }
        },
        "resps": [responses],
        "filtered_resps": filtered,
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "doc_hash": f"doc{doc_id}",
        "prompt_hash": f"prompt{doc_id}",
        "target_hash": f"target{doc_id}",
        "exact_match": 0.0,
    } | more


def written(folder: Path, *lines: dict[str, Any], name: str = NAME) -> Path:
    text = "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def single() -> list[dict[str, Any]]:
    """One response a document, two filters: all documents by one, then all by the other."""
    said = ["3*6=18. The answer is 18", "Half. The answer is 1,000.", "I do not know"]
    strict = [line(0, said[:1], ["18"], exact_match=1.0), line(1, said[1:2], ["1,000"], exact_match=1.0)]
    strict.append(line(2, said[2:], ["[invalid]"]))
    flexible = [content | {"filter": "flexible-extract", "filtered_resps": ["1"]} for content in strict]
    return strict + flexible


def repeats() -> list[dict[str, Any]]:
    """Four responses a document, all kept by the filter."""
    return [
        line(0, ["The answer is 18", "It is 18", "The answer is 17", ""], [["18", "[invalid]", "17", "[invalid]"]]),
        line(
            1,
            ["The answer is 1000.0", "The answer is 1,000", "The answer is 3", "no"],
            [["1000.0", "1,000", "3", "no"]],
        ),
    ]


def test_one_response_is_judged_by_the_metric(tmp_path: Path) -> None:
    log = load_harness(written(tmp_path, *single()), words, filter_name="strict-match")
    assert log.problem_ids == ("gsm8k/0", "gsm8k/1", "gsm8k/2")
    assert log.groups["task"].tolist() == ["gsm8k"] * 3
    assert log.length_tokens[:, 0].tolist() == [5, 5, 4]
    assert log.correct[:, 0].tolist() == [True, True, False] and log.correct_known.all()
    assert log.answer_text is not None and log.answer_text[:, 0].tolist() == ["18", "1,000", None]
    assert log.answered[:, 0].tolist() == [True, True, False]
    assert not log.censored.any() and log.censored_known.all() and log.cap_tokens == 64
    assert log.set_aside == {"filter is not 'strict-match'": 3}


def test_of_several_responses_each_is_checked(tmp_path: Path) -> None:
    path = written(tmp_path, *repeats())
    log = load_harness(path, words, check="numeric", extract_target=TARGET)
    assert log.correct.tolist() == [[True, False, False, False], [True, True, False, False]]
    assert log.correct_known.all() and log.answer_equality == "numeric"
    assert log.answer.tolist() == [[0, -1, 2, -1], [0, 0, 2, 3]]  # [invalid] is no answer, "no" is one
    assert log.length_tokens[0].tolist() == [4, 3, 4, 1]  # an empty response is an end token
    assert str(log.reference) == "majority@4"
    assert not load_harness(path, words).correct_known.any()  # the metric is that of a vote, not of its voters
    assert not load_harness(path, words, check="none").correct_known.any()


@pytest.mark.parametrize("filtered", [["18"], [["18"]], [["18", "17"]]])
def test_a_filter_that_picks_leaves_no_answers(tmp_path: Path, filtered: list[Any]) -> None:
    """`take_first`, `majority_vote` and `take_first_k`."""
    path = written(tmp_path, *(content | {"filtered_resps": filtered} for content in repeats()))
    log = load_harness(path, words)
    assert log.answer_text is None and not log.has_answers and not check(log).uses["majority vote"].possible
    with pytest.raises(
        LogError, match=r"column 'filtered_resps': expected one for each of the 4 responses.*extract_answer="
    ):
        load_harness(path, words, check="numeric", extract_target=TARGET)
    log = load_harness(path, words, check="numeric", extract_target=TARGET, extract_answer=ANSWER)
    assert log.correct.tolist() == [[True, False, False, False], [True, True, False, False]]
    assert log.answer_text is not None and log.answer_text[0].tolist() == ["18", None, "17", None]


def test_runs_of_one_task_are_further_samples(tmp_path: Path) -> None:
    first, second = single()[:3], single()[1::-1]
    paths = [written(tmp_path, *first), written(tmp_path, *second, name=LATER + ".gz")]
    log = load_harness(paths, words)
    assert log.problem_ids == ("gsm8k/0", "gsm8k/1", "gsm8k/2")
    assert log.samples_per_problem.tolist() == [2, 2, 1]
    other = written(tmp_path, *first, name="samples_aime_24_2026-01-01T10-00-00.jsonl")
    both = load_harness([paths[0], other], words)
    assert both.groups["task"].tolist() == ["gsm8k"] * 3 + ["aime_24"] * 3
    assert both.where(task="aime_24").num_problems == 3
    assert load_harness(written(tmp_path, *first, name="mine.jsonl"), words).problem_ids[0] == "mine/0"


def test_what_hit_the_cap_is_censored(tmp_path: Path) -> None:
    lengths = [int(900 * share) for share in (0.5, 0.985, 0.995, 1.0, 1.005)]
    content = line(0, ["w " * length for length in lengths], [["1"] * 5])
    content["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] = 900
    path = written(tmp_path, content)
    log = load_harness(path, words)
    assert log.censored[0].tolist() == [False, False, True, True, True]
    assert log.length_tokens[0].tolist() == [450, 886, 900, 900, 900] and log.cap_tokens == 900
    assert load_harness(path, words, cap_tokens=1_000).censored.sum() == 0
    with pytest.raises(LogError, match=r"column 'resps.0.1': expected at most the cap of 800 tokens.*got 886 tokens"):
        load_harness(path, words, cap_tokens=800)
    del content["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"]
    unknown = load_harness(written(tmp_path, content), words)
    assert not unknown.censored_known.any() and unknown.cap_tokens is None


def test_an_approximation_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, line(0, ["", "abcd", "abcde"], [["1", "2", "3"]]))
    log = load_harness(path, "characters/4")
    assert log.length_tokens[0].tolist() == [1, 1, 2] and not log.censored_known.any()
    assert log.groups["token_count"].tolist() == ["approximate: characters/4"]
    save_log(log, tmp_path / "runs.parquet")
    assert load_log(tmp_path / "runs.parquet").equals(log)
    with pytest.raises(LogError, match="cap_tokens: expected with a function as count_tokens"):
        load_harness(path, "characters/4", cap_tokens=64)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"metrics": ["bypass"], "bypass": None}, None),  # --predict_only
        ({"metrics": ["exact_match"], "exact_match": True}, True),
        (
            {"metrics": ["exact_match"], "exact_match": 0.25},
            "column 'exact_match': expected a metric that is 0 or 1.*0.25",
        ),
        ({"metrics": ["a", "b"]}, "column 'metrics': expected one metric .*metric=.* got 'a', 'b'"),
        ({"acc": 1.0}, "expected one metric .* got 'exact_match', 'acc'"),  # before there was `metrics`
    ],
)
def test_the_metric(tmp_path: Path, more: dict[str, Any], expected: Any) -> None:
    content = line(0, ["The answer is 18"], ["18"]) | more
    if "acc" in more:
        del content["metrics"]
        assert load_harness(written(tmp_path, content), words, metric="acc").correct.all()
    path = written(tmp_path, content)
    if isinstance(expected, str):
        with pytest.raises(LogError, match=expected):
            load_harness(path, words)
    else:
        log = load_harness(path, words)
        assert log.correct_known.all() == (expected is not None) and log.correct.all() == bool(expected)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (single(), {}, r"row 4 \(line 4\), column 'filter': expected one filter \(or filter_name= to choose, of 'strict-match'"),
        (single(), {"filter_name": "none"}, "no line has filter = 'none'; there are: 'strict-match', 'flexible-extract'"),
        (single()[:1] * 2, {}, r"row 2 \(line 2\), column 'doc_id': expected one line .* got 'gsm8k/0' again"),
        (repeats(), {"metric": "exact_match"}, "column 'resps': expected one response, which the metric judges, got 4 of them"),
        (single()[:3], {"metric": "acc"}, r"row 1 \(line 1\), column 'acc': expected a metric that is 0 or 1 .*got null"),
        (single()[:3], {"metric": "exact_match", "check": "exact"}, "metric: expected without check="),
        (single()[:3], {"check": "numeric"}, r"row 1 \(line 1\), column 'target': check 'numeric': expected a number as target"),
        (single()[:3], {"check": "numeric", "extract_target": "x(.)"}, "column 'target': expected a target in which"),
        ([repeats()[0], line(1, ["1"] * 4, ["1"])], {}, r"row 2 \(line 2\), column 'filtered_resps': expected as in earlier"),
        ([line(0, [], [])], {}, "column 'resps': expected the responses to one request that generates text"),
        ([line(0, ["1"], [None])], {}, "column 'filtered_resps': expected texts"),
        ([{"problem": "a"}], {}, "column 'doc_id': expected the number of a document, got null"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, lines: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message) as caught:
        load_harness(written(tmp_path, *lines), words, **options)
    if message.startswith(("row", "column")):
        assert str(caught.value).startswith(f"{NAME}, row ") and caught.value.source == NAME
        assert caught.value.row == caught.value.line and caught.value.column in message


def test_likelihoods_are_no_responses(tmp_path: Path) -> None:
    """Multiple choice by log-likelihood, and rolling log-likelihood, whose lists hold texts."""
    choices = {
        "arguments": {f"gen_args_{index}": {"arg_0": "Q", "arg_1": " 18"} for index in range(2)},
        "resps": [[["-0.5", "False"]], [["-0.3", "True"]]],
        "filtered_resps": [["-0.5", "False"], ["-0.3", "True"]],
    }
    rolling = {"arguments": {"gen_args_0": {"arg_0": "Q"}}, "resps": [["-12.5"]], "filtered_resps": ["-12.5"]}
    for more in (choices, rolling):
        with pytest.raises(LogError, match="expected the responses to one request that generates text"):
            load_harness(written(tmp_path, line(0, [], []) | more), words)


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    first = written(tmp_path, *single()[:3])
    other = written(tmp_path, line(0, ["1"], ["1"], doc_hash="another"), name=LATER)
    with pytest.raises(LogError, match=r"column 'doc_hash': expected 'doc0', the document 'gsm8k/0' of another file"):
        load_harness([first, other], words)
    with pytest.raises(LogError, match=r"mine\.jsonl: expected the name that the harness gave it"):
        load_harness([first, written(tmp_path, *single()[:3], name="mine.jsonl")], words)
    with pytest.raises(LogError, match="paths: expected one or several files, each once"):
        load_harness([first, first], words)
    with pytest.raises(LogError, match=r"expected a name ending in \.jsonl or \.jsonl\.gz"):
        load_harness(written(tmp_path, name="a.csv"), words)
    with pytest.raises(LogError, match="expected at least one line, got an empty file"):
        load_harness(written(tmp_path), words)
    with pytest.raises(FileNotFoundError):
        load_harness(tmp_path / "none.jsonl", words)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (
            "characters/3",
            "count_tokens: expected a function .* or 'characters/4' to approximate it, got 'characters/3'",
        ),
        (lambda text: -1, r"row 1 \(line 1\), column 'resps.0.0': count_tokens: expected .* got -1"),
        (lambda text: len(text) / 4, "count_tokens: expected the function to return a whole number"),
        (lambda text: {}[text], "count_tokens: the function failed on 'The answer is 18': KeyError"),
    ],
)
def test_counters_that_do_not_count(tmp_path: Path, count: Any, message: str) -> None:
    with pytest.raises(LogError, match=message):
        load_harness(written(tmp_path, line(0, ["The answer is 18"], ["18"])), count)


@st.composite
def harness_lines(draw: st.DrawFn) -> list[dict[str, Any]]:
    num_repeats = draw(st.integers(1, 3))
    texts = st.lists(
        st.sampled_from(["", "18", "1,000", "x", "[invalid]", "\ud800", "é ☃"]) | st.text(max_size=5),
        min_size=num_repeats, max_size=num_repeats,
    )  # fmt: skip
    return [
        line(doc_id, draw(texts), [draw(texts)], exact_match=float(draw(st.booleans())))
        for doc_id in draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    ]


@STEADY
@given(lines=harness_lines(), seed=st.integers(0, 5), checks=st.sampled_from([None, "numeric", "exact"]))
def test_laws(tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], seed: int, checks: Any) -> None:
    """A log survives Parquet, and does not depend on the order of lines but for the order of problems."""
    folder = tmp_path_factory.mktemp("log")
    (folder / NAME).write_text("".join(json.dumps(content) + "\n" for content in lines))
    log = load_harness(folder / NAME, len, check=checks, extract_target=TARGET)
    save_log(log, folder / "runs.parquet")
    assert load_log(folder / "runs.parquet").equals(log)
    order = np.random.default_rng(seed).permutation(len(lines))
    (folder / NAME).write_text("".join(json.dumps(lines[index]) + "\n" for index in order))
    again = load_harness(folder / NAME, len, check=checks, extract_target=TARGET)
    assert again.take([again.problem_ids.index(name) for name in log.problem_ids]).equals(log)


@STEADY
@given(
    lines=damaged([*single(), *(content | {"doc_id": 2, "filter": "all"} for content in repeats()[:1])]),
    checks=st.booleans(),
)
def test_a_damaged_log_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], checks: bool
) -> None:
    path = written(tmp_path_factory.mktemp("log"), *lines)
    options: dict[str, Any] = {"check": "numeric", "extract_target": TARGET} if checks else {}
    for name in ("strict-match", "all"):
        with contextlib.suppress(LogError):
            assert load_harness(path, words, filter_name=name, **options).num_traces > 0
