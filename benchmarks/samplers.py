"""The samplers of `sims.sampling`: normal scores and the first of n traces, against NumPy, numba and JAX's own."""

import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from sims.sampling import (
    Race,
    first_finish_totals,
    least_of_all_traces,
    least_of_two_groups,
    normal_pair,
    pairs,
)
from sims.sampling.first_finish import LANES
from stopping.makespan.parallel import Points, evaluate, first_finish

NUM_TRACES = 16
NUM_SCORES, NUM_REPLICAS = 1 << 22, 1 << 19
CHUNK = 1 << 12  # replicas at once in NumPy: what they need stays in the cache
SCORES_CHUNK = 1 << 14
PARAMETERS = (0.4, 8.0, 8.3, 0.4, 0.5)  # chance; means and scales of log tokens, right and wrong
GROUPS, TRACES = "stopping, two groups by order statistics", "stopping, all traces"
NUMPY_GROUPS, NUMPY_TRACES, NUMBA = "NumPy, two groups, SciPy's ndtri", "NumPy, all traces", "numba, all traces"
SCORES, NUMPY_SCORES, JAX_SCORES = "stopping, normal scores", "NumPy SFC64, normal scores", "jax.random.normal"


def run() -> Report:
    """Time all, and compare what they give with its exact value."""
    key, race = jax.random.key(0), Race(*(jnp.float32(value) for value in PARAMETERS))
    random = np.random.Generator(np.random.SFC64(0))
    rounds = jnp.int32(NUM_REPLICAS // LANES)

    def ours(least: Callable) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(first_finish_totals(key, race, rounds, least=least, num_traces=NUM_TRACES))

    finishes: dict[str, Callable[[], Any]] = {
        GROUPS: ours(least_of_two_groups),
        TRACES: ours(least_of_all_traces),
        NUMPY_GROUPS: lambda: _numpy(random, _groups),
        NUMPY_TRACES: lambda: _numpy(random, _traces),
    }
    if importlib.util.find_spec("numba"):
        loop = _numba()
        finishes[NUMBA] = lambda: loop(NUM_REPLICAS, NUM_TRACES, *PARAMETERS)
    buffer = np.empty(SCORES_CHUNK, np.float32)
    scores: dict[str, Callable[[], Any]] = {
        SCORES: lambda: jax.block_until_ready(normal_scores(key)),
        NUMPY_SCORES: lambda: _numpy_scores(random, buffer),
        JAX_SCORES: lambda: jax.block_until_ready(_jax_scores(key)),
    }
    timings = time_together({**finishes, **scores}, repeats=15)
    factor = dict.fromkeys(finishes, 1e9 / NUM_REPLICAS) | dict.fromkeys(scores, 1e9 / NUM_SCORES)
    rows = [
        row
        for group in (finishes, scores)
        for row in rows_of({name: timings[name] for name in group}, factor, (GROUPS, TRACES, NUMBA, SCORES, JAX_SCORES))
    ]
    took = {row.name: row.minimum for row in rows}
    goals = [
        ("7 times NumPy, all traces", took[NUMPY_TRACES] / took[TRACES], 7.0),
        ("6 times NumPy, two groups", took[NUMPY_GROUPS] / took[GROUPS], 6.0),
        ("5 times NumPy, normal scores", took[NUMPY_SCORES] / took[SCORES], 5.0),
    ]
    if NUMBA in took:
        goals.insert(1, ("3.5 times numba, all traces", took[NUMBA] / took[TRACES], 3.5))
    reached = [(goal, f"{ratio:.1f}", ratio >= least) for goal, ratio, least in goals]
    reached.append(("at most 20 nanoseconds, two groups", f"{took[GROUPS]:.1f}", took[GROUPS] <= 20))
    without = [] if NUMBA in took else ["numba is not installed, and its row is missing: `pip install .[bench]`."]
    return Report(
        title="Samplers",
        goal="7 times good NumPy and 3.5 times numba drawing all traces, 6 times NumPy and 20 ns by order statistics, 5 "
        "times NumPy's SFC64 in normal scores",
        unit="nanoseconds a replica, or a score",
        rows=rows,
        reached=reached,
        checks=_checks(finishes, scores),
        notes=[
            f"First finish of {NUM_TRACES} traces, {NUM_REPLICAS:,} replicas, accuracy and tokens: sums over replicas, and "
            "none stored. The number of right traces is drawn once, binomially, by everyone.",
            f"NumPy: SFC64, float32, {CHUNK:,} replicas at a time, in place; {SCORES_CHUNK:,} normal scores at a time.",
            "numba: fast-math, one replica after another; xorshift words of 64 bits, Box-Muller in float32, count from a table.",
            "Normal scores are summed by all three; JAX's are drawn in chunks of 2^14 (in one call they cost more).",
            *without,
        ],
    )


def _checks(finishes: dict[str, Callable], scores: dict[str, Callable]) -> dict[str, float]:
    points = Points(*(jnp.full(1, value, jnp.float32) for value in (*PARAMETERS, 0.0, 0.0, np.inf)))
    exact = evaluate(first_finish, points, (NUM_TRACES,), False)
    accuracy, latency = float(exact.accuracy[0, 0]), float(exact.latency_tokens[0, 0])
    checks = {}
    for name, draw in finishes.items():
        correct, tokens, squared = (np.asarray(part, np.float64).sum() / NUM_REPLICAS for part in draw())
        errors = np.sqrt(np.array([accuracy * (1 - accuracy), squared - tokens**2]) / NUM_REPLICAS)
        distance = np.abs(np.array([correct - accuracy, tokens - latency]) / errors)
        checks[f"{name}, standard errors from the quadrature (of 5)"] = float(distance.max())
    for name, draw in scores.items():
        mean = np.asarray(draw(), np.float64).sum() / NUM_SCORES
        checks[f"{name}, standard errors of the mean from 0 (of 5)"] = float(abs(mean) * np.sqrt(NUM_SCORES))
    return checks


@jax.jit
def normal_scores(key: Any) -> Any:
    lanes = jnp.arange(LANES)

    def add(step: Any, total: Any) -> Any:
        left, right = normal_pair(*pairs(key, lanes, step))
        return total + left + right

    return jax.lax.fori_loop(0, NUM_SCORES // (2 * LANES), add, jnp.zeros(LANES, jnp.float32))


@jax.jit
def _jax_scores(key: Any) -> Any:
    def add(step: Any, total: Any) -> Any:
        return total + jax.random.normal(jax.random.fold_in(key, step), (SCORES_CHUNK,), jnp.float32)

    return jax.lax.fori_loop(0, NUM_SCORES // SCORES_CHUNK, add, jnp.zeros(SCORES_CHUNK, jnp.float32))


def _numpy_scores(random: np.random.Generator, buffer: np.ndarray) -> np.ndarray:
    total = np.zeros_like(buffer)
    for _ in range(NUM_SCORES // SCORES_CHUNK):
        random.standard_normal(dtype=np.float32, out=buffer)
        total += buffer
    return total


def _numpy(random: np.random.Generator, least: Callable) -> tuple[float, float, float]:
    chance, mean_right, mean_wrong, scale_right, scale_wrong = map(np.float32, PARAMETERS)
    correct, tokens, squared = 0, 0.0, 0.0
    for _ in range(NUM_REPLICAS // CHUNK):
        num_right = random.binomial(NUM_TRACES, chance, CHUNK)
        right, wrong = least(random, num_right)
        right *= scale_right
        right += mean_right
        wrong *= scale_wrong
        wrong += mean_wrong
        correct += np.count_nonzero(right < wrong)
        ends = np.exp(np.minimum(right, wrong, out=right), out=right)
        tokens += float(ends.sum())
        squared += float(np.dot(ends, ends))
    return correct, tokens, squared


def _groups(random: np.random.Generator, num_right: np.ndarray) -> list[np.ndarray]:
    least = []
    for count in (num_right, NUM_TRACES - num_right):
        wait = random.standard_exponential(CHUNK, dtype=np.float32)
        wait /= np.maximum(count, 1)
        score = ndtri(-np.expm1(-wait))
        score[count == 0] = np.inf
        least.append(score)
    return least


def _traces(random: np.random.Generator, num_right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = random.standard_normal((NUM_TRACES, CHUNK), dtype=np.float32)
    is_right = np.arange(NUM_TRACES)[:, None] < num_right
    infinity = np.float32(np.inf)
    return np.where(is_right, scores, infinity).min(axis=0), np.where(is_right, infinity, scores).min(axis=0)


def _numba() -> Callable:
    import numba

    @numba.njit(fastmath={"nsz", "arcp", "contract", "afn", "reassoc"})
    def loop(num_replicas, num_traces, chance, mean_right, mean_wrong, scale_right, scale_wrong):
        state, infinity, step = np.uint64(88172645463325252), np.float32(np.inf), np.float32(2**-32)
        below = np.empty(num_traces)  # P(count <= k), as ours
        mass, total = (1 - chance) ** num_traces, 0.0
        for k in range(num_traces):
            total += mass
            below[k] = total
            mass *= (num_traces - k) / (k + 1) * chance / (1 - chance)
        correct, tokens, squared = 0, 0.0, 0.0
        for _ in range(num_replicas):
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            uniform, num_right = (state >> np.uint64(11)) * 2.0**-53, 0
            for k in range(num_traces):
                num_right += uniform > below[k]
            right, wrong = infinity, infinity
            for trace in range(0, num_traces, 2):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                level = (np.float32(state >> np.uint64(32)) + np.float32(0.5)) * step
                angle = np.float32(state & np.uint64(0xFFFFFFFF)) * (step * np.float32(2 * np.pi))
                radius = np.sqrt(np.float32(-2) * np.log(level))
                for index, score in ((trace, radius * np.cos(angle)), (trace + 1, radius * np.sin(angle))):
                    if index < num_right:
                        right = min(right, score)
                    elif index < num_traces:
                        wrong = min(wrong, score)
            log_right, log_wrong = mean_right + scale_right * right, mean_wrong + scale_wrong * wrong
            end = np.exp(min(log_right, log_wrong))
            correct += log_right < log_wrong
            tokens += end
            squared += end * end
        return correct, tokens, squared

    return loop
