"""What is saved is what is loaded."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stopping
from stopping import artifacts
from stopping.policies import (
    FixedSamples,
    Kind,
    Margin,
    SamplingObservation,
    UnanimousWindow,
    VoteTable,
    bind,
    parameters,
)
from stopping.policies.decisions.sampling import sampling_streams
from stopping.policies.examples import EXAMPLES
from tests.helpers import BIG, OWN_POLICIES, TORCH, name_of
from tests.stopping.artifacts.own_policies import FLOAT_POLICY, HEAD, Head, HeadObservation
from tests.stopping.artifacts.test_refusals import checksums
from tests.stopping.policies.own_policies import RunningAgreement

ROOT = Path(stopping.__file__).parents[1]
CREATED = "2026-01-31T12:00:00Z"


@pytest.mark.parametrize("policy", (*EXAMPLES, *OWN_POLICIES, BIG), ids=name_of)
def test_round_trip(policy, tmp_path):
    directory = artifacts.save_policy(policy, tmp_path / "policy")
    loaded = artifacts.load_policy(directory)
    assert loaded.policy == policy
    for name, value in parameters(policy).items():
        again = parameters(loaded.policy)[name]
        assert np.asarray(again).dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(again, value)
    assert (directory / "weights.safetensors").exists() == (policy is BIG)
    assert loaded.document.plain_python
    assert loaded.document.signals == list(policy.signals)


@pytest.mark.parametrize("policy", EXAMPLES + OWN_POLICIES, ids=name_of)
def test_golden_lines_show_every_kind_that_can_occur(policy, tmp_path):
    lines = (artifacts.save_policy(policy, tmp_path / "policy") / "golden.jsonl").read_text().splitlines()
    kinds = {kind for line in lines for kind, _ in json.loads(line)["decisions"]}
    unreachable = {Kind.STOP} if policy.signals == ("elapsed_tokens",) and policy.max_tokens > 2**27 else set()
    assert kinds == set(policy.kinds) - unreachable
    for line in lines:
        for observation in json.loads(line)["observations"]:
            assert set(observation) == set(policy.signals)


@pytest.mark.parametrize("backend", ["python", "numpy", "jax", TORCH])
def test_a_loaded_policy_binds(backend, tmp_path):
    bound = artifacts.load_policy(artifacts.save_policy(Margin(3), tmp_path / "policy")).bind(backend)
    observation = SimpleNamespace(leader_votes=4, runner_up_votes=1)
    if backend == "torch":
        import torch

        observation = SimpleNamespace(leader_votes=torch.tensor(4), runner_up_votes=torch.tensor(1))
    _, action = bound.step(bound.init(), observation)
    assert int(action.kind) == Kind.STOP


def test_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        artifacts.save_policy(BIG, tmp_path / name, created=CREATED)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    one, other = (artifacts.load_policy(tmp_path / name).digest for name in ("a", "b"))
    assert one == other
    assert len(one) == 64


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(threshold=finite, values=st.lists(finite, min_size=1, max_size=5), width=st.sampled_from(["float32", "float64"]))
def test_floats_are_exact(threshold, values, width, tmp_path_factory):
    with np.errstate(over="ignore"):
        weights = np.nan_to_num(np.array(values, width))
    policy = FLOAT_POLICY(threshold, weights)
    directory = artifacts.save_policy(policy, tmp_path_factory.mktemp("float") / "policy")
    loaded = artifacts.load_policy(directory).policy
    assert np.float64(loaded.threshold).tobytes() == np.float64(threshold).tobytes()
    assert (loaded.weights.tobytes(), loaded.weights.dtype) == (weights.tobytes(), weights.dtype)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (5000,)])
def test_arrays_of_every_type(dtype, shape, tmp_path):
    weights = (np.arange(np.prod(shape, dtype=int)) % 3).astype(dtype).reshape(shape)
    loaded = artifacts.load_policy(artifacts.save_policy(FLOAT_POLICY(0.5, weights), tmp_path / "policy")).policy
    assert (loaded.weights.dtype, loaded.weights.shape) == (weights.dtype, weights.shape)
    np.testing.assert_array_equal(loaded.weights, weights)


def test_a_policy_with_another_observation(tmp_path):
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(4, 1)).astype(np.float32))
    streams = [[HeadObservation(rng.normal(size=4), 0.5) for _ in range(3)] for _ in range(20)]
    with pytest.raises(
        artifacts.ArtifactError, match=r"golden.jsonl: random numbers make no HeadObservation .*give golden_obs"
    ):
        artifacts.save_policy(head, tmp_path / "policy", decision=HEAD)
    artifacts.save_policy(head, tmp_path / "policy", decision=HEAD, golden_observations=streams)
    loaded = artifacts.load_policy(tmp_path / "policy")
    assert loaded.policy == head
    assert loaded.document.observation == "HeadObservation"
    assert not loaded.document.plain_python  # it sums over an array


def test_streams_end_before_a_tie(tmp_path):
    streams = [
        [{"leader_votes": 1, "runner_up_votes": 0}, {"leader_votes": 4, "runner_up_votes": 0}] * 2,
        [{"leader_votes": 9, "runner_up_votes": 0}],
    ]
    policy = next(p for p in OWN_POLICIES if p.signals == ("leader_votes", "runner_up_votes") and hasattr(p, "weights"))
    policy = type(policy)(np.array([1.0]), 2.0)  # sqrt(4) is a tie
    text = (artifacts.save_policy(policy, tmp_path / "a", golden_observations=streams) / "golden.jsonl").read_text()
    assert [len(json.loads(line)["decisions"]) for line in text.splitlines()] == [1, 1]
    with pytest.raises(artifacts.ArtifactError, match="expected at least one observation stream away from ties"):
        artifacts.save_policy(policy, tmp_path / "b", golden_observations=[streams[0][1:]])


def test_evidence_and_all_the_rest(tmp_path):
    quantity = artifacts.Quantity(mean=-0.01, interval=[-0.02, 0.0], confidence=0.95)
    figures = {"net_saving_tokens": {"mean": np.float64(1200.5), "standard_error": 3, "num_independent": np.int64(500)}}
    result = SimpleNamespace(summary=lambda: {"title": "replay", "figures": figures})
    directory = artifacts.save_policy(
        Margin(2),
        tmp_path / "deep" / "policy",
        evidence=[result, {"title": "simulation", "figures": {}}],
        decision_points={"on": "trace_end", "interval_tokens": 256},
        reference_rule="majority@40",
        calibrated_on=artifacts.CalibratedOn(num_problems=500, description="AIME | 2024\nand more"),
        promised={"accuracy_change": quantity, "net_saving_tokens": {"mean": 1e3, "standard_error": 0}},
        certificate={
            "grade": "data",
            "risk": "disagreement",
            "max_accuracy_drop": 0.02,
            "confidence": 0.95,
            "num_problems": 150,
        },
        lag_tokens=32,
        fallback=artifacts.Fallback(on_missing_signal="continue"),
        license="MIT",
        created=CREATED,
    )
    document = artifacts.load_policy(directory).document
    assert document.evidence[0].figures["net_saving_tokens"].mean == 1200.5
    assert document.evidence[1].title == "simulation"
    assert document.promised["accuracy_change"] == quantity
    assert document.certificate.grade == "data"
    assert (document.lag_tokens, document.created, document.license) == (32, CREATED, "MIT")
    assert document.decision_points == artifacts.DecisionPoints(on="trace_end", interval_tokens=256)
    card = (directory / "README.md").read_text()
    for words in (
        "# Margin",
        "| votes | 2 |",
        "AIME \\| 2024 and more",
        "majority@40",
        "-0.01",
        "[-0.02, 0]",
        "finite samples",
        "## License",
    ):
        assert words in card


def test_the_sample_of_the_traffic(tmp_path):
    samples = {
        "length_tokens": np.array([3, 1, 4], np.int32),
        "agreement": np.array([True, False]),
        "log_close_prob": -np.geomspace(1e-8, 300, 2000, dtype=np.float32),
    }
    directory = artifacts.save_policy(Margin(2), tmp_path / "policy", traffic=samples)
    document = artifacts.load_policy(directory).document
    assert (document.schema_version, set(document.traffic)) == ("1.1", set(samples))
    for name, values in samples.items():
        again = document.traffic[name].array()
        assert again.dtype == values.dtype
        np.testing.assert_array_equal(again, values)
    assert "| length_tokens | 3 | 2.667 | 1.4 | 3 | 3.8 |" in (directory / "README.md").read_text()


def test_a_policy_of_version_1_0_is_read(tmp_path):
    directory = artifacts.save_policy(Margin(2), tmp_path / "policy")
    content = json.loads((directory / "policy.json").read_text())
    assert "traffic" not in content
    (directory / "policy.json").write_text(json.dumps(content | {"schema_version": "1.0"}))
    checksums(directory)
    assert artifacts.load_policy(directory).document.traffic is None


def test_checksums_are_those_of_sha256sum(tmp_path):
    import shutil

    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    directory = artifacts.save_policy(Margin(2), tmp_path / "policy")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=directory, check=True, capture_output=True)


def test_json_schema():
    schema = artifacts.json_schema()
    json.dumps(schema, allow_nan=False)
    assert schema["additionalProperties"] is False
    assert {"kind", "parameters", "signals", "files"} <= set(schema["required"])
    assert schema["$defs"]["Certificate"]["properties"]["grade"]["enum"] == ["proof", "data", "none"]


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_custom_policy_in_a_new_process(tmp_path):
    directory = artifacts.save_policy(RunningAgreement(0.75), tmp_path / "policy")
    load = "import sys; from stopping import artifacts; print(artifacts.load_policy(sys.argv[1]).policy)"
    alone = python(load, directory)
    assert alone.returncode != 0
    assert "ArtifactError: policy.json: kind: no policy is called 'RunningAgreement'; known: " in alone.stderr
    assert "defined in 'tests.stopping.policies.own_policies': import that module before loading" in alone.stderr
    after = python("import tests.stopping.policies.own_policies; " + load, directory)
    assert after.stdout.strip() == str(RunningAgreement(0.75)), after.stderr


WITHOUT_JAX = """
import sys

