"""What saving and loading refuse, by file and field."""

import hashlib
import json
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from stopping import artifacts
from stopping.artifacts import ArtifactError
from stopping.policies import THINKING, Margin, VoteTable
from tests.stopping.artifacts.own_policies import FLOAT_POLICY
from tests.stopping.policies.own_policies import RunningAgreement


def sign(directory):
    """Sign everything again, so that no checksum is in the way of what is tested."""
    try:
        content = json.loads((directory / "policy.json").read_text())
        for name in content["files"]:
            content["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        (directory / "policy.json").write_text(json.dumps(content))
    except (ValueError, KeyError, RecursionError, FileNotFoundError):
        pass
    checksums(directory)


def checksums(directory):
    paths = sorted(path for path in directory.iterdir() if path.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)
    (directory / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def directory(tmp_path):
    return artifacts.save_policy(VoteTable([3, 5, 6, 8]), tmp_path / "policy")


@pytest.fixture
def with_weights(tmp_path):
    return artifacts.save_policy(VoteTable.cannot_be_caught(9000), tmp_path / "policy")


def refused(directory, message):
    with pytest.raises(ArtifactError, match=message) as raised:
        artifacts.load_policy(directory)
    assert raised.value.file
    return raised.value


def replace(directory, old, new, name="policy.json", count=1):
    path = directory / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    checksums(directory)


def edit(directory, *path, value):
    """Change one value of policy.json."""
    content = json.loads((directory / "policy.json").read_text())
    *parents, last = path
    node = content
    for key in parents:
        node = node[key]
    node[last] = value
    (directory / "policy.json").write_text(json.dumps(content))
    checksums(directory)


# ---- the directory


def test_not_a_directory(tmp_path):
    refused(tmp_path / "nowhere", "nowhere: expected a directory")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "expected a directory")
    refused("nul\0byte", "expected a directory|cannot be read")


@pytest.mark.parametrize("name", ["policy.json", "golden.jsonl", "README.md", "SHA256SUMS"])
def test_a_missing_file(directory, name):
    (directory / name).unlink()
    assert refused(directory, "the file is missing").file == name


def test_a_file_too_many(directory):
    (directory / "model.pkl").write_bytes(b"")
    refused(directory, r"expected only README.md, SHA256SUMS, .*, found 'model.pkl'")


def test_links_and_directories(directory, tmp_path):
    (directory / "README.md").rename(tmp_path / "card")
    (directory / "README.md").symlink_to(tmp_path / "card")
    refused(directory, "README.md: expected a regular file, not a link or a directory")
    (directory / "README.md").unlink()
    (directory / "README.md").mkdir()
    refused(directory, "README.md: expected a regular file")


def test_a_pipe_is_not_waited_for(directory):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    (directory / "README.md").unlink()
    os.mkfifo(directory / "README.md")
    refused(directory, "README.md: expected a regular file")


@pytest.mark.parametrize("name", ["policy.json", "golden.jsonl", "README.md"])
def test_a_changed_byte(directory, name):
    with (directory / name).open("ab") as file:
        file.write(b" ")
    assert refused(directory, rf"SHA256SUMS: line \d: the checksum of {name} does not match").file == "SHA256SUMS"


@pytest.mark.parametrize("line", ["0" * 64 + "  ../../etc/passwd\n", "\n", "# more\n"])
def test_checksums_of_other_files(directory, line):
    with (directory / "SHA256SUMS").open("a") as file:
        file.write(line)
    refused(directory, "SHA256SUMS: ")


@pytest.mark.parametrize(
    ("name", "limit"),
    [("policy.json", 2**20), ("golden.jsonl", 2**24), ("README.md", 2**20), ("weights.safetensors", 2**28)],
)
def test_a_file_too_large(directory, name, limit):
    with (directory / name).open("ab") as file:
        file.truncate(limit + 1)
    refused(directory, f"{name}: expected at most {limit:,} bytes, got {limit + 1:,}")


# ---- policy.json

TABLE = "parameters.required_by_runner_up.array"


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('"lag_tokens": 0', '"lag_tokens": 0, "surprise": 1', "surprise", "Extra inputs are not permitted"),
        ('"lag_tokens": 0', '"lag_tokens": 0, "lag_tokens": 0', "", "repeated key 'lag_tokens'"),
        ('"lag_tokens": 0', '"lag_tokens": -1', "lag_tokens", "greater than or equal to 0, got -1"),
        ('"lag_tokens": 0', '"lag_tokens": 1.0', "lag_tokens", "valid integer, got 1.0"),
        ('"lag_tokens": 0', '"lag_tokens": true', "lag_tokens", "valid integer"),
        ('"lag_tokens": 0', f'"lag_tokens": {10**400}', "lag_tokens", "."),
        ('"lag_tokens": 0', f'"lag_tokens": {"9" * 5000}', "", "not valid JSON"),
        ('"lag_tokens": 0', '"lag_tokens": ' + "[" * 100_000, "", "nested too deeply|not valid JSON"),
        ('"lag_tokens": 0', '"lag_tokens": ' + "[" * 900 + "]" * 900, "", "."),
        ('"promised": {}', '"promised": {"a": {"mean": NaN, "standard_error": 0}}', "promised.a.mean", "finite number"),
        ('"promised": {}', '"promised": {"a": {"mean": 1e999, "standard_error": 0}}', "promised.a.mean",
         "finite number"),
        ('"promised": {}', '"promised": {"a": {"mean": 1}}', "promised.a", "expected a standard_error or an interval"),
        ('"promised": {}', '"promised": {"a": {"mean": 1, "interval": [2, 1]}}', "promised.a",
         r"interval \[low, high\]"),
        ('"promised": {}', '"promised": {"a": {"mean": 1, "interval": [2]}}', "promised.a.interval",
         "at least 2 items"),
        ('"schema_version": "1.1"', '"schema_version": "2.0"', "schema_version",
         r"expected version 1\.1 .*, got '2\.0': upgrade"),
        ('"schema_version": "1.1"', '"schema_version": "2.0", "new": 1', "schema_version", "upgrade the library"),
        ('"schema_version": "1.1"', '"schema_version": "0.9"', "schema_version", "match pattern"),
        ('"schema_version": "1.1"', '"schema_version": 1.0', "schema_version", "valid string"),
        ('"kind": "VoteTable"', '"kind": "Nope"', "kind",
         "no policy is called 'Nope'; known: .*import that module before"),
        ('"kind": "VoteTable"', '"kind": "Margin"', "parameters", "Margin has votes; got required_by_runner_up"),
        ('"kind": "VoteTable"', '"kind": "os.system"', "kind", "match pattern"),
        ('"signals": [', '"signals": ["answer", ', "signals", "VoteTable has"),
        ('"STOP"', '"ABSTAIN"', "actions", "VoteTable has"),
        ('"STOP"', '"EXPLODE"', "actions.1", "'CONTINUE', 'STOP'"),
        ('"required_by_runner_up"', '"required"', "parameters", "VoteTable has required_by_runner_up; got required"),
        ('"dtype": "int32"', '"dtype": "object"', f"{TABLE}.dtype", "'bool', 'int8'"),
        ('"dtype": "int32"', '"dtype": "float32"', f"{TABLE}", "expected values of dtype float32"),
        ('"values": [', '"values": [1, ', f"{TABLE}", "expected 4 values for shape .4., got 5"),
        ('"shape": [', '"shape": [2, ', f"{TABLE}", "expected 8 values"),
        ('"shape": [', '"shape": [-1, ', f"{TABLE}.shape.0", "greater than or equal to 0"),
        ('"on": "trace_end"', '"on": "full_moon"', "decision_points.on", "'trace_end'"),
        ('"on_missing_signal": "refuse"', '"on_missing_signal": "guess"', "fallback.on_missing_signal", "'refuse'"),
        ('"plain_python": true', '"plain_python": 1', "plain_python", "valid boolean"),
        ('"lag_tokens": 0', '"lag_tokens": 0, "reference_rule": "majority@0"', "reference_rule", "match pattern"),
        ('"lag_tokens": 0', '"lag_tokens": 0, "certificate": {"grade": "gold"}', "certificate.grade", "'proof'"),
        ('"lag_tokens": 0', '"lag_tokens": 0, "license": "\\ud800"', "", "."),
    ],
    ids=count(),
)  # fmt: skip
def test_policy_json(directory, old, new, field, message):
    path = directory / "policy.json"
    path.write_text(path.read_text().replace("[\n    ", "[").replace("[\n        ", "["))
    replace(directory, old, new)
    error = refused(directory, message)
    assert error.file == "policy.json"
    assert error.field == field or message == "."


