"""`stopping plan` and `stopping study certification`."""

import json

import jsonschema
import pytest

import sims.studies.certification
from stopping.cli.output import StudyOutput
from stopping.policies import FixedSamples
from stopping.problems import Sampling
from stopping.traces import load_log
from tests.stopping.cli.drawn import drawn_log
from tests.stopping.cli.test_commands import refused, run, written


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return drawn_log(tmp_path_factory.mktemp("log") / "drawn.parquet", 600)


def test_without_anything_it_prints_the_floor(tmp_path):
    words = run("plan", "--json", tmp_path / "out.json").stdout
    assert (
        "a log of at least 298 problems" in words
        and "tune certifies on 50% of a log's problems" in words
        and "Recording" not in words
    )
    content = written("plan", tmp_path / "out.json")
    assert (content["floor"], content["num_problems"], content["losses"], content["log"]) == (298, None, None, None)
    assert "a log of at least 598 problems" in run("plan", "--max-accuracy-drop", 0.01).stdout


def test_numbers_given_are_counted_up(tmp_path):
    options = ["--discordance", 0, "--samples", 4, "--mean-tokens", 300, "--probe-tokens", 50]
    money = ["--price-per-million", 2, "--requests-per-day", 100, "--payback-days", 10]
    words = run("plan", *options, *money, "--json", tmp_path / "out.json").stdout
    content = written("plan", tmp_path / "out.json")
    assert content["num_problems"] == 326 and content["recording"]["tokens"] == 326 * 1400
    assert "Recording 326 problems, 1,400 tokens each: 456,400 tokens, 0.91 in money." in words
    assert "if a request saves less than 456.4 tokens" in words


def test_a_log_gives_tokens_and_a_rules_losses(log, tmp_path):
    run("plan", log, "--rule", "FixedSamples(2)", "--max-accuracy-drop", 0.1, "--json", tmp_path / "out.json")
    content, data = written("plan", tmp_path / "out.json"), load_log(log)
    problem = Sampling(4)
    base, own = (sims.replay(problem, rule, data).values["correct"] for rule in (FixedSamples(4), FixedSamples(2)))
    assert content["losses"] == {
        "rule": "FixedSamples(2)", "reference": "FixedSamples(4)",
        "discordance": (base != own).mean(), "mean_loss": pytest.approx((base - own).mean()),
    }  # fmt: skip
    assert content["possible"] and content["num_problems"] > content["floor"]
    assert content["recording"]["mean_tokens"] == pytest.approx(data.length_tokens.mean())
    assert content["recording"]["num_samples"] == 4 and content["log"]["num_problems"] == 600


def test_a_hopeless_rule_is_called_one(tmp_path):
    result = run("plan", "--discordance", 0.1, "--mean-loss", 0.05, "--json", tmp_path / "out.json")
    assert "no number for" in result.stdout and not written("plan", tmp_path / "out.json")["possible"]


def test_what_cannot_be_is_refused(log):
    assert "--rule: expected a LOG" in refused("plan", "--rule", "Margin(2)")
    assert "no --discordance" in refused("plan", log, "--rule", "Margin(2)", "--discordance", 0.1)
    assert "--max-accuracy-drop: expected" in refused("plan", "--max-accuracy-drop", 2)


def test_certificates_keep_their_word(log, tmp_path):
    run("study", "certification", "--log", log, "--out", tmp_path / "study", "--json", tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    jsonschema.validate(content, StudyOutput.model_json_schema())
    rows, limits = content["rows"], {}
    for name, figure in rows.items():
        if name.startswith("the same, 99% lower limit"):
            limits[name] = figure["mean"]
    assert len(limits) >= 5 and max(limits.values()) <= 0.05
    assert rows["certified wrongly: losses of 1, losing 0.02"]["mean"] > 0.01  # the distribution that tests it hardest
    assert rows["certified: no loss on average, 0.00% changed"]["mean"] >= 0.9
    assert rows["certified: no loss on average, 0.25% changed"]["mean"] >= 0.9
    assert any(name.startswith("certified in order: Margin(3)") for name in rows)
    assert {path.name for path in (tmp_path / "study").iterdir()} == {"README.md", "certification.png"}


def test_the_lower_limit_is_exact():
    import numpy as np
    from scipy.stats import binom

    happened = np.arange(1000) < 60
    limit = sims.studies.certification.lower_limit(happened)
    assert binom.sf(59, 1000, limit) == pytest.approx(0.01)
    assert sims.studies.certification.lower_limit(happened[500:]) == 0
