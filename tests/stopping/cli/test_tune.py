"""`stopping tune`, `promise` and thinking in `compare` and `replay`: what they print and save is what the library finds."""

import numpy as np
import pytest

import stopping
from stopping import artifacts
from stopping.adapters.drift import Drift, Traffic
from stopping.policies import ThinkingObservation, bind
from stopping.problems import Thinking
from stopping.reasoner import load_shipped_log
from stopping.traces import load_log, save_log
from stopping.traces.splits import FRACTIONS
from stopping.tuning import traffic
from tests.helpers import sized
from tests.stopping.cli.test_commands import refused, run, written


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A part of the shipped log: 500 problems with checkpoints, and 20 without."""
    log = load_shipped_log()
    path = tmp_path_factory.mktemp("log") / "part.parquet"
    save_log(log.take(np.r_[np.flatnonzero(log.probed)[:500], np.flatnonzero(~log.probed)[:20]]), path)
    return path


def test_tune_saves_what_it_found(probed, tmp_path):
    asked = ["tune", probed, "--problem", "Thinking", "--max-accuracy-drop", "0.04", "--out", tmp_path / "policy"]
    shown = run(*asked, "--json", tmp_path / "tune.json", "--plot", tmp_path / "tune.png").stdout
    content = written("tune", tmp_path / "tune.json")
    log = load_log(probed)
    found = stopping.tune(Thinking(), log.take(log.probed), max_loss=0.04)
    assert content["advice"] == found.advice and content["split"] == [150, 250, 100]
    assert " ".join(found.advice.split()) in " ".join(shown.split())
    assert "20 problems have no checkpoints, and are left out" in shown
    assert (tmp_path / "tune.png").stat().st_size > 10_000

    loaded = artifacts.load_policy(tmp_path / "policy")
    document = loaded.document
    assert loaded.policy == found.chosen.policy and str(loaded.policy) == content["chosen"]
    points = document.decision_points
    assert (document.observation, points.on, points.interval_tokens) == ("ThinkingObservation", "checkpoint", 32)
    assert (document.certificate.grade, document.certificate.max_accuracy_drop) == ("data", 0.04)
    assert str(loaded.policy) in document.evidence[0].title  # of this rule, and no other
    low, high = document.promised["accuracy_change"].interval
    assert (low, high) == found.chosen.measured.accuracy_interval and low < high
    assert "expected nothing or an empty directory" in refused(*asked)
    assert document.promised["net_saving_share"].mean == found.chosen.measured.saving_share.mean
    assert document.reference_rule == "budget=480"
    test_part = stopping.split(log.take(log.probed), FRACTIONS)[2]
    expected = traffic(Thinking(), loaded.policy, found.reference, test_part)
    assert {"length_tokens", "agreement", "log_close_prob"} <= set(expected) == set(document.traffic)
    for name, values in expected.items():
        np.testing.assert_array_equal(document.traffic[name].array(), values)
    assert Drift(Traffic.of(document)).init().keys() == document.traffic.keys()
    bound, own = loaded.bind("python"), bind(found.chosen.policy, "python")
    for log_close_prob in (-20.0, -15.0, -1.0):
        seen = ThinkingObservation(32, log_close_prob, -0.2, 0.3, 0, False, -1, 0.0, 0.0)
        assert bound.step(bound.init(), seen) == own.step(own.init(), seen)


def test_tune_ends_with_1_where_there_is_nothing_to_save(probed, tmp_path):
    few = load_log(probed)
    save_log(few.take(np.flatnonzero(few.probed)[:100]), tmp_path / "few.parquet")
    asked = ["tune", tmp_path / "few.parquet", "--problem", "Thinking"]
    assert "Do not bother" in run(*asked).stdout
    assert "nothing was saved" in run(*asked, "--out", tmp_path / "policy", code=1).stderr
    assert not (tmp_path / "policy").exists()


def test_tune_on_votes_by_default_here(probed, tmp_path):
    run("tune", probed, "--json", tmp_path / "tune.json")
    content = written("tune", tmp_path / "tune.json")
    assert (content["decision"], content["reference"]) == ("sampling", "FixedSamples(16)")


def test_compare_and_replay_thoughts(probed, tmp_path):
    options = [probed, "--problem", "Thinking", "--json", tmp_path / "out.json"]
    run("compare", *options, "--rule", "CandidateStop(1)", "--rule", "ConfidenceExit(-0.1, 64)")
    compared = written("compare", tmp_path / "out.json")
    assert [rule["rule"] for rule in compared["rules"]] == [
        "TokenBudget(480)", "CandidateStop(1)", "ConfidenceExit(-0.1, 64)",
    ]  # fmt: skip
    assert (
        compared["problem"]["decision"] == "thinking" and compared["rules"][2]["figures"]["probe_tokens"]["mean"] > 10
    )
    shown = run("replay", *options, "--rule", "CandidateStop(1)").stdout
    replayed = written("replay", tmp_path / "out.json")
    assert replayed["figures"] == compared["rules"][1]["figures"] and "thoughts stopped" in shown
    assert len(written_rules(options, tmp_path)) > 12  # without --rule: a few of each family


def written_rules(options, tmp_path):
    run("compare", *options)
    return written("compare", tmp_path / "out.json")["rules"]


def test_what_cannot_be_is_refused(probed, tmp_path):
    assert "--num-traces: Thinking has no num_traces" in refused(
        "tune", probed, "--problem", "Thinking", "--num-traces", 4
    )
    log = load_log(probed)
    save_log(log.take(np.flatnonzero(~log.probed)), tmp_path / "bare.parquet")
    assert "expected checkpoints for Thinking" in refused("tune", tmp_path / "bare.parquet", "--problem", "Thinking")
    assert "reads leader_votes" in refused("replay", probed, "--problem", "Thinking", "--rule", "Margin(2)")
    assert "at most 3,000" in refused("promise", "--problems", 3001)


@pytest.mark.slow
def test_promise_runs_live(tmp_path):
    num_live = sized(100, 200)
    shown = run(
        "promise", "--problems", num_live, "--json", tmp_path / "promise.json", "--plot", tmp_path / "live.png"
    ).stdout
    content = written("promise", tmp_path / "promise.json")
    assert content["tuned"]["chosen"] in shown and content["num_live"] == num_live
    for name in ("accuracy_change", "saving_share"):
        kept = content["kept"][name]
        assert kept["low"] < kept["promised"] < kept["high"]
        assert kept["held"] == (kept["low"] <= kept["observed"]["mean"] <= kept["high"])
    saved = content["kept"]["saving_share"]
    apart = abs(saved["observed"]["mean"] - saved["promised"])
    assert apart < 4.5 * (saved["high"] - saved["low"]) / (2 * 1.96)
    assert content["advice_placebo"].startswith("Do not bother")