def test_a_newer_minor_version_is_read(directory):
    replace(directory, '"schema_version": "1.1"', '"schema_version": "1.7"')
    assert artifacts.load_policy(directory).document.schema_version == "1.7"


def test_what_the_policy_itself_refuses(directory):
    edit(directory, "parameters", "required_by_runner_up", "values", 0, value=0)
    error = refused(
        directory, r"parameters: VoteTable refuses them: VoteTable\.required_by_runner_up: expected more votes"
    )
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize(("value", "dtype"), [(300, "int8"), (-1, "uint8"), (0.1, "float32"), (1e300, "float32")])
def test_values_that_the_dtype_cannot_hold(tmp_path, value, dtype):
    kind = "int64" if isinstance(value, int) else "float64"
    directory = artifacts.save_policy(FLOAT_POLICY(0.5, np.array([value], kind)), tmp_path / "policy")
    with np.errstate(over="ignore"):
        replace(directory, f'"dtype": "{kind}"', f'"dtype": "{dtype}"')
        refused(directory, f"parameters.weights.array: .*expected values that {dtype} holds exactly")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"{}", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a":\x00}'])
def test_policy_json_that_is_no_document(directory, content):
    (directory / "policy.json").write_bytes(content)
    checksums(directory)
    assert refused(directory, "policy.json: ").file == "policy.json"


