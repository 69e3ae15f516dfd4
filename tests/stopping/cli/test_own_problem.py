"""A custom problem (the one that notebook 08 defines) goes through the commands as the library's do."""

import sys
from html import unescape

import jax
import pytest

import sims
import stopping
from stopping.cli.named import import_module
from stopping.policies import TokenBudget
from stopping.reasoner import load_shipped_log
from stopping.traces import load_log, save_log
from stopping.tuning.substitution import substitute
from tests.stopping.cli.test_commands import refused, run, written
from tests.stopping.problems import guide

PROBLEM = ["--problem", "my_problems:GivingUp(price_per_token=5e-4)"]
BUDGETED = '''

class Budgeted(GivingUp):
    """The same, compared with budgets."""

    def fixed_rules(self, worlds):
        return [stopping.policies.TokenBudget(tokens) for tokens in range(200, 3000, 200)]
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's working directory: their file, and a log of 300 problems."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_problems.py").write_text(guide.source() + BUDGETED)
    save_log(load_shipped_log().take(range(300)), folder / "runs.parquet")
    yield folder
    sys.modules.pop("my_problems", None)


@pytest.fixture
def own(folder, monkeypatch):
    """Their module, from their working directory."""
    monkeypatch.chdir(folder)
    return import_module("my_problems", "test")


def test_it_is_compared(own, folder):
    run("compare", "runs.parquet", *PROBLEM, "--json", "compare.json", "--plot", "compare.png")
    content = written("compare", folder / "compare.json")
    rules = [f"my_problems:GiveUpAfter({attempts})" for attempts in (16, 5, 9, 13)]
    assert [rule["rule"] for rule in content["rules"]] == rules  # the reference, and a few of the fixed rules
    assert content["problem"]["name"] == "my_problems:GivingUp" and content["problem"]["decision"] == "giving_up"
    assert content["problem"]["arguments"]["price_per_token"] == 5e-4
    asked = ["--rule", "TokenBudget(800)", "--reference", "my_problems:GiveUpAfter(8)"]
    shown = run("compare", "runs.parquet", *PROBLEM, *asked, "--json", "compare.json").stdout
    content = written("compare", folder / "compare.json")
    problem, log = own.GivingUp(price_per_token=5e-4), load_log(folder / "runs.parquet")
    expected = stopping.compare(problem, [TokenBudget(800)], log, reference=own.GiveUpAfter(8)).rows[1]
    assert content["rules"][1]["figures"]["utility"]["mean"] == expected.result.utility.mean
    assert content["rules"][1]["at_equal"]["total_tokens"]["mean"] == expected.at_equal["total_tokens"].mean
    assert "300 problems, my_problems:GivingUp(price_per_token=0.0005" in shown


def test_it_is_replayed_and_simulated(own, folder):
    rule = ["--rule", "my_problems:GiveUpAfter(4)"]
    run("replay", "runs.parquet", *PROBLEM, *rule, "--json", "replay.json")
    content = written("replay", folder / "replay.json")
    problem, log = own.GivingUp(price_per_token=5e-4), load_log(folder / "runs.parquet")
    assert content["worlds"] == sims.replay(problem, own.GiveUpAfter(4), log).digest
    run(
        "replay",
        "runs.parquet",
        "--problem",
        "my_problems:GivingUp",
        "--price-per-token",
        5e-4,
        *rule,
        "--json",
        "b.json",
    )
    assert written("replay", folder / "b.json") == content
    run("simulate", *PROBLEM, *rule, "--num-replicas", 500, "--json", "simulate.json")
    expected = sims.simulate(jax.random.key(0), problem, own.GiveUpAfter(4), num_replicas=500)
    assert written("simulate", folder / "simulate.json")["figures"]["utility"]["mean"] == expected.utility.mean


def test_it_is_tuned_and_saved(own, folder, tmp_path):
    asked = [*PROBLEM, "--max-accuracy-drop", 0.3, "--rule", "TokenBudget(800)"]
    run("tune", "runs.parquet", *asked, "--out", tmp_path / "policy", "--json", "tune.json", "--plot", "tune.png")
    content = written("tune", folder / "tune.json")
    problem, log = own.GivingUp(price_per_token=5e-4), load_log(folder / "runs.parquet")
    found = stopping.tune(problem, log, max_loss=0.3, rules=[TokenBudget(800)])
    assert content["advice"] == found.advice and content["decision"] == "giving_up"
    assert content["reference"] == "my_problems:GiveUpAfter(16)" and "TokenBudget(800)" in str(content["rules"])
    loaded = stopping.load_policy(tmp_path / "policy")
    assert loaded.policy == found.chosen.policy and str(loaded.policy) == content["chosen"]
    assert loaded.document.decision_points.on == "attempt_end" and loaded.document.traffic.keys() == {"length_tokens"}
    shown = run("inspect", tmp_path / "policy", "--import", "my_problems").stdout
    assert "Valid: the checksums match" in " ".join(shown.split())

    run("report", "runs.parquet", *asked, "--out", tmp_path / "page.html")
    assert found.advice in unescape((tmp_path / "page.html").read_text())
    run("plan", "runs.parquet", *PROBLEM, "--rule", "my_problems:GiveUpAfter(4)", "--json", "plan.json")
    losses = written("plan", folder / "plan.json")["losses"]
    assert losses["reference"] == "my_problems:GiveUpAfter(16)" and losses["mean_loss"] > 0


def test_its_policies_are_exported_where_its_fixed_rules_are_an_engines(own, folder, tmp_path):
    policy = stopping.save_policy(own.GiveUpAfter(4), tmp_path / "policy", problem=own.GivingUp())
    asked = ["export", policy, "--target", "llamacpp", "--log", "runs.parquet", "--import", "my_problems", "--problem"]
    assert "GiveUpAfter(4): engines have a budget" in refused(*asked, "my_problems:GivingUp")
    run(*asked, "my_problems:Budgeted", "--json", "export.json", "--out", tmp_path / "settings")
    content = written("export", folder / "export.json")
    problem, log = own.Budgeted(), load_log(folder / "runs.parquet")
    found = substitute(problem, problem, own.GiveUpAfter(4), log)
    assert content["rule"] == str(found.rule) and not content["exact"]
    assert content["fields"] == {"thinking_budget_tokens": found.rule.max_tokens}
    assert content["loss"]["change"]["correct"]["mean"] == found.loss["correct"].mean
    assert "no engine stops samples by a rule" in refused(*asked[:-1])  # as a policy on samples


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--problem", "Nothing"],
            "problem 'Nothing': known: Sampling, Thinking; expected Sampling, Thinking(lag_tokens=8)",
        ),
        (["--problem", "my_problems:Attempts([1], [1], 0)"], "expected a problem, got Attempts"),
        (["--problem", "my_problems:Nothing()"], "my_problems has no Nothing"),
        (["--problem", "no_such_module:Problem"], "cannot import 'no_such_module'"),
        (["--problem", "my_problems:GivingUp(price=1)"], "unexpected keyword argument 'price'"),
        (["--problem", "my_problems:GivingUp", "--num-traces", 4], "--num-traces: GivingUp has no num_traces"),
        ([*PROBLEM, "--price-per-token", 1e-3], "--price-per-token: given in my_problems:GivingUp(price_per_token"),
        (["--problem", "Sampling(0)"], "num_traces: expected a whole number >= 1"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_problem_is_said(options, says, own):
    assert says in refused("compare", "runs.parquet", *options)
