"""Real logs, where the shared data is there. Counts are those of their READMEs."""

from typing import Any

import numpy as np
import pytest

from stopping.traces import TraceLog, check, from_columns, load_log, save_log, split, with_checkpoints
from tests.stopping.traces.examples import shared

KEY = {"sample": "sample_id", "length_tokens": "n_tokens", "correct": "correct"}
ART_OF_TTS = {
    "problem": ["model", "dataset", "problem"],
    "sample": "sample",
    "length_tokens": "n_tokens",
    "correct": "correct",
    "answer": "pred",  # the column called "answer" is the reference answer
}

# file, columns beyond the key, options, (rows, problems of the log, most samples)
TABLES: list[tuple[str, dict[str, Any], dict[str, Any], tuple[int, int, int]]] = [
    (
        "aime_r1distill_qwen_1p5b",
        {"problem": "problem_id", "censored": "truncated"},
        {"cap_tokens": 16000},
        (3456, 432, 8),
    ),
    (
        "gemma4_12b_mcq",
        {"problem": ["collection", "problem_id"], "answer": "answer", "censored": "truncated"},
        {},
        (920, 92, 10),
    ),
    (
        "misguided_attention",
        {"problem": ["model", "problem_id"]},
        {"groups": ("model",), "where": {"length_complete": True}},
        (6016, 0, 5),
    ),
    ("qwen25math_rm100", {"problem": "problem_id", "answer": "answer"}, {"answers": "numeric"}, (800, 100, 8)),
    (
        "cotloop_small_reasoners",
        {"problem": ["dataset", "problem_id"], "censored": "truncated"},
        {"groups": ("dataset",)},
        (960, 96, 10),
    ),
    (
        "saturn_single_sample",
        {"problem": ["model", "dataset", "problem_id"], "answer": "answer", "censored": "truncated"},
        {"groups": ("model", "dataset"), "cap_tokens": 16384},
        (620, 620, 1),
    ),
    ("qwen3_1p7b_livecodebench_lengths", {"problem": "problem_id", "censored": "truncated"}, {}, (1055, 1055, 1)),
]


