"""`stopping reasoner` and `stopping study`: small runs of the real thing."""

import json
import sys

import jsonschema
import pytest
from typer.testing import CliRunner

from stopping.cli import app
from stopping.cli.output import StudyOutput
from stopping.reasoner import load_model
from stopping.traces import load_log
from tests.stopping.cli.drawn import drawn_log


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_a_model_is_trained_and_written(tmp_path):
    words = run("reasoner", "train", "weak_draft", "--out", tmp_path / "model", "--steps", 3, "--seed", 1).stdout
    assert "29,328 parameters" in words
    assert load_model(tmp_path / "model").num_parameters == 29_328
    assert "3 steps, seed 1" in (tmp_path / "model" / "README.md").read_text()


def test_a_log_is_recorded_and_studied(tmp_path):
    path, out = tmp_path / "log" / "traces.parquet", tmp_path / "study"
    size = ["--problems", 12, "--samples", 4, "--probed", 8, "--with-signals", 4]
    run("reasoner", "record", "--model", "draft", "--out", path.parent, *size)
    log = load_log(path)
    assert (log.num_problems, log.num_samples, log.cap_tokens) == (12, 4, 480)
    assert {name: list(log.groups["detail"]).count(name) for name in ("tokens", "checkpoints", "traces")} == {
        "tokens": 4, "checkpoints": 4, "traces": 4,
    }  # fmt: skip
    assert "12 Countdown problems x 4 traces" in (path.parent / "README.md").read_text()

    run("study", "reasoner", "--log", path, "--out", out, "--json", tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    jsonschema.validate(content, StudyOutput.model_json_schema())
    assert (content["log"]["name"], content["log"]["num_traces"]) == ("traces.parquet", 48)
    rows = content["rows"]
    assert 0.5 < rows["acceptance, weak_draft"]["mean"] < rows["acceptance, draft"]["mean"] < 1
    assert rows["accuracy, oracle, n = 4"]["mean"] >= rows["accuracy, majority, n = 4"]["mean"]
    assert rows["accuracy, oracle, n = 4"]["mean"] == log.correct.any(axis=1).mean()

    page = (out / "README.md").read_text()
    pictures = {path.name for path in out.iterdir()} - {"README.md"}
    assert pictures == {f"{part}.png" for part in ("lengths", "samples", "forced_answers", "drafting")}
    assert all(f"]({picture})" in page for picture in pictures) and all(f"| {name} | " in page for name in rows)
    assert "from the traces.parquet: 12 problems, 48 traces" in page


def test_the_shipped_log_is_studied_where_none_is_given(tmp_path, monkeypatch):
    path, seen = drawn_log(tmp_path / "drawn.parquet"), []
    monkeypatch.setattr("stopping.reasoner.recording.LOG", path)
    monkeypatch.setattr("sims.studies.reasoner.run", lambda log: seen.append(log) or {})
    run("study", "reasoner", "--out", tmp_path / "study")
    assert seen[0].equals(load_log(path))
    assert "from the shipped log: 120 problems" in (tmp_path / "study" / "README.md").read_text()


def test_a_log_without_checkpoints_is_not_one_of_the_reasoner(tmp_path):
    words = run("study", "reasoner", "--log", drawn_log(tmp_path / "drawn.parquet"), code=2).stderr
    assert "log: expected checkpoints and tokens of some problems" in words


def test_what_cannot_be_is_refused(tmp_path):
    assert (
        "expected one of target, draft, weak_draft"
        in run("reasoner", "train", "giant", "--out", tmp_path / "x", code=2).stderr
    )
    (tmp_path / "file").touch()
    assert "file" in run("reasoner", "record", "--out", tmp_path / "file", code=2).stderr
    assert "expected one of reasoner" in run("study", "nothing", code=2).stderr


def test_a_missing_gguf_library_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    words = run("reasoner", "gguf", "--model", "weak_draft", "--out", tmp_path / "model.gguf", code=2).stderr
    assert "stopping[llamacpp]" in words


def test_a_gguf_file_is_written(tmp_path):
    pytest.importorskip("gguf", reason="the extra llamacpp is not installed")
    run("reasoner", "gguf", "--model", "weak_draft", "--out", tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
