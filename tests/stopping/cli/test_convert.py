"""`stopping convert`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stopping.traces import load_chat, load_harness, load_log
from tests.stopping.cli.test_commands import NO_JAX, WIDE, refused, run, written
from tests.stopping.traces.readers import test_chat as chat
from tests.stopping.traces.readers import test_harness as harness

OWN = """
def words(text):
    return len(text.split())

def last_word(text):
    return text.split()[-1].strip(".") if text else None

def same_number(answer, target):
    return answer.replace(",", "").removesuffix(".0") == target.replace(",", "")

WORDS = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a module of the user's."""
    (tmp_path / "own_convert.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_convert", None)


def test_from_lm_eval(here):
    path = harness.written(here, *harness.repeats())
    asked = ["--from", "lm-eval", "--count-tokens", "own_convert:words", "--extract-target", harness.TARGET]
    result = run("convert", path, *asked, "--check", "numeric", "--out", "runs.parquet", "--json", "out.json")
    log = load_log("runs.parquet")
    assert log.equals(load_harness(path, harness.words, check="numeric", extract_target=harness.TARGET))
    content = written("convert", Path("out.json"))
    assert content["log"]["num_traces"] == 8 and content["report"]["counts"]["share_correct"] == 3 / 8
    assert "yes  majority vote" in result.stdout and "TraceLog(2 problems x 4 samples" in result.stdout
    own = ["--extract-answer", "own_convert:last_word", "--check", "own_convert:same_number"]
    run("convert", path, *asked, *own, "--out", "own.parquet")
    assert load_log("own.parquet").correct.tolist() == [[True, True, False, False], [True, True, False, False]]
    approximate = ["--count-tokens", "characters/4", "--filter", "strict-match"]
    assert "approximate: characters/4" in run("convert", path, *asked[:2], *approximate, "--out", "a.parquet").stdout
    both = [path, harness.written(here, *harness.single(), name=harness.LATER)]
    run("convert", *both, *asked[:4], "--filter", "strict-match", "--cap-tokens", 60, "--out", "b.parquet")
    assert load_log("b.parquet").cap_tokens == 60 and load_log("b.parquet").set_aside == {
        "filter is not 'strict-match'": 3
    }
    assert "own_convert" not in "".join(sys.path)


def test_from_openai_and_on_with_the_other_commands(here):
    lines = [
        chat.batch(f"p{problem}-{sample}", chat.response(used=chat.usage(10 + problem + 7 * sample)))
        for problem in range(4)
        for sample in range(3)
    ]
    path = chat.written(here, *lines, chat.batch("p9-0", status=500))
    (here / "targets.csv").write_text(
        "problem,target\n" + "".join(f"p{problem},{problem + 1}\n" for problem in range(4))
    )
    asked = [
        "--extract-problem",
        "(.*)-",
        "--extract-answer",
        chat.ANSWER,
        "--check",
        "exact",
        "--references",
        "targets.csv",
    ]
    result = run("convert", path, "--from", "openai", *asked, "--out", "runs.parquet")
    assert "1 rows were set aside (status_code is 500)" in result.stdout
    expected = load_chat(
        path, extract_problem="(.*)-", extract_answer=chat.ANSWER, check="exact", references=here / "targets.csv"
    )
    assert load_log("runs.parquet").equals(expected) and expected.correct.sum() == 3
    replayed = run("replay", "runs.parquet", "--rule", "FixedSamples(3)", "--json", "replay.json")
    assert replayed.exit_code == 0
    assert (
        json.loads((here / "replay.json").read_text())["figures"]["total_tokens"]["mean"]
        == expected.length_tokens.sum() / 4
    )


def test_it_needs_no_jax(here):
    path = chat.written(here, chat.batch("a"))
    command = [sys.executable, "-c", NO_JAX, "convert", path, "--from", "openai", "--out", here / "runs.parquet"]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, env={"PATH": "", **WIDE})
    assert result.returncode == 0, result.stderr
    assert load_log(here / "runs.parquet").num_traces == 1


def test_what_is_refused_in_one_line(here):
    path = harness.written(here, *harness.single())
    asked = ["convert", path, "--from", "lm-eval", "--out", "runs.parquet"]
    words = ["--count-tokens", "own_convert:words"]
    assert "--count-tokens: expected MODULE:FUNCTION" in refused(*asked)
    assert "(or --filter to choose, of 'strict-match'" in refused(*asked, *words)
    strict = [*words, "--filter", "strict-match"]
    assert "(or give --metric to choose, or --check)" in refused(*asked, *strict, "--metric", "acc")
    assert "--problem: nothing that --from lm-eval has a use for" in refused(*asked, *strict, "--problem", "id")
    assert "--filter: nothing that --from openai" in refused(
        "convert", path, "--from", "openai", "--filter", "a", "--out", "a.parquet"
    )
    assert "--count-tokens: own_convert has no function WORDS" in refused(*asked, "--count-tokens", "own_convert:WORDS")
    assert "--check: cannot import 'not_there'" in refused(*asked, *strict, "--check", "not_there:check")
    assert "got 'sympy'" in refused(*asked, *strict, "--check", "sympy")
    assert "--out: expected a name ending in .parquet" in refused(*asked[:4], "--out", "runs.csv")
    assert "--out: no such directory" in refused(*asked[:4], "--out", "none/runs.parquet")
    assert "no such log: none.jsonl" in refused("convert", "none.jsonl", *asked[2:], *words)
    assert not (here / "runs.parquet").exists()
