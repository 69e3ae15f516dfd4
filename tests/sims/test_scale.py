"""The same bits on any number of devices and processes, and after a kill."""

import json
import random
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import sims
from sims import simulation
from sims.checkpoints import NAMES, CheckpointRefused
from sims.precision import BLOCK
from stopping.models import AnswerChain
from stopping.policies import CandidateStop, TokenBudget
from stopping.problems import Thinking
from tests.sims.one_run import bits, simulated

CHAIN = AnswerChain(
    0.2, 0.3, 0.05, 0.1, right_log_prob=-0.3, wrong_log_prob=-0.9, log_prob_scale=0.3, num_points=4, gap_tokens=32
)
PROBLEM = Thinking(model=CHAIN, price_per_token=1e-3)


def start(**settings):
    command = [sys.executable, "-m", "tests.sims.one_run", json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def said(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output.splitlines()[-1]


def test_devices_processes_and_chunks_do_not_matter():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worlds = {"num_replicas": 3 * BLOCK + 100}
    alone = bits(simulated(**worlds))
    assert said(start(**worlds, devices=8)) == alone
    assert said(start(**worlds, devices=2, chunk_blocks=1)) == alone
    pair = [start(**worlds, processes=2, process=index, port=port) for index in (0, 1)]
    assert [said(process) for process in pair] == [alone, alone]


def test_a_precision_asked_for_ends_at_the_same_world_on_any_devices():
    assert said(start(standard_error=0.003, devices=8)) == bits(simulated(standard_error=0.003))


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    whole = {"num_replicas": 150 * BLOCK - 7, "checkpoint": str(tmp_path / "run"), "every_seconds": 0.0}
    process, first = start(**whole), tmp_path / "run" / NAMES[0]
    while process.poll() is None and not first.exists():
        time.sleep(0.05)
    time.sleep(random.uniform(0, 1))  # truly at random: what is tested must hold whenever
    process.kill()
    process.communicate()
    assert json.loads(json.loads(first.read_text())["body"])["num_blocks"] < 149, "it was done before it was killed"
    assert said(start(**whole)) == bits(simulated(num_replicas=whole["num_replicas"]))


def test_a_corrupt_checkpoint_is_refused_by_name_and_the_one_before_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr("sims.checkpoints.EVERY_SECONDS", 0.0)

    def run(**more):
        return sims.simulate(jax.random.key(0), PROBLEM, TokenBudget(64), num_replicas=5 * BLOCK, **more)

    plain = bits(run())
    assert bits(run(checkpoint=tmp_path)) == plain
    newest, before = (tmp_path / name for name in NAMES)
    held = [json.loads(json.loads(path.read_text())["body"])["num_blocks"] for path in (newest, before)]
    assert held == [5, 5]  # the last two
    for damaged in (
        newest.read_bytes()[:100],
        newest.read_bytes().replace(b'\\"count\\": 2', b'\\"count\\": 3'),
        b"[]",
        b"\xff",
    ):
        newest.write_bytes(damaged)
        with pytest.warns(CheckpointRefused, match=rf"{newest}: .*not used"):
            assert bits(run(checkpoint=tmp_path)) == plain
    newest.write_bytes(b"")
    before.write_bytes(b"")
    with pytest.warns(CheckpointRefused) as warned:
        assert bits(run(checkpoint=tmp_path)) == plain
    assert len(warned) == 2
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 16_384


def test_another_runs_checkpoint_is_an_error(tmp_path):
    key, few = jax.random.key(0), {"num_replicas": BLOCK, "checkpoint": tmp_path}
    sims.simulate(key, PROBLEM, TokenBudget(64), **few)
    for other in (
        (jax.random.key(1), PROBLEM, TokenBudget(64)),
        (key, PROBLEM.priced(2e-3), TokenBudget(64)),
        (key, PROBLEM, TokenBudget(96)),
        (key, PROBLEM, CandidateStop(2)),
    ):
        with pytest.raises(ValueError, match=r"checkpoint\.json: expected the checkpoint of this run"):
            sims.simulate(*other, **few)


def test_a_run_is_carried_further_than_asked_at_first(tmp_path):
    """More worlds are another goal, not another run. A block that was not whole is computed again."""
    key = jax.random.key(0)
    sims.simulate(key, PROBLEM, TokenBudget(64), num_replicas=2 * BLOCK + 9, checkpoint=tmp_path)
    longer = sims.simulate(key, PROBLEM, TokenBudget(64), num_replicas=5 * BLOCK, checkpoint=tmp_path)
    assert bits(longer) == bits(sims.simulate(key, PROBLEM, TokenBudget(64), num_replicas=5 * BLOCK))
    with pytest.raises(ValueError, match=r"num_replicas: expected at least the .* got 100"):
        sims.simulate(key, PROBLEM, TokenBudget(64), num_replicas=100, checkpoint=tmp_path)


def test_outcomes_that_are_not_kept_still_count(monkeypatch):
    whole = sims.simulate(jax.random.key(0), PROBLEM, TokenBudget(64), num_replicas=6 * BLOCK)
    monkeypatch.setattr(simulation, "KEPT", 2 * BLOCK)
    some = sims.simulate(jax.random.key(0), PROBLEM, TokenBudget(64), num_replicas=6 * BLOCK, chunk_blocks=3)
    assert (some.num_kept, some.num_units) == (2 * BLOCK, 6 * BLOCK)
    assert some.digest == whole.digest
    np.testing.assert_array_equal(some.moments.comoment, whole.moments.comoment)
    for name, exact in whole.estimates.items():
        found = some.estimates[name]
        assert found.num_independent == 6 * BLOCK
        assert found.mean == pytest.approx(exact.mean, abs=1e-6 * 64 * exact.standard_error + 1e-12)
        assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-5)
    ratio, exact = (result.ratio("total_tokens", "correct") for result in (some, whole))
    assert ratio.mean == pytest.approx(exact.mean, rel=1e-6)
    assert ratio.standard_error == pytest.approx(exact.standard_error, rel=1e-4)
