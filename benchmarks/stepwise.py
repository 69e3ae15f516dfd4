"""A policy stepped through drawn worlds by `sims.simulate`, against the same policy stepped in vectorised NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import numpy as np

import sims
from sims.precision import BLOCK
from stopping.models import AnswerChain, Answers, LengthCorrectness
from stopping.policies import AnswerAgreement, Kind, Margin, SamplingObservation, ThinkingObservation, bind
from stopping.problems import Sampling, Thinking

NUM_TRACES, NUM_POINTS, NUM_BLOCKS = 16, 64, 16
NUM_KINDS = 3  # of wrong answers, equally likely a priori: the distribution is then a mixture of multinomials
MARGIN, EARLY, NEVER = Margin(3), AnswerAgreement(3, 32), AnswerAgreement(NUM_POINTS + 1, 32)
TRACES = LengthCorrectness(
    2.0, 1.0, 8.0, 0.3, shift=0.3, scale_right=0.4, scale_wrong=0.6, answers=Answers(-1.0, float(NUM_KINDS))
)
SAMPLING = Sampling(NUM_TRACES, model=TRACES, price_per_token=1e-6)
CHAIN = AnswerChain(0.3, 0.2, 0.02, 0.02, gap_tokens=32, answer_tokens=10, num_points=NUM_POINTS)
THINKING = Thinking(model=CHAIN, price_per_token=1e-5)
COMPONENTS = ("correct", "total_tokens", "latency_tokens")


def run() -> Report:
    """Time both problems on one core, and compare what they find."""
    count = NUM_BLOCKS * BLOCK
    cases = {
        "sampling": (SAMPLING, MARGIN, _sampling),
        "thinking, stopped early": (THINKING, EARLY, partial(_thinking, EARLY)),
        "thinking, to its end": (THINKING, NEVER, partial(_thinking, NEVER)),
    }
    rows, reached, checks = [], [], {}
    for name, (problem, policy, written_out) in cases.items():
        worlds = sims.engine.draw_blocks(problem, jax.random.key(0), np.int32(0), sims.engine.one_device(BLOCK))
        contenders: dict[str, Callable[[], Any]] = {
            f"{name}, stopping": partial(sims.simulate, jax.random.key(0), problem, policy, num_replicas=count),
            f"{name}, of which worlds": partial(_draw, problem),
            f"{name}, of which play": partial(_play, problem, policy, worlds),
        }
        ours = tuple(contenders)
        contenders |= {
            f"{name}, NumPy, {size:,} at once": partial(_in_chunks, written_out, count, size)
            for size in (1024, BLOCK, 16384)
        }
        timings = time_together(contenders, repeats=7)
        factor = dict.fromkeys(contenders, 1e6 / count) | dict.fromkeys(ours[1:], 1e6 / BLOCK)
        own = rows_of(timings, factor, ours)
        rows += own
        best = min(row.times for row in own[3:] if row.times)
        reached.append((f"10 times NumPy, {name}", f"{best:.2f}", best >= 10))
        found = sims.simulate(jax.random.key(0), problem, policy, num_replicas=count)
        for component, peer in zip(COMPONENTS, _in_chunks(written_out, count, BLOCK), strict=False):
            mine, other = found.estimates[component], sims.Estimate.of(peer)
            error = float(np.hypot(mine.standard_error, other.standard_error))
            checks[f"{name}, {component}, difference in standard errors"] = abs(mine.mean - other.mean) / error
    return Report(
        title="Simulation step by step",
        goal="10 times the same policy stepped in vectorised NumPy",
        unit="microseconds a world",
        rows=rows,
        reached=reached,
        checks=checks,
        notes=[
            f"{count:,} worlds. Sampling: {NUM_TRACES} traces, `{MARGIN}` asked at each end of one. Thinking: a chain of up to "
            f"{NUM_POINTS} decision points, `{EARLY}` or `{NEVER}` asked, and probing, at each.",
            "Ours is the whole of `simulate`: worlds, play, every component of the outcome, their moments and fourth moments, "
            "the digest of the worlds. Worlds are drawn whole, whatever the policy will look at, and every world is taken "
            "through every decision point: one program plays any policy, and all policies meet the same worlds.",
            "NumPy is written for the one problem: SFC64, float32; sampling: traces sorted by their ends and votes counted; "
            "thinking: correctness, closing and answers drawn as far as the longest chain still running. The policy is bound to "
            "NumPy and stepped on the worlds that still run, packed together at each step. The best of three sizes counts.",
        ],
    )


def _draw(problem: Any) -> None:
    one = sims.engine.one_device(BLOCK)
    jax.block_until_ready(sims.engine.draw_blocks(problem, jax.random.key(0), np.int32(0), one))


def _play(problem: Any, policy: Any, worlds: Any) -> None:
    jax.block_until_ready(sims.engine.play_blocks(problem, policy, worlds, sims.engine.one_device(BLOCK)))


def _in_chunks(written_out: Callable, count: int, size: int) -> list[np.ndarray]:
    random = np.random.Generator(np.random.SFC64(0))
    parts = [written_out(random, min(size, count - first)) for first in range(0, count, size)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _sampling(random: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
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
    live, bound = np.arange(count), bind(MARGIN, "numpy")
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


def _thinking(policy: AnswerAgreement, random: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Chains and play: right or not, and tokens, for each chain."""
    first, repair, damage, close = (
        float(x) for x in (CHAIN.first_right_prob, CHAIN.repair_prob, CHAIN.break_prob, CHAIN.close_prob)
    )
    gap, cost = CHAIN.gap_tokens, CHAIN.answer_tokens
    correct, tokens = np.zeros(count, bool), np.zeros(count, np.int32)
    live, bound = np.arange(count), bind(policy, "numpy")
    state, right, label = bound.init((count,)), np.zeros(count, bool), np.zeros(count, np.int32)
    for point in range(NUM_POINTS):
        chance, size = random.random(len(live), np.float32), len(live)
        now = chance < first if point == 0 else np.where(right, chance >= damage, chance < repair)
        label = np.where(now, 0, np.where(right | (point == 0), point + 1, label)).astype(np.int32)
        right, here, nothing = now, np.full(size, (point + 1) * gap, np.int32), np.zeros(size, np.float32)
        unprobed = ThinkingObservation(
            elapsed_tokens=here, log_close_prob=nothing, mean_log_prob=nothing, mean_entropy=nothing,
            num_candidates=nothing, probed=np.zeros(size, bool), probed_answer=np.full(size, -1, np.int32),
            answer_mean_log_prob=nothing, answer_least_log_prob=nothing,
        )  # fmt: skip
        asked, action = bound.step(state, unprobed)
        seen, after = bound.step(asked, unprobed._replace(probed=np.ones(size, bool), probed_answer=label))
        probes = np.asarray(action.kind) == Kind.PROBE.value
        state = type(seen)(*(np.where(probes, new, old) for new, old in zip(seen, asked, strict=True)))
        stops = np.where(probes, np.asarray(after.kind), np.asarray(action.kind)) == Kind.STOP.value
        tokens[live] += np.where(probes & ~stops, cost, 0)
        ends = stops | (random.random(size, np.float32) < close) | (point == NUM_POINTS - 1)
        correct[live[ends]] = right[ends]
        tokens[live[ends]] += (point + 1) * gap + cost
        live, right, label = live[~ends], right[~ends], label[~ends]
        state = type(state)(*(values[~ends] for values in state))
        if not len(live):
            break
    return correct, tokens