class NoJAX:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "torch"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoJAX())
try:
    import jax
except ImportError:
    pass
else:
    raise SystemExit("jax is not blocked")

from stopping import artifacts
from stopping.policies import SamplingObservation, VoteTable, bind
import numpy as np

artifacts.save_policy(VoteTable.cannot_be_caught(9000), sys.argv[1])
loaded = artifacts.load_policy(sys.argv[1])
for backend, array in (("python", int), ("numpy", lambda x: np.array([x], np.int32))):
    bound = loaded.bind(backend)
    observation = SamplingObservation(*map(array, [9000, 3000, 6000, 0, 4501, 1499, 100, 10_000]))
    state, action = bound.step(bound.init(() if backend == "python" else (1,)), observation)
    assert action.kind == 1, action
try:
    bind(loaded.policy, "jax")
except ImportError:
    print("works")
"""


def test_works_where_jax_cannot_be_imported(tmp_path):
    run = python(WITHOUT_JAX, tmp_path / "policy")
    assert run.stdout.strip() == "works", run.stderr


def test_turning_points_pin_the_table():
    """A table with any one entry changed by one vote gives another decision on some golden stream."""
    policy = VoteTable.adaptive_consistency()
    streams = sampling_streams(policy)
    required = policy.required_by_runner_up

    def run(policy):
        bound = bind(policy, "python")
        return [bound.step((), observation)[1].kind for stream in streams for observation in stream]

    expected = run(policy)
    changed = [required + step * (np.arange(required.size) == i) for i in range(required.size) for step in (1, -1)]
    changed += [required[:-1], np.append(required, 60)]
    for table in changed:
        if (table > np.arange(table.size)).all():
            assert run(VoteTable(table)) != expected


@pytest.mark.parametrize("size", [1, 2, 100, 500])
def test_long_windows_are_pinned(size):
    policy = UnanimousWindow(size)
    kinds = set()
    for stream in sampling_streams(policy):
        bound = bind(policy, "python")
        state = bound.init()
        for observation in stream:
            state, action = bound.step(state, observation)
            kinds.add(bool(action.kind))
    assert kinds == {True, False}


def test_episodes_are_consistent():
    for stream in sampling_streams(FixedSamples(4)):
        if len(stream) > 1:
            for before, after in pairwise(stream):
                assert after.num_running == before.num_running - 1
                assert after.num_answers - before.num_answers == (after.answer >= 0)
                assert after.elapsed_tokens >= before.elapsed_tokens
                assert after.total_tokens >= before.total_tokens
            for observation in stream:
                assert observation.leader_votes >= observation.runner_up_votes
                assert observation.leader_votes + observation.runner_up_votes <= observation.num_answers
                assert isinstance(observation, SamplingObservation)