def test_digests_in_policy_json(directory):
    lines = (directory / "golden.jsonl").read_text().splitlines(keepends=True)
    (directory / "golden.jsonl").write_text("".join(lines[:-1]))
    checksums(directory)
    assert refused(directory, "SHA-256 is another").field == "files.golden.jsonl"


# ---- golden.jsonl


def golden(leader_votes, runner_up_votes, *decisions):
    """A golden line of one observation."""
    observations = f'[{{"leader_votes": {leader_votes}, "runner_up_votes": {runner_up_votes}}}]'
    return f'{{"observations": {observations}, "decisions": [{", ".join(f"[{d}]" for d in decisions)}]}}'


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("", "line 2", "not valid JSON"),
        ("{}", "line 2.observations", "Field required"),
        ('{"observations": [], "decisions": []}', "line 2.observations", "at least 1 item"),
        (golden("1", "0"), "line 2", "expected 1 decisions, got 0"),
        ('{"observations": [{"leader_votes": 1}], "decisions": [[0, 0]]}', "line 2.observations.0",
         "expected leader_votes, runner"),
        (golden("1", "0", "1, 0"), "line 2",
         "decision 0 must be STOP 0, this policy gives CONTINUE 0 on NumPy"),
        (golden("1", "0", "2, 0"), "line 2.decisions.0",
         "LAUNCH is not legal here"),
        (golden("1", "0", "9, 0"), "line 2.decisions.0.0", "less than"),
        (golden("1e999", "0", "0, 0"), None, "finite number"),
        (golden("NaN", "0", "0, 0"), None, "finite number"),
        (golden("4294967297", "0", "0, 0"), None, "expected int32"),
        (golden("1", "-9", "0, 0"), None, "cannot be run"),
        (golden("1", "[1, 2]", "0, 0"), None, "cannot be run"),
        (golden('1, "leader_votes": 1', "0", "0, 0"), "line 2", "repeated key 'leader_votes'"),
    ],
    ids=count(),
)  # fmt: skip
def test_golden_lines(directory, line, field, message):
    path = directory / "golden.jsonl"
    first, _, *rest = path.read_text().split("\n")
    path.write_text("\n".join([first, line, *rest]))
    sign(directory)
    error = refused(directory, message)
    assert error.file == "golden.jsonl"
    assert field is None or error.field == field


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected 1 to 10,000 lines, got 0"), ("{}", "expected the end of a line"), ("{}\n" * 10_001, "got 10,001")],
)
def test_golden_file(directory, text, message):
    (directory / "golden.jsonl").write_text(text)
    sign(directory)
    refused(directory, f"golden.jsonl: .*{message}")


