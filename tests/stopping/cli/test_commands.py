import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

import sims
import stopping
from stopping import artifacts, calibration
from stopping.cli import app
from stopping.cli.output import OUTPUTS
from stopping.policies import FirstFinish, FixedSamples, Margin
from stopping.problems import Sampling
from stopping.traces import load_log
from tests.shared import ART_OF_TTS, needs_art_of_tts
from tests.stopping.cli.drawn import NUM_PROBLEMS, NUM_SAMPLES, drawn_log

ROOT = Path(__file__).parents[3]
WIDE = {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
ART_OF_TTS_OPTIONS = (
    "--column problem=model+dataset+problem --column sample=sample --column length_tokens=n_tokens "
    "--column correct=correct --column answer=pred --no-answer NO_ANSWER --group model --group dataset"
).split()
NO_JAX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('jax', 'jaxlib', 'equinox', 'scipy', 'optax', 'jaxtyping', 'matplotlib'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
from stopping.cli import main
main()
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=WIDE, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    """The one line on stderr."""
    result = run(*arguments, code=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.output
    return lines[0]


def written(command, path):
    """What --json wrote, valid under the schema the command prints."""
    content = json.loads(path.read_text())
    jsonschema.validate(content, json.loads(run(command, "--json-schema").stdout))
    return content


def without_jax(*arguments):
    command = [sys.executable, "-c", NO_JAX, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PATH": "", **WIDE})


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return drawn_log(tmp_path_factory.mktemp("log") / "drawn.parquet")


@pytest.fixture(scope="module")
def fitted(log):
    path = log.with_name("fit.json")
    run("fit", log, "--json", path)
    return path


def test_compare_gives_what_the_library_gives(log, tmp_path):
    out = tmp_path / "out.json"
    result = run("compare", log, "--rule", "Margin(2)", "--rule", "FirstFinish(1)", "--num-orders", 3, "--json", out)
    content = written("compare", out)
    assert content["reference"] == "FixedSamples(4)" and not content["bootstrap"] and content["num_orders"] == 3
    assert [rule["rule"] for rule in content["rules"]] == ["FixedSamples(4)", "Margin(2)", "FirstFinish(1)"]
    expected = stopping.compare(Sampling(NUM_SAMPLES), [Margin(2), FirstFinish(1)], load_log(log), num_orders=3)
    for row, rule in zip(expected.rows, content["rules"], strict=True):
        for name in ("correct", "total_tokens", "latency_tokens"):
            assert rule["figures"][name] == dataclasses.asdict(row.result.estimates[name])
            assert rule["against_reference"][name] == dataclasses.asdict(row.against_reference[name])
        assert rule["at_equal"] == {cost: dataclasses.asdict(gain) for cost, gain in row.at_equal.items()}
    assert "paired by problem" in result.stdout and "unsupported" not in result.stdout.lower()


def test_compare_of_all_rules_with_a_picture(log, tmp_path):
    result = run("compare", log, "--reference", "FixedSamples(2)", "--plot", tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    lines = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert "FixedSamples(2)" in lines and "VoteTable.adaptive_consistency" in lines
    assert "Changes are against FixedSamples(2)" in result.stdout


def test_what_a_log_does_not_hold_is_shown(log, tmp_path):
    out = tmp_path / "out.json"
    asked = [
        "--rule",
        f"FixedSamples({NUM_SAMPLES + 1})",
        "--num-traces",
        NUM_SAMPLES + 1,
        "--reference",
        f"FixedSamples({NUM_SAMPLES})",
    ]
    shown = run("compare", log, *asked, "--json", out).stdout
    assert "100.0%" in shown and "≥ 0" in shown and "without an answer" in shown
    rule = written("compare", out)["rules"][1]
    assert rule["unsupported_share"] == 1 and [bound["mean"] for bound in rule["accuracy_bounds"]] == [0, 1]
    followed = run("replay", log, *asked[:4]).stdout
    assert f"in {NUM_PROBLEMS} of {NUM_PROBLEMS} problems" in " ".join(followed.split())
    assert followed.count("≥") == 5 and "between 0 % and 100 %" in " ".join(followed.split())


def test_few_problems_are_bootstrapped_and_said_so(tmp_path):
    few = drawn_log(tmp_path / "few.parquet", num_problems=30)
    assert "Fewer than 100 problems" in run("compare", few, "--rule", "Margin(2)").stdout
    assert "Fewer than 100 problems" in run("replay", few, "--rule", "Margin(2)").stdout


def test_replay_and_narrow_terminals(log, tmp_path):
    out = tmp_path / "out.json"
    run("replay", log, "--rule", "Margin(2)", "--price-per-token", 1e-5, "--json", out)
    content = written("replay", out)
    problem = Sampling(NUM_SAMPLES, price_per_token=1e-5)
    expected = sims.replay(problem, Margin(2), load_log(log))
    assert content["figures"]["utility"]["mean"] == expected.utility.mean and content["worlds"] == expected.digest
    narrow = CliRunner().invoke(app, ["compare", str(log), "--rule", "Margin(2)"], env=WIDE | {"COLUMNS": "80"})
    assert narrow.exit_code == 0 and max(map(len, narrow.stdout.splitlines())) <= 80


def test_a_model_file_simulates_as_the_log_it_was_fitted_on(log, fitted, tmp_path):
    content = written("fit", fitted)
    assert content["num_judged"] == NUM_PROBLEMS * NUM_SAMPLES and len(content["model"]["alpha"]) == NUM_PROBLEMS
    assert content["model"]["cap_tokens"] == 20_000 and content["standard_errors"]["shift"] > 0
    asked = ["simulate", "--rule", "Margin(2)", "--num-replicas", 500, "--seed", 4, "--json"]
    run(*asked, tmp_path / "a.json", log)
    run(*asked, tmp_path / "b.json", "--model", fitted)
    a, b = (written("simulate", tmp_path / name) for name in ("a.json", "b.json"))
    assert a["worlds"] == b["worlds"] and a["figures"] == b["figures"] and a["num_units"] == 500


def test_fit_in_words(fitted):
    words = run("inspect", fitted).stdout
    for said in ("chance of a right answer", "wrong traces are longer by", "Kolmogorov-Smirnov", "Set aside: nothing."):
        assert said in words


@pytest.mark.parametrize("flags", [{}, {"pooled": True}, {"pooled": True, "float64": True}], ids=str)
def test_the_flags_of_fit_reach_it(flags, log, monkeypatch):
    def spy(model, data, **options):
        raise ValueError(str({name: value for name, value in options.items() if value}))

    monkeypatch.setattr(calibration, "fit", spy)
    assert refused("fit", log, *(f"--{name}" for name in flags)) == f"error: {flags}"


def test_an_error_that_cannot_be_reached_is_exit_code_1(fitted, monkeypatch):
    monkeypatch.setattr("sims.precision.UNVARIED", 4096)
    result = run("simulate", "--model", fitted, "--rule", "Margin(2)", "--standard-error", 1e-6, code=1)
    assert "which needs about" in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_inspect_logs_and_policies(log, tmp_path):
    out = tmp_path / "out.json"
    assert "majority vote" in run("inspect", log, "--json", out).stdout
    content = written("inspect", out)
    assert content["kind"] == "log" and content["content"]["counts"]["problems"] == NUM_PROBLEMS
    artifacts.save_policy(FixedSamples(3), tmp_path / "policy")
    assert "Valid" in run("inspect", tmp_path / "policy", "--json", out).stdout
    assert written("inspect", out)["content"]["document"]["kind"] == "FixedSamples"


def test_json_on_stdout_is_nothing_else(log):
    result = run("replay", log, "--rule", "Margin(2)", "--json", "-")
    assert json.loads(result.stdout)["rule"] == "Margin(2)" and "accuracy" in result.stderr


def test_every_command_has_a_schema():
    for name, record in OUTPUTS.items():
        schema = json.loads(run(name, "--json-schema").stdout)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema == record.model_json_schema()


def test_a_custom_rule_and_its_artifact(log, tmp_path, monkeypatch):
    shutil.copy(Path(__file__).with_name("own_rules.py"), tmp_path / "my_cli_rules.py")
    monkeypatch.chdir(tmp_path)
    assert "my_cli_rules:CliShare(2)" in run("replay", log, "--rule", "my_cli_rules:CliShare(2)").stdout
    save = (
        "from stopping import artifacts; import my_cli_rules; artifacts.save_policy(my_cli_rules.CliShare(2), 'policy')"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    subprocess.run([sys.executable, "-c", save], check=True, env=paths)
    assert "Valid" in run("inspect", "policy", "--import", "my_cli_rules").stdout
    inspect = [sys.executable, "-c", "from stopping.cli import main; main()", "inspect", "policy"]
    unknown = subprocess.run(inspect, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert unknown.returncode == 2 and "'my_cli_rules': import that module" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "missing.parquet"], "no such log: missing.parquet"),
        (["inspect", "missing"], "no such file or directory: missing"),
        (["compare", "{log}", "--column", "problem"], "--column: expected NAME=VALUE, got 'problem'"),
        (["compare", "{log}", "--column", "problem=problem", "--column", "problem=x"], "'problem' is given twice"),
        (["compare", "{log}", "--column", "length_tokens=sample"], "say so: --column problem=ITS_NAME"),
        (["compare", "{log}", "--column", "length=length_tokens"], "--column: expected our names"),
        (["compare", "{log}", "--where", "colour"], "--where: expected NAME=VALUE, got 'colour'"),
        (["compare", "{log}", "--where", "colour=red"], "no column 'colour'"),
        (["compare", "{log}", "--rule", "Margin(0)"], "Margin.votes: expected a whole number >= 1"),
        (["compare", "{log}", "--rule", "Nothing"], "rule 'Nothing'"),
        (["compare", "{log}", "--reference", "Nothing"], "rule 'Nothing'"),
        (["compare", "{log}", "--import", "no_such_module"], "--import: cannot import 'no_such_module'"),
        (["compare", "{log}", "--reference-rule", "majority@99"], "reference majority@99: expected at most the log's"),
        (["compare", "{log}", "--plot", "picture.txt"], "--plot: expected a name ending in .png"),
        (["compare", "{log}", "--plot", "no/where.png"], "--plot: no such directory"),
        (["compare", "{log}", "--json", "no/where.json"], "--json: no such directory"),
        (["compare", "{log}", "--price-per-token", "-1"], "price_per_token: expected a number >= 0"),
        (["compare", "{log}", "--cap-tokens", "10"], "10"),
        (["replay", "{text}", "--rule", "Margin(2)"], "expected a name ending in .parquet"),
        (["replay", "{unjudged}", "--rule", "Margin(2)"], "expected known correctness"),
        (["fit", "{unjudged}"], "traces of known correctness"),
        (["simulate", "--rule", "Margin(2)"], "either LOG or --model"),
        (
            ["simulate", "{log}", "--rule", "Margin(2)", "--standard-error", "0"],
            "--standard-error: expected a positive",
        ),
        (
            ["simulate", "{log}", "--rule", "Margin(2)", "--standard-error", "1", "--num-replicas", "9"],
            "expected one of",
        ),
        (["simulate", "{log}", "--rule", "Margin(2)", "--max-seconds", "-1"], "--max-seconds: expected a positive"),
        (["simulate", "{log}", "--rule", "Margin(2)", "--component", "joy"], "component: expected one of correct"),
        (["simulate", "--rule", "Margin(2)", "--model", "missing.json"], "no such file: missing.json"),
        (["simulate", "--rule", "Margin(2)", "--model", "{text}"], "note.txt: expected JSON"),
        (["simulate", "--rule", "Margin(2)", "--model", "{other}"], "other.json: not what stopping fit --json writes"),
        (["inspect", "{other}"], "other.json: not what stopping fit --json writes"),
        (["inspect", "{folder}"], "the file is missing"),
        (["demo", "--out", "{folder}/.."], "--out: expected nothing or an empty directory"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(arguments, says, log, tmp_path):
    files = {"log": log, "text": tmp_path / "note.txt", "other": tmp_path / "other.json", "folder": tmp_path / "folder"}
    files["text"].write_text("hello")
    files["other"].write_text('{"command": "fit"}')
    files["folder"].mkdir()
    files["unjudged"] = tmp_path / "unjudged.jsonl"
    files["unjudged"].write_text('{"problem": "a", "length_tokens": 3}\n{"problem": "a", "length_tokens": 4}\n')
    assert says in refused(*(argument.format(**files) for argument in arguments))


def test_a_model_out_of_its_range_is_refused(fitted, tmp_path):
    for name, value, says in [
        ("scale_right", -1, "model.scale_right"),
        ("alpha", [1.0], "one entry a problem"),
        ("loop_prob", 2, "model.loop_prob"),
        ("shift", float("nan"), "model.shift"),
        ("answers", {"discount": 0.5, "concentration": -0.6}, "concentration > -discount"),
    ]:
        content = json.loads(fitted.read_text())
        content["model"][name] = value
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(content))
        assert says in refused("simulate", "--rule", "Margin(2)", "--model", path)


def test_missing_options_are_the_users_error(log):
    assert "rule" in run("replay", log, code=2).stderr
    run("nonsense", code=2)


def test_help_and_inspect_need_no_jax(log, tmp_path):
    artifacts.save_policy(Margin(2), tmp_path / "policy")
    for arguments in (
        ["--help"],
        ["compare", "--help"],
        ["fit", "--json-schema"],
        ["inspect", log],
        ["inspect", tmp_path / "policy"],
    ):
        done = without_jax(*arguments)
        assert done.returncode == 0 and done.stdout and not done.stderr, (arguments, done.stderr)


@pytest.mark.parametrize("command", ["compare", "replay", "fit", "simulate", "demo"])
def test_a_missing_extra_is_named(command, log):
    rule = ["--rule", "Margin(2)"] if command in ("replay", "simulate") else []
    done = without_jax(command, log, *rule)
    assert done.returncode == 2 and "pip install 'stopping[tune]'" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv[1:] = ['--help']\nfrom stopping.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'numpy', 'jax', 'pyarrow', 'pydantic', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "heavy: []"


def test_a_bug_shows_its_traceback_and_is_exit_code_70():
    code = (
        "import sys, stopping.traces\ndef broken(*a, **k): raise RuntimeError('a bug')\nstopping.traces.load_log = broken\n"
        "sys.argv[1:] = ['inspect', 'pyproject.toml']\nfrom stopping.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 70 and "RuntimeError: a bug" in done.stderr


@needs_art_of_tts
def test_the_art_of_tts_log_through_its_columns(tmp_path):
    out = tmp_path / "out.json"
    only = ["--where", "model=R1", "--where", "dataset=aime2024", "--where", "dataset=aime2025-i"]
    run("compare", ART_OF_TTS, *ART_OF_TTS_OPTIONS, *only, "--rule", "FirstFinish(1)", "--json", out)
    content = written("compare", out)
    assert content["log"]["num_problems"] == 45 and sum(content["log"]["set_aside"].values()) == 12_384 - 45 * 8
    # check values of the data's README: .867 on 30 problems of AIME 2024, .667 on 15 of AIME 2025-I
    assert np.isclose(content["rules"][1]["figures"]["correct"]["mean"], (0.867 * 30 + 0.667 * 15) / 45, atol=1e-3)
