import json
import sys

import jsonschema
import pytest
from typer.testing import CliRunner

import sims
from stopping import artifacts
from stopping.cli import app
from stopping.cli.output import DemoOutput
from stopping.problems import Sampling
from stopping.traces import load_log, split
from tests.stopping.cli.drawn import NUM_SAMPLES, drawn_log


def test_the_whole_road_on_a_small_log(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["stopping.cli.demo"], "NUM_BLOCKS", 1)
    log = drawn_log(tmp_path / "drawn.parquet", num_problems=200)
    asked = ["demo", log, "--out", tmp_path / "policy", "--json", tmp_path / "demo.json"]
    result = CliRunner().invoke(app, list(map(str, asked)), env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "demo.json").read_text())
    jsonschema.validate(content, DemoOutput.model_json_schema())

    loaded = artifacts.load_policy(tmp_path / "policy")
    assert str(loaded.policy) == content["rule"] and content["decisions_agree"]
    assert loaded.document.reference_rule == "majority@4" and loaded.document.promised.keys() == {
        "accuracy_change",
        "net_saving_tokens",
    }
    assert content["split"] == [60, 100, 40]

    # the observed figures are those of a replay on the test part, the promised ones close to them in tokens
    test_part = split(load_log(log), (0.3, 0.5, 0.2))[2]
    problem = Sampling(NUM_SAMPLES, price_per_token=content["problem"]["arguments"]["price_per_token"])
    replayed = sims.replay(problem, loaded.policy, test_part)
    assert content["observed"]["total_tokens"]["mean"] == replayed.total_tokens.mean
    promised, observed = content["promised"]["total_tokens"], content["observed"]["total_tokens"]
    assert abs(promised["mean"] - observed["mean"]) < 5 * observed["standard_error"]

    words = result.stdout
    for said in ("1. Check", "2. Split", "3. Fit", "4. Derive", "5. Simulate and replay", "6. Save and load", "STOP"):
        assert said in words
    assert "shipped reasoner" not in words and "misses something" not in words
    flat = " ".join(words.split())
    assert content["advice"] in flat and content["advice"].startswith(("Use ", "Do not bother"))
    assert content["adaptive"] == content["advice"].startswith("Use ") or content["rule"] == content["reference"]


@pytest.mark.slow
def test_without_a_log_it_is_the_reasoners(tmp_path, monkeypatch):
    """At full size, but for the worlds drawn to choose rules."""
    monkeypatch.setattr(sys.modules["stopping.cli.demo"], "NUM_BLOCKS", 1)
    asked = ["demo", "--out", str(tmp_path / "policy"), "--json", str(tmp_path / "demo.json")]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "demo.json").read_text())
    assert (content["log"]["name"], content["log"]["num_traces"]) == ("shipped log", 64_000)
    assert content["split"] == [1200, 2000, 800] and content["reference"] == "FixedSamples(16)"
    assert content["decisions_agree"] and "the shipped reasoner's" in result.stdout
    assert str(artifacts.load_policy(tmp_path / "policy").policy) == content["rule"]
