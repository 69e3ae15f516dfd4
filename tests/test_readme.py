"""The README's Python is run unchanged, on the shipped log."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stopping
from stopping.policies import SamplingObservation
from stopping.reasoner import load_shipped_log

ROAD, SERVER, TUNE, RULE, REASONER, MONTE_CARLO = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the first 200 problems of the shipped log as `runs.parquet`."""
    monkeypatch.chdir(tmp_path)
    stopping.traces.save_log(load_shipped_log().take(range(200)), tmp_path / "runs.parquet")
    return tmp_path


def test_from_a_log_to_a_server(folder: Path) -> None:
    scope: dict[str, Any] = {}
    exec(ROAD, scope)
    assert scope["log"].num_problems == 200
    assert scope["sim"].correct.standard_error <= 5e-3 < scope["real"].correct.standard_error < 0.1
    scope["observation"] = SamplingObservation(8, 0, 8, 0, 8, 0, 900, 6000)
    exec(SERVER, scope)
    saved, derived = scope["rule"], stopping.policies.bind(scope["solution"].policy, "python")
    states = [saved.init(), derived.init()]
    for number in range(1, 9):  # eight equal votes, one after another
        seen = SamplingObservation(8, 8 - number, number, 0, number, 0, 100 * number, 800 * number)
        (states[0], action), (states[1], expected) = saved.step(states[0], seen), derived.step(states[1], seen)
        assert action == expected and action.kind in (0, 1)


def test_tuning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(TUNE, scope)
    assert scope["found"].num_problems == (60, 100, 40)
    assert scope["found"].advice in capsys.readouterr().out


def test_a_rule_of_your_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my_rules.py").write_text(RULE)
    monkeypatch.syspath_prepend(folder)
    rule = importlib.import_module("my_rules").LeadingShare(0.8)
    stopping.save_policy(rule, folder / "policy")
    assert stopping.load_policy(folder / "policy").policy == rule
    table = stopping.compare(stopping.Sampling(8), [rule], stopping.load_log(folder / "runs.parquet"))
    tokens = {row.policy: row.result.total_tokens.mean for row in table.rows}
    assert tokens[rule] < max(tokens.values())


def test_the_reasoner(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(REASONER, scope)
    assert scope["samples"].tokens.shape == (1, 8, 480) and np.all(scope["samples"].length_tokens > 1)
    assert len(capsys.readouterr().out) > 10


def test_monte_carlo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(MONTE_CARLO, scope)
    tokens = scope["one"].total_tokens
    assert tokens.standard_error <= 0.01 * tokens.mean
    assert (folder / "run" / "checkpoint.json").exists()
    assert scope["grid"].differences[2].low[0] == 0.0 and scope["found"].gain.mean >= 0
    assert "variance reduced" in capsys.readouterr().out
