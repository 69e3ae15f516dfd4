"""The study of engines: its pieces by hand, and small runs of both engines."""

from types import SimpleNamespace

import numpy as np
import pytest

import sims
import sims.studies.engines as study
from sims import Estimate
from stopping.policies import AnswerAgreement, CloseTokenThreshold, TokenBudget
from stopping.policies.recorded_decisions import compare_decisions
from stopping.problems import Thinking
from stopping.reasoner import Plan, load_model, load_shipped_log
from stopping.reasoner.recording import draw_distinct
from stopping.reasoner.vocabulary import encode
from stopping.tuning.measurement import Prediction

NUM_PROBLEMS = 16
RULES = [CloseTokenThreshold(-1.0, -12.0, 96), AnswerAgreement(2, 64)]
RUN = study.Run(np.array([2]), np.array([]), 1, 0, [])


@pytest.fixture(scope="module")
def log():
    return load_shipped_log()


@pytest.fixture(scope="module")
def problems(log):
    return [study.problem_of(name) for name in log.take(~log.probed).problem_ids[:NUM_PROBLEMS]]


@pytest.fixture(scope="module", params=["llama.cpp", pytest.param("transformers", marks=pytest.mark.torch)])
def runs(request, problems):
    return study.ENGINES[request.param](problems, [None, *RULES])


def test_an_engine_without_a_rule_samples_from_our_distribution(runs, problems):
    alone = runs[0]
    ours = study.forced_log_probs(load_model("target"), problems, alone)
    told = np.concatenate([one.log_probs for one in alone])
    read = np.concatenate([study.drawn(each, one.tokens) for each, one in zip(ours, alone, strict=True)])
    assert len(told) == sum(one.total_tokens for one in alone) > 1000
    assert (
        np.abs(told - read).mean() < 2e-3 and np.quantile(np.abs(told - read), 0.99) < 2e-2
    )  # float16 caches and weights
    for values_of in (lambda log_probs: log_probs, study.closes):
        assert abs(study.z_score(ours, alone, values_of).mean) < 4


def test_runs_under_rules_are_counted_as_a_log_counts(runs, problems):
    for rule, each in zip(RULES, runs[1:], strict=True):
        assert any(one.extra_tokens for one in each) or rule == RULES[1]
        for one in each:
            tried = [seen.observation.elapsed_tokens for seen in one.decisions if seen.observation.probed]
            extra = one.total_tokens - len(one.tokens)  # for answers that were not given
            assert extra >= 2 * max(len(tried) - 1, 0) and (
                extra == 0 or tried or any(d.put_off for d in one.decisions)
            )
        assert compare_decisions(rule, [one.decisions for one in each]).num_different == 0
    assert np.mean([one.total_tokens for one in runs[1]]) < np.mean([one.total_tokens for one in runs[0]])


def test_the_parts_are_made_of_small_runs(runs, problems, log):
    parts = log.take(log.probed).take(range(40))
    rules = [Thinking().reference_rule(log), *RULES]
    played = sims.play_rules(Thinking(), rules, Thinking().worlds(parts), ("correct", "total_tokens"))
    fresh = log.take(~log.probed).take(range(NUM_PROBLEMS))
    rows, _ = study.distributions(problems, {"it": runs[0]}, fresh)
    assert (
        abs(rows["it: tokens of a trace, less the log's"].mean)
        < 5 * rows["it: tokens of a trace, less the log's"].standard_error
    )
    rows, _ = study.predictions(problems, RULES, played, {"it": runs}, num_nulls=20)
    assert rows["it: other decisions that differ from JAX"].mean == 0
    assert sum("predicted," in name for name in rows) == 2 * len(RULES)


def test_a_problem_is_read_off_its_prompt():
    for problem in draw_distinct(Plan(num_problems=5)):
        assert study.problem_of(problem.prompt) == problem


def test_z_detects_draws_from_another_distribution():
    """Two tokens with probabilities (.3, .7), sampled from these and from (.4, .6)."""
    random = np.random.default_rng(0)
    log_probs = np.log(np.tile([0.3, 0.7], (2000, 1)))
    scores = []
    for chance in (0.7, 0.6):
        runs = [study.Run((random.random(2000) < chance).astype(int), np.array([]), 2000, 0, []) for _ in range(5)]
        scores.append(abs(study.z_score([log_probs] * 5, runs, lambda values: values).mean))
    assert scores[0] < 4 < 10 < scores[1]


def test_a_miss_is_named_and_counted(monkeypatch):
    cells = [
        study.Cell("llama.cpp", "A()", name, Prediction(0.3, 0.2, 0.4), Estimate(came, 0.01, 100))
        for name, came in zip(study.COMPONENTS, (0.21, 0.19), strict=True)
    ]
    monkeypatch.setattr(study, "cells_of", lambda *_: cells)
    random = np.random.default_rng(0)
    played = {"correct": random.random((2, 30, 4)) < 0.5, "total_tokens": random.integers(50, 100, (2, 30, 4))}
    rows, figure = study.predictions(
        [None] * 30, [TokenBudget(64)], played, {"llama.cpp": [[RUN], [RUN]]}, num_nulls=50
    )
    assert rows["predictions missed, of 2"].mean == 1
    assert [name.split(" (")[0] for name in rows if ": A(): " in name] == [
        "llama.cpp: A(): tokens saved, %", "missed: llama.cpp: A(): change of accuracy, points",
    ]  # fmt: skip
    assert [axes.get_xlabel() for axes in figure.axes] == [
        f"{name}, predicted (95 %)" for name in study.COMPONENTS.values()
    ]


def test_what_is_right_is_read_off_the_tokens():
    problem = study.problem_of("2 3 4>24")
    texts = ["</think>(3*2)*4<eos>", "</think>(3*2)+4<eos>", "</think>(3*2)*4", "3*2=6<eos>"]
    runs = [study.Run(np.array(encode(text)), np.array([]), 0, 0, []) for text in texts]
    assert study.correct([problem] * 4, runs).tolist() == [True, False, False, False]


def test_rules_are_the_chosen_its_familys_safest_and_each_familys_riskiest():
    order = [
        TokenBudget(480),
        CloseTokenThreshold(-2.0, -9.0, 0),
        CloseTokenThreshold(-3.0, -9.0, 0),
        TokenBudget(64),
        RULES[1],
    ]
    tested = [SimpleNamespace(family=type(rule).__name__, policy=rule) for rule in order]
    found = SimpleNamespace(tested=tested, chosen=tested[2])
    assert study.rules_of(found) == [order[2], order[1], order[3]]  # AnswerAgreement's family is not run
    assert study.rules_of(SimpleNamespace(tested=tested, chosen=None)) == [order[3], order[2]]


def test_more_problems_than_there_are_are_refused(log):
    with pytest.raises(ValueError, match="num_problems: expected 1 to 3,000, got 3001"):
        study.run(log, 3001)
