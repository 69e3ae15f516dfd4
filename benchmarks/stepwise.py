"""A policy stepped through drawn worlds by `sims.simulate`, against the same policy stepped in vectorised NumPy."""

from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import numpy as np

import sims
from sims.precision import BLOCK
from stopping.models import Answers, LengthCorrectness
from stopping.policies import Margin, SamplingObservation, bind
from stopping.problems import Sampling

NUM_TRACES, NUM_BLOCKS = 16, 16
NUM_KINDS = 3  # of wrong answers, equally likely a priori: the law is then a mixture of multinomials
POLICY = Margin(3)
MODEL = LengthCorrectness(
    2.0, 1.0, 8.0, 0.3, shift=0.3, scale_right=0.4, scale_wrong=0.6, answers=Answers(-1.0, float(NUM_KINDS))
)
PROBLEM = Sampling(MODEL, NUM_TRACES, price_per_token=1e-6)
COMPONENTS = ("correct", "total_tokens", "latency_tokens")


def run() -> Report:
    """Time both on one core, and compare what they find."""
    count = NUM_BLOCKS * BLOCK

    def ours() -> Any:
        return sims.simulate(jax.random.key(0), PROBLEM, POLICY, num_replicas=count)

    contenders = {"stopping": ours} | {
        f"NumPy, {size:,} worlds at once": partial(_in_chunks, count, size) for size in (1024, BLOCK, 16384)
    }
    timings = time_together(contenders, repeats=7)
    rows = rows_of(timings, 1e6 / count, ("stopping",))
    best = min(row.times for row in rows[1:] if row.times)
    found, checks = ours(), {}
    values = np.stack(_in_chunks(count, BLOCK))
    for name, peer in zip(COMPONENTS, values, strict=True):
        own, other = found.estimates[name], sims.Estimate.of(peer)
        error = float(np.hypot(own.standard_error, other.standard_error))
        checks[f"{name}, difference in standard errors"] = abs(own.mean - other.mean) / error
    return Report(
        title="Simulation step by step",
        goal="10 times the same policy stepped in vectorised NumPy",
        unit="microseconds a world",
        rows=rows,
        reached=[("10 times NumPy", f"{best:.1f}", best >= 10)],
        checks=checks,
        notes=[
            f"{count:,} worlds of {NUM_TRACES} traces, `{POLICY}` asked at each end of a trace. Ours is the whole of `simulate`: "
            "worlds, play, eight components of the outcome, their moments, the digest of the worlds.",
            "NumPy: SFC64, float32; traces sorted by their ends, votes counted, the policy bound to NumPy and stepped on all "
            "worlds that still run, packed together at each step; three components. The best of three sizes counts.",
        ],
    )


def _in_chunks(count: int, size: int) -> list[np.ndarray]:
    random = np.random.Generator(np.random.SFC64(0))
    parts = [_numpy(random, min(size, count - first)) for first in range(0, count, size)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _numpy(random: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Worlds and play: right or not, tokens of all traces and of the longest, for each world."""
    shape, kind = (count, NUM_TRACES), np.float32
    chance = random.beta(2.0, 1.0, count).astype(kind)[:, None]
    effect = 8 + kind(0.3) * random.standard_normal((count, 1), kind)
    right = random.random(shape, kind) < chance
    score = random.standard_normal(shape, kind)
    length = np.rint(np.exp(effect + np.where(right, kind(0.4) * score, kind(0.3) + kind(0.6) * score))).astype(
        np.int32
    )
    shares = random.standard_exponential((count, NUM_KINDS), kind)
    limits = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    which = (random.random(shape, kind)[:, :, None] > limits[:, None, :-1]).sum(axis=2)
    label = np.where(right, 0, 1 + which)
    order = np.argsort(length, axis=1)
    ends, label = np.take_along_axis(length, order, axis=1), np.take_along_axis(label, order, axis=1)

    votes, leader = np.zeros((count, NUM_KINDS + 1), np.int32), np.zeros(count, np.int32)
    correct, stopped = np.zeros(count, bool), np.zeros(count, np.int32)
    live, bound = np.arange(count), bind(POLICY, "numpy")
    state = bound.init((count,))
    for step in range(NUM_TRACES):
        rows = np.arange(len(live))
        now, came = ends[live, step], label[live, step]
        votes[rows, came] += 1
        leader = np.where(votes[rows, came] > votes[rows, leader], came, leader)
        least = np.partition(votes, -2, axis=1)
        seen = SamplingObservation(
            num_launched=np.full(len(live), NUM_TRACES), num_running=np.full(len(live), NUM_TRACES - step - 1),
            num_answers=np.full(len(live), step + 1), answer=came, leader_votes=least[:, -1], runner_up_votes=least[:, -2],
            elapsed_tokens=now, total_tokens=now,
        )  # fmt: skip
        state, action = bound.step(state, seen)
        stop = np.asarray(action.kind).astype(bool) | (step == NUM_TRACES - 1)
        correct[live[stop]], stopped[live[stop]] = leader[stop] == 0, now[stop]
        live, votes, leader = live[~stop], votes[~stop], leader[~stop]
        if not len(live):
            break
    return correct, np.minimum(ends, stopped[:, None]).sum(axis=1), stopped