@pytest.mark.parametrize(("name", "columns", "options", "counts"), TABLES, ids=[table[0] for table in TABLES])
def test_every_table_with_lengths_loads(
    name: str, columns: dict[str, Any], options: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    log = load_log(shared("traces", f"{name}.parquet"), KEY | columns, **options)
    assert (log.num_traces, log.num_samples) == (counts[0], counts[2])
    if name == "misguided_attention":
        assert dict(log.set_aside) == {"where: length_complete is not True": 6620 - 6016}
        assert len({problem.split("/", 1)[1] for problem in log.problem_ids}) <= 52
    else:
        assert log.num_problems == counts[1] and not log.set_aside
    assert log.correct_known[log.present].all() == (name != "qwen3_1p7b_livecodebench_lengths")
    assert str(check(log))


def test_facts_of_the_tables() -> None:
    aime = load_log(shared("traces", "aime_r1distill_qwen_1p5b.parquet"), KEY | TABLES[0][1], cap_tokens=16000)
    assert int(aime.censored.sum()) == 66 and str(aime.reference) == "logged"
    lengths = load_log(shared("traces", "qwen3_1p7b_livecodebench_lengths.parquet"), KEY | TABLES[6][1])
    assert str(lengths.reference) == "single" and int(lengths.censored.sum()) == 220 and not lengths.correct_known.any()
    saturn = load_log(shared("traces", "saturn_single_sample.parquet"), KEY | TABLES[5][1], **TABLES[5][2])
    assert saturn.where(dataset="math500").num_problems == 500 and str(saturn.reference) == "single"


def test_probes_of_gemma_are_checkpoints(tmp_path: Any) -> None:
    log = load_log(shared("traces", "gemma4_12b_mcq.parquet"), KEY | TABLES[1][1])
    columns = {
        "problem": ["collection", "problem_id"],
        "sample": "sample_id",
        "position_tokens": "probe_position",
        "answer": "probed_answer",
        "correct": "correct",
    }
    log = with_checkpoints(
        log,
        shared("traces", "gemma4_12b_mcq_probes.parquet"),
        columns,
        grid="fraction_of_final",
        protocol="cut at each tenth, next-token distribution over the letters",
        signals=("confidence", "choice_mass"),
    )
    probes = log.checkpoints
    assert probes is not None and len(probes.position_tokens) == 10_120 == 11 * log.num_traces
    last = probes.position_tokens == log.length_tokens[probes.problem_index, probes.sample_index]
    assert last.sum() == log.num_traces
    same = probes.answer[last] == log.answer[probes.problem_index, probes.sample_index][last]
    assert 0.5 < same.mean() < 1  # the generated answer is not the last probe
    assert probes.correct[last].mean() < log.correct[log.present].mean()  # and beats it
    assert not check(log).uses["thinking exit"].possible
    save_log(log, tmp_path / "gemma.parquet")
    assert load_log(tmp_path / "gemma.parquet").equals(log)


def art_of_tts() -> TraceLog:
    return load_log(
        shared("reasoning_traces_art_of_tts", "traces.csv.gz"),
        ART_OF_TTS,
        groups=("model", "dataset"),
        no_answer_values=("NO_ANSWER",),
    )


def shortest_answered_accuracy(log: TraceLog) -> float:
    """First finish on a log: the shortest trace that has an answer, wrong where none has."""
    shortest = np.where(log.answered, log.length_tokens, np.iinfo(np.int32).max).argmin(axis=1)
    return float((log.correct & log.answered)[np.arange(log.num_problems), shortest].mean())


def test_art_of_tts_gives_the_published_first_finish_accuracies() -> None:
    log = art_of_tts()
    assert (log.num_traces, log.num_problems, log.num_samples) == (12_384, 1548, 8)
    published = {
        ("R1", "aime2024"): 0.867,
        ("R1", "aime2025-i"): 0.667,
        ("R1", "aime2025-ii"): 0.733,
        ("R1", "gpqa"): 0.737,
        ("Qwen3", "aime2024"): 0.400,
        ("Qwen3", "gpqa"): 0.631,
        ("QwQ", "aime2024"): 0.800,
        ("QwQ", "gpqa"): 0.662,
    }
    for (model, dataset), accuracy in published.items():
        assert round(shortest_answered_accuracy(log.where(model=model, dataset=dataset)), 3) == accuracy


def with_censoring(frame: Any, caps: dict[str, int]) -> Any:
    """Add `censored`: no answer, and a length within 1 % of the cap of its model and dataset.

    The source records why a completion ended only for some rows, and a few completions overshoot their cap, so the
    cap itself cannot decide. `caps` is by "model/dataset", or by "model".
    """
    cell = frame["model"] + "/" + frame["dataset"]
    cap = cell.map(caps).fillna(frame["model"].map(caps))
    return frame.assign(censored=(frame["pred"] == "NO_ANSWER") & (frame["n_tokens"] >= 0.99 * cap))


def test_art_of_tts_censoring_from_the_caps_of_its_readme() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(shared("reasoning_traces_art_of_tts", "traces.csv.gz"), keep_default_na=False)
    caps = {"R1": 32_000, "QwQ": 32_000, "R1DistilQwen": 32_000, "Qwen3": 32_000, "Qwen3/gpqa": 16_000}
    caps |= {"Qwen3-235B": 5_000, "Dapo-Qwen-32B": 20_480, "Dapo-Qwen-32B/gpqa": 10_120}
    log = from_columns(with_censoring(frame, caps), ART_OF_TTS | {"censored": "censored"}, groups=("model", "dataset"))
    assert log.censored_known[log.present].all() and not (log.censored & log.answered).any()
    assert log.where(model="R1").censored.mean() < 0.02
    capped = log.where(model="Qwen3-235B", dataset=["aime2024", "aime2025-i", "aime2025-ii"])
    assert capped.censored.sum() == (~capped.answered).sum() == 119 + 79 + 81
    gpqa = log.where(model="Qwen3-235B", dataset="gpqa")  # here half of the 707 without an answer ended before the cap
    assert (~gpqa.answered).sum() == 707 and 340 <= gpqa.censored.sum() < 400


def test_art_of_tts_splits_with_one_question_in_one_part() -> None:
    log = art_of_tts()
    question = [name.split("/", 1)[1] for name in log.problem_ids]
    parts = split(log, (0.3, 0.5, 0.2), seed=0, together=question)
    seen = [{name.split("/", 1)[1] for name in part.problem_ids} for part in parts]
    assert sum(len(part) for part in seen) == len(set.union(*seen)) == 258
    assert [part.num_problems for part in parts] == [6 * len(part) for part in seen]
