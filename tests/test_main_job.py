"""The one example everything must serve, on real logs: from a log to a policy that is saved, loaded and stepped."""

import jax
import numpy as np
import pytest

import sims
import stopping
from stopping.policies import FirstFinish, FixedSamples, Margin, SamplingObservation, UnanimousWindow, VoteTable
from tests.shared import art_of_tts, needs_art_of_tts

RULES = [
    FixedSamples(1), FirstFinish(1), FirstFinish(3), Margin(2), Margin(3),
    VoteTable.adaptive_consistency(0.95, 8), VoteTable.cannot_be_caught(8), UnanimousWindow(3),
]  # fmt: skip


@needs_art_of_tts
def test_from_a_real_log_to_a_policy_on_disk(tmp_path):
    log = art_of_tts()["R1", "GPQA"]
    fit_part, _, test_part = stopping.split(log, (0.3, 0.5, 0.2), seed=0)
    fit = stopping.fit(stopping.models.LengthCorrectness(), fit_part)
    assert fit.converged
    problem = stopping.Sampling(8, model=fit.model, price_per_token=1e-6, price_per_second=1e-4, seconds_per_token=0.02)
    solution = stopping.solve(problem, stopping.solvers.FamilySearch(4096))
    simulated = sims.simulate(jax.random.key(0), problem, solution.policy, standard_error=5e-3)
    assert simulated.utility.standard_error <= 5e-3
    replayed = sims.replay(problem, solution.policy, test_part)
    stopping.save_policy(solution.policy, tmp_path / "policy", evidence=[simulated, replayed])

    loaded = stopping.load_policy(tmp_path / "policy")
    assert loaded.policy == solution.policy
    assert [evidence.title[:10] for evidence in loaded.document.evidence] == ["simulation", "replay of "]
    bound = loaded.bind("python")
    _, action = bound.step(bound.init(), SamplingObservation(8, 0, 8, 0, 8, 0, 9000, 60000))
    assert action.kind == 1  # eight equal votes: every rule here stops

    # what was promised on the fit part is met on problems that were not used for it
    held_out = sims.replay(problem, solution.policy, stopping.split(log, (0.3, 0.7), seed=0)[1])
    for name in ("correct", "total_tokens", "latency_tokens"):
        promised, met = simulated.estimates[name], held_out.estimates[name]
        # the model's own error: that of the fit part's mean, about sqrt(140 / 58) times the held-out one's
        assert abs(promised.mean - met.mean) < 4.5 * met.standard_error * np.sqrt(1 + 140 / 58), name


@needs_art_of_tts
def test_compare_on_a_real_log():
    log = art_of_tts()["R1", "GPQA"]
    table = stopping.compare(stopping.Sampling(8), RULES, log, num_orders=1)
    rows = {row.policy: row for row in table.rows}
    assert rows[FirstFinish(1)].result.correct.mean == pytest.approx(0.737, abs=5e-4)  # the log's README
    assert rows[FixedSamples(1)].result.correct.num_independent == 198
    sure = rows[VoteTable.cannot_be_caught(8)].against_reference
    assert sure["correct"].mean == 0
    assert sure["total_tokens"].mean < -4 * sure["total_tokens"].standard_error
    full = rows[FixedSamples(8)].result
    assert full.total_tokens.mean == pytest.approx(log.length_tokens.sum(axis=1).mean())
    assert full.latency_tokens.mean == pytest.approx(log.length_tokens.max(axis=1).mean())