def test_a_changed_parameter_is_caught_by_the_golden_lines(directory):
    edit(directory, "parameters", "required_by_runner_up", "values", 2, value=7)
    refused(directory, r"golden.jsonl: line \d+: decision \d+ must be STOP 0, this policy gives CONTINUE 0")


# ---- weights.safetensors


def test_a_changed_tensor(with_weights):
    path = with_weights / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    checksums(with_weights)
    assert refused(with_weights, "SHA-256 is another").field == "files.weights.safetensors"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "required_by_runner_up: the tensor of parameter 'required_by_runner_up' is missing"),
        ({"required_by_runner_up": np.full(5000, 4501, np.int32)}, r"expected int32 \[4501\], got int32 \[5000\]"),
        ({"required_by_runner_up": np.full(4501, 4501, np.int64)}, r"expected int32 \[4501\], got int64 \[4501\]"),
        (
            {"required_by_runner_up": np.full(4501, 4501, np.int32), "a": np.ones(1)},
            "a: no parameter refers to this tensor",
        ),
        ({"required_by_runner_up": np.full(4501, 4501, np.float16)}, "expected int32"),
        *(
            (content, ".")
            for content in (b"", b"\0" * 8, b"\xff" * 8, b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}")
        ),
    ],
    ids=count(),
)
def test_tensors_are_those_referred_to(with_weights, tensors, message):
    content = tensors if isinstance(tensors, bytes) else safetensors.numpy.save(tensors)
    (with_weights / "weights.safetensors").write_bytes(content)
    sign(with_weights)
    assert refused(with_weights, message).file == "weights.safetensors"


def test_weights_nobody_refers_to(directory):
    (directory / "weights.safetensors").write_bytes(safetensors.numpy.save({"a": np.ones(3)}))
    edit(directory, "files", "weights.safetensors", value="")
    sign(directory)
    refused(directory, "weights.safetensors: no parameter refers to this file")


def test_tensors_are_finite(tmp_path):
    directory = artifacts.save_policy(FLOAT_POLICY(0.5, np.ones(5000)), tmp_path / "policy")
    (directory / "weights.safetensors").write_bytes(safetensors.numpy.save({"weights": np.full(5000, np.nan)}))
    sign(directory)
    refused(directory, "weights: expected finite numbers")


