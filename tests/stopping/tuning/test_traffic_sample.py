"""Samples of a log's traffic: one value for each problem, compared with the log itself."""

import numpy as np

from stopping.policies import CandidateStop, ConfidenceExit, FixedSamples, Margin, TokenBudget
from stopping.problems import Sampling, Thinking
from stopping.reasoner import load_shipped_log
from stopping.tuning import traffic


def test_a_thinking_log_by_hand():
    log = load_shipped_log()
    log = log.take(np.flatnonzero(log.probed)[:40])
    samples = traffic(Thinking(), ConfidenceExit(-0.05, 32), TokenBudget(480), log)
    assert list(samples) == ["length_tokens", "agreement", "answer_mean_log_prob"]
    np.testing.assert_array_equal(samples["length_tokens"], log.length_tokens[:, 0])
    last, agrees, probes = [], [], log.checkpoints
    for problem in range(40):
        rows = np.flatnonzero(
            (probes.problem_index == problem) & (probes.sample_index == 0) & (probes.position_tokens > 0)
        )
        sure = [
            row
            for row in rows
            if np.float32(probes.signals["answer_mean_log_prob"][row]) >= -0.05 and probes.answer[row] >= 0
        ]
        agrees.append(not sure or probes.answer[sure[0]] == log.answer[problem, 0])
        last += [probes.signals["answer_mean_log_prob"][rows[-1]]] if rows.size else []
    np.testing.assert_array_equal(samples["agreement"], agrees)
    np.testing.assert_allclose(samples["answer_mean_log_prob"], last, rtol=1e-6)
    assert 0 < np.mean(agrees) < 1


def test_a_rule_agrees_with_itself_and_a_budget_reads_no_signal():
    log = load_shipped_log()
    log = log.take(np.flatnonzero(log.probed)[:40])
    samples = traffic(Thinking(), TokenBudget(480), TokenBudget(480), log)
    assert list(samples) == ["length_tokens", "agreement"] and samples["agreement"].all()
    assert "num_candidates" in traffic(Thinking(), CandidateStop(1), TokenBudget(480), log)


def test_votes():
    log = load_shipped_log()
    log = log.take(range(2100))
    samples = traffic(Sampling(16), Margin(1), FixedSamples(16), log)
    assert {name: len(values) for name, values in samples.items()} == {"length_tokens": 2000, "agreement": 2000}
    assert 0.3 < samples["agreement"].mean() < 1
