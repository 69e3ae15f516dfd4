"""`stopping export`: the settings it writes, and the loss it reports against sums made by hand."""

import json

import numpy as np
import pytest

import stopping
from stopping.policies import SAMPLING, THINKING, CandidateStop, FixedSamples, Margin, TokenBudget
from stopping.problems import Thinking
from stopping.reasoner import load_shipped_log
from stopping.traces import from_columns, load_log, save_log, split, with_checkpoints
from stopping.tuning import certify
from tests.stopping.cli.test_commands import refused, run, without_jax, written

CERTIFICATE = {"grade": "data", "risk": "accuracy", "max_accuracy_drop": 0.04, "confidence": 0.95}
POINTS = {"on": "checkpoint", "interval_tokens": 32}
EVERY = 32


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A part of the shipped log: 500 problems with checkpoints, every 32 tokens."""
    whole = load_shipped_log()
    path = tmp_path_factory.mktemp("log") / "part.parquet"
    save_log(whole.take(np.flatnonzero(whole.probed)[:500]), path)
    return path


def saved(tmp_path, policy, decision=THINKING, **options):
    options = {"decision_points": POINTS, "reference_rule": "budget=480", **options}
    return stopping.save_policy(policy, tmp_path / "policy", decision=decision, **options)


def traces(log):
    """Each trace with its checkpoints past the first token: position, answered, right, cost, candidates."""
    probes = log.checkpoints
    found = {(p, s): [] for p in range(log.num_problems) for s in range(log.num_samples)}
    candidates = probes.signals["num_candidates"]
    for i in np.flatnonzero(probes.position_tokens > 0):
        point = probes.position_tokens[i], probes.answer[i] >= 0, probes.correct[i], probes.probe_cost_tokens[i]
        found[probes.problem_index[i], probes.sample_index[i]].append((*point, candidates[i]))
    return found


def by_hand(log, stops, accepts_empty):
    """Right answers and tokens of each problem, `[2, problems]`, where a thought is stopped at a checkpoint that `stops`."""
    means = np.zeros((2, log.num_problems))
    for (problem, sample), points in traces(log).items():
        right, tokens = log.correct[problem, sample], log.length_tokens[problem, sample]
        paid = 0
        for position, answered, forced_right, cost, candidates in points:
            if stops(position, candidates):
                if answered or accepts_empty:
                    right, tokens, paid = forced_right, position + cost + paid, 0
                    break
                paid += cost
        means[:, problem] += np.array([right, tokens + paid]) / log.num_samples
    return means


def budget_by_hand(log, tokens):
    return by_hand(log, lambda position, _: position >= tokens, accepts_empty=True)


def test_the_budget_and_its_loss_are_those_found_by_hand(log, tmp_path):
    policy = saved(tmp_path, CandidateStop(1), certificate=CERTIFICATE)
    out = tmp_path / "settings"
    shown = run(
        "export", policy, "--target", "llamacpp", "--log", log, "--out", out, "--json", tmp_path / "e.json"
    ).stdout
    record = written("export", tmp_path / "e.json")
    whole = load_log(log)
    pick, certify_part, test = split(whole, (0.3, 0.5, 0.2), seed=0)

    as_policy = lambda part: by_hand(part, lambda _, candidates: candidates >= 1, accepts_empty=False)  # noqa: E731
    aim = as_policy(pick)[0].mean()
    tried = {tokens: budget_by_hand(pick, tokens).mean(axis=1) for tokens in range(EVERY, 480, EVERY)}
    enough = [tokens for tokens, (right, _) in tried.items() if right >= aim]
    budget = min(enough, key=lambda tokens: tried[tokens][1])
    assert record["rule"] == f"TokenBudget({budget})" and not record["exact"]
    assert record["fields"] == {"thinking_budget_tokens": budget}
    assert record["arguments"] == ["--reasoning-budget", str(budget)]

    change = budget_by_hand(test, budget) - as_policy(test)
    for name, values in zip(("correct", "total_tokens"), change, strict=True):
        got = record["loss"]["change"][name]
        assert got["mean"] == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
        if len(values) >= 100:  # below, a bootstrap
            assert got["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=1e-9)
    assert record["loss"]["split"] == [150, 250, 100]

    rule, native = TokenBudget(budget), Thinking(accepts_empty=True)
    limits = {"max_loss": 0.04, "confidence": 0.95, "reference": TokenBudget(480)}
    expected = certify(native, [rule], certify_part, **limits).certificates[0]
    assert record["loss"]["certified"] == (expected.grade.name != "NONE")
    assert record["loss"]["certificate"] == expected.statement and expected.statement in record["statement"]
    assert " ".join(record["statement"].split()) in " ".join(shown.split())

    assert {path.name for path in out.iterdir()} == {"README.md", "arguments.txt", "export.json", "request.json"}
    assert json.loads((out / "request.json").read_text()) == record["fields"]
    assert json.loads((out / "export.json").read_text()) == record
    assert record["statement"] in (out / "README.md").read_text()


def test_a_budget_that_does_not_hold_the_certified_accuracy_is_said_not_to(log, tmp_path):
    policy = saved(tmp_path, CandidateStop(1), certificate=CERTIFICATE | {"max_accuracy_drop": 0.001})
    shown = " ".join(run("export", policy, "--target", "vllm", "--log", log).stdout.split())
    assert "It does not keep the certified accuracy: not certified to lose less than 0.001" in shown
    bare = saved(tmp_path / "bare", CandidateStop(1))
    shown = " ".join(run("export", bare, "--target", "vllm", "--log", log).stdout.split())
    assert "The policy is not certified, so there is no limit for the rule to keep." in shown


def test_the_shipped_log_is_taken_for_a_policy_tuned_on_it(tmp_path):
    policy = saved(tmp_path, CandidateStop(1), calibrated_on={"description": "shipped log"})
    run("export", policy, "--target", "sglang", "--json", tmp_path / "e.json")
    record = written("export", tmp_path / "e.json")
    assert record["loss"]["log"]["name"] == "shipped log" and record["loss"]["split"] == [300, 500, 200]
    assert record["fields"]["custom_params"]["thinking_budget"] % EVERY == 0
    other = saved(tmp_path / "other", CandidateStop(1), calibrated_on={"description": "runs.parquet"})
    line = refused("export", other, "--target", "sglang")
    assert "--log: CandidateStop(1) is no budget" in line and line.endswith("calibrated on, runs.parquet")


def test_exact_rules_lose_nothing_and_need_neither_log_nor_jax(tmp_path):
    policy = saved(tmp_path, TokenBudget(100), calibrated_on={"description": "shipped log"})
    done = without_jax("export", policy, "--target", "llamacpp", "--out", tmp_path / "settings")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert (
        "Exact, nothing lost: TokenBudget(128) is the engine's own, which stops where TokenBudget(100) does." in shown
    )
    assert json.loads((tmp_path / "settings" / "request.json").read_text()) == {"thinking_budget_tokens": 128}
    samples = saved(tmp_path / "samples", FixedSamples(4), SAMPLING)
    run("export", samples, "--target", "transformers", "--json", tmp_path / "e.json")
    record = written("export", tmp_path / "e.json")
    assert record["exact"] and record["loss"] is None and record["fields"]["num_return_sequences"] == 4
    assert record["statement"] == "Exact, nothing lost: FixedSamples(4) is the engine's own."


def test_of_an_exact_budget_the_answers_left_empty_are_counted(log, tmp_path):
    policy = saved(tmp_path, TokenBudget(128), certificate=CERTIFICATE)
    run("export", policy, "--target", "llamacpp", "--log", log, "--json", tmp_path / "e.json")
    record = written("export", tmp_path / "e.json")
    test = split(load_log(log), (0.3, 0.5, 0.2), seed=0)[2]
    thinks_on = by_hand(test, lambda position, _: position >= 128, accepts_empty=False)
    change = (budget_by_hand(test, 128) - thinks_on).mean(axis=1)
    told = record["loss"]["change"]
    assert change[1] < 0  # there are such answers
    assert [told["correct"]["mean"], told["total_tokens"]["mean"]] == pytest.approx(change, abs=1e-9)
    assert record["loss"]["certified"] is None and "answers that a stop leaves empty" in record["statement"]


def test_without_a_budget_that_is_as_accurate_nothing_is_written(tmp_path):
    """Forced answers are wrong, the traces' own are right: every budget loses, and a policy that never stops does not."""
    rows = [(problem, position) for problem in range(20) for position in (32, 64)]
    log = from_columns(
        {"problem": list(range(20)), "length_tokens": [100] * 20, "correct": [True] * 20, "answer": ["7"] * 20},
        reference="single",
    )
    checkpoints = {
        "problem": [problem for problem, _ in rows],
        "sample": [0] * len(rows),
        "position_tokens": [position for _, position in rows],
        "answer": ["3"] * len(rows),
        "correct": [False] * len(rows),
        "probe_cost_tokens": [5] * len(rows),
        "num_candidates": [0] * len(rows),
    }
    log = with_checkpoints(log, checkpoints, grid="cue", protocol="by hand", signals=("num_candidates",))
    save_log(log, tmp_path / "hard.parquet")
    policy = saved(tmp_path, CandidateStop(1), reference_rule=None)
    asked = ["export", policy, "--target", "llamacpp", "--log", tmp_path / "hard.parquet", "--out", tmp_path / "out"]
    done = run(*asked, code=1)
    assert "no budget is right as often as the policy short of thinking to the end" in done.stderr
    assert "--reasoning-budget" not in done.stdout and not (tmp_path / "out").exists()
    assert "checkpoints at cues only" in done.stdout


def test_what_cannot_be_is_refused(log, tmp_path):
    margin = saved(tmp_path, Margin(2), SAMPLING)
    assert "Margin: no engine stops samples by a rule" in refused("export", margin, "--target", "vllm")
    thinking = saved(tmp_path / "thinking", CandidateStop(1))
    assert "has no thinking budget" in refused("export", thinking, "--target", "transformers", "--log", log)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    asked = ["export", thinking, "--target", "vllm", "--log", log, "--out", tmp_path / "full"]
    assert "--out: expected nothing or an empty directory" in refused(*asked)
    columns = {"problem": list(range(9)), "length_tokens": [9] * 9, "correct": [True] * 9, "answer": ["1"] * 9}
    save_log(from_columns(columns, reference="single"), tmp_path / "bare.parquet")
    bare = refused("export", thinking, "--target", "vllm", "--log", tmp_path / "bare.parquet")
    assert "expected checkpoints" in bare