# ---- saving


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", value) for value in (float("nan"), float("inf"), "text", None, [1.0], 2**63)]
    + [("weights", np.array([value])) for value in (np.nan, "a", 1j, None)]
    + [("weights", np.full(5000, np.inf))],
    ids=count(),
)
def test_parameters_that_are_no_numbers(tmp_path, name, value):
    policy = FLOAT_POLICY(**{"threshold": 0.5, "weights": np.ones(2)} | {name: value})
    with pytest.raises(ArtifactError, match=rf"policy\.json: parameters\.{name}\S*: .*expected"):
        artifacts.save_policy(policy, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"lag_tokens": -1}, "lag_tokens"),
        ({"reference_rule": "best"}, "reference_rule"),
        ({"certificate": {"grade": "gold"}}, "certificate.grade"),
        ({"calibrated_on": {"problems": 3}}, "calibrated_on.problems"),
        (
            {"promised": {"accuracy_change": {"mean": float("nan"), "standard_error": 0.0}}},
            "promised.accuracy_change.mean",
        ),
        ({"promised": {"accuracy change": {"mean": 0.0, "standard_error": 0.0}}}, "promised.accuracy change"),
        ({"evidence": [{"title": "t"}]}, "evidence.0.figures"),
        ({"evidence": [object()]}, ""),
        ({"evidence": [SimpleNamespace(summary=lambda: {"figures": {}})]}, "evidence.0.title"),
        ({"created": "yesterday"}, "created"),
        ({"license": "\ud800"}, ""),
    ],
)
def test_notes_are_checked(tmp_path, given, field):
    with pytest.raises(ArtifactError, match=r"policy\.json") as raised:
        artifacts.save_policy(Margin(2), tmp_path / "policy", **given)
    assert raised.value.field.startswith(field)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"golden_observations": [[{"leader_votes": 1}]]},
            r"golden\.jsonl: line 1: the observation has no signal 'runner_up_votes'",
        ),
        ({"decision": THINKING}, r"policy\.json: signals: ThinkingObservation has no field leader_votes, runner_up"),
    ],
)
def test_the_observation_lacks_a_signal(tmp_path, given, message):
    with pytest.raises(ArtifactError, match=message):
        artifacts.save_policy(Margin(2), tmp_path / "policy", **given)


def test_what_is_there_is_kept(directory, tmp_path):
    with pytest.raises(ArtifactError, match="not empty"):
        artifacts.save_policy(Margin(2), directory)
    with pytest.raises(ArtifactError):
        artifacts.save_policy(Margin(2), directory, overwrite=True, lag_tokens=-1)
    assert artifacts.load_policy(directory).document.kind == "VoteTable"
    artifacts.save_policy(Margin(2), directory, overwrite=True)
    assert artifacts.load_policy(directory).policy == Margin(2)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]  # nothing is left beside it


def test_an_empty_directory_is_used(tmp_path):
    (tmp_path / "policy").mkdir()
    artifacts.save_policy(Margin(2), tmp_path / "policy")
    assert artifacts.load_policy(tmp_path / "policy").policy == Margin(2)


def test_only_an_artifact_is_overwritten(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        artifacts.save_policy(Margin(2), tmp_path, overwrite=True)
    with pytest.raises(ArtifactError, match="expected a directory or nothing there"):
        artifacts.save_policy(Margin(2), tmp_path / "diary.txt", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="expected a directory or nothing there"):
        artifacts.save_policy(Margin(2), tmp_path / "link", overwrite=True)


def test_saving_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    directory = artifacts.save_policy(RunningAgreement(0.7), tmp_path / "policy")
    real = os.rename

    def fails(self, target):
        if self.name.endswith(".new"):
            raise OSError("no space left")
        real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no space left"):
        artifacts.save_policy(Margin(2), directory, overwrite=True)
    assert artifacts.load_policy(directory).policy == RunningAgreement(0.7)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        ({}, "policy.json: traffic: .*at least 1 item"),
        ({"x": []}, r"policy.json: traffic.x: expected 1 to 2,000 values of shape \[values\], got shape \[0\]"),
        ({"x": np.zeros(2001)}, r"policy.json: traffic.x: expected 1 to 2,000 values"),
        (
            {"x": np.zeros((2, 3))},
            r"policy.json: traffic.x: expected 1 to 2,000 values of shape \[values\], got shape \[2, 3\]",
        ),
        ({"x": [np.nan]}, "policy.json: traffic.x"),
        ({"x": ["a"]}, "policy.json: traffic.x.dtype"),
        ({"not a name": [1.0]}, "policy.json: traffic.not a name"),
        ({f"law_{number}": [1.0] for number in range(17)}, "policy.json: traffic: .*at most 16 items"),
    ],
)
def test_traffic_that_is_none(traffic, message, tmp_path):
    with pytest.raises(ArtifactError, match=message):
        artifacts.save_policy(Margin(2), tmp_path / "policy", traffic=traffic)
