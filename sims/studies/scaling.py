"""How do the time and memory of a simulation scale?

The time of `sims.simulate`, without compiling, is measured against the number of worlds, devices and decision points; the memory
of the compiled programs is as reported by the compiler. A line a + b n is fitted to the times of n blocks of 4,096 worlds: a is
the cost of a call, b that of a block. `theory_notes/07_engine.md` extrapolates to 10^12 worlds. On a CPU,
`XLA_FLAGS=--xla_force_host_platform_device_count=N` makes N devices. Times are minima over repeats, on the machine used.
"""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

import sims
from sims.engine import draw_blocks, one_device, play_blocks
from sims.moments import Moments
from sims.precision import BLOCK
from sims.studies import Part, exact
from stopping.models import AnswerChain
from stopping.plots import COLOURS, MARKERS
from stopping.policies import AnswerAgreement
from stopping.problems import Thinking, as_pytree

SEED = 0
NUM_BLOCKS = (1, 2, 4, 8, 16, 32, 64)
NUM_POINTS = (4, 8, 16, 32, 64)  # decision points of a chain of thought
REPEATS = 5
POLICY = AnswerAgreement(2, 32)


def run(
    num_blocks: Sequence[int] = NUM_BLOCKS, num_points: Sequence[int] = NUM_POINTS, repeats: int = REPEATS
) -> dict[str, Part]:
    """Run the study: one part each for worlds, devices and decision points."""
    return {
        "worlds": _worlds(num_blocks, repeats),
        "devices": _devices(max(num_blocks), repeats),
        "decision_points": _points(num_points, max(num_blocks), repeats),
    }


def chain(num_points: int) -> Thinking:
    """Return a problem whose chain of thought has this many decision points."""
    model = AnswerChain(
        0.2, 0.05, 0.01, 0.05, right_log_prob=-0.3, wrong_log_prob=-0.9, log_prob_scale=0.3,
        num_points=num_points, gap_tokens=32,
    )  # fmt: skip
    return Thinking(model=model, price_per_token=1e-4)


def _worlds(num_blocks: Sequence[int], repeats: int) -> Part:
    problem = chain(16)
    seconds = [_least_seconds(problem, blocks, jax.devices()[:1], repeats) for blocks in num_blocks]
    fixed, each = _line(np.array(num_blocks, float), np.array(seconds))
    rows = {
        f"{blocks:,} blocks: milliseconds": exact(1e3 * took) for blocks, took in zip(num_blocks, seconds, strict=True)
    }
    rows["fitted: milliseconds of a call"] = exact(1e3 * fixed)
    rows["fitted: milliseconds of a block"] = exact(1e3 * each)
    rows["microseconds that the host takes to merge a block"] = exact(1e6 * _merge_seconds())
    rows["fitted: nanoseconds of a world and decision point"] = exact(1e9 * each / BLOCK / 16)
    blocks = np.array(num_blocks, float)
    figure = _picture(
        "blocks of 4,096 worlds",
        "seconds",
        {"measured": (blocks, np.array(seconds)), "a + b n": (blocks, fixed + each * blocks)},
    )
    return Part(
        "How does the time grow with the worlds, on one device, for chains of 16 decision points?", rows, figure
    )


def _devices(num_blocks: int, repeats: int) -> Part:
    problem, there = chain(16), jax.devices()
    counts = [2**power for power in range(len(there).bit_length()) if 2**power <= len(there)]
    seconds = [_least_seconds(problem, num_blocks, there[:count], repeats) for count in counts]
    rows = {
        f"{count} devices: worlds a second": exact(num_blocks * BLOCK / took)
        for count, took in zip(counts, seconds, strict=True)
    }
    speed = np.array([num_blocks * BLOCK / took for took in seconds])
    ideal = speed[0] * np.array(counts)
    figure = _picture(
        "devices",
        "worlds a second",
        {"measured": (np.array(counts), speed), "in proportion": (np.array(counts), ideal)},
    )
    kind = f"{len(there)} of the {there[0].platform}"
    return Part(f"How many worlds a second on more devices ({kind} were there)?", rows, figure)


def _points(num_points: Sequence[int], num_blocks: int, repeats: int) -> Part:
    rows, nanoseconds, sizes, points_there = {}, [], [], np.array(num_points)
    for points in num_points:
        problem = chain(points)
        took = _least_seconds(problem, num_blocks, jax.devices()[:1], repeats)
        nanoseconds.append(1e9 * took / num_blocks / BLOCK)
        sizes.append(_bytes(problem) / BLOCK)
        rows[f"{points} decision points: nanoseconds of a world"] = exact(nanoseconds[-1])
        rows[f"{points} decision points: bytes of a world in flight"] = exact(sizes[-1])
    figure = _picture(
        "decision points",
        "of a world",
        {"nanoseconds": (points_there, np.array(nanoseconds)), "bytes": (points_there, np.array(sizes))},
    )
    return Part("How do time and memory of a world grow with its decision points?", rows, figure)


def _least_seconds(problem: Thinking, num_blocks: int, devices: Sequence[jax.Device], repeats: int) -> float:
    def once() -> float:
        begun = time.perf_counter()
        sims.simulate(jax.random.key(SEED), problem, POLICY, num_replicas=num_blocks * BLOCK, devices=devices)
        return time.perf_counter() - begun

    once()  # compiles
    return min(once() for _ in range(repeats))


def _bytes(problem: Thinking) -> float:
    """Return the bytes that drawing and playing a block takes, as reported by the compiler: inputs, outputs, temporaries."""
    mesh, policy = one_device(BLOCK), as_pytree(POLICY)
    worlds = draw_blocks(problem, jax.random.key(SEED), np.int32(0), mesh)
    programs: list[tuple[Callable, tuple]] = [
        (draw_blocks, (problem, jax.random.key(SEED), np.int32(0), mesh)),
        (play_blocks, (problem, policy, worlds, mesh)),
    ]
    total = 0
    for program, arguments in programs:
        found = program.lower(*arguments).compile().compiled.memory_analysis()  # type: ignore[attr-defined]
        total += found.output_size_in_bytes + found.temp_size_in_bytes
    return float(total)


def _merge_seconds(times: int = 1000) -> float:
    """Return the seconds that every process spends to merge the moments of one block."""
    names = tuple(map(str, range(10)))
    total = block = Moments.of(names, np.random.default_rng(SEED).normal(size=(10, BLOCK)))
    begun = time.perf_counter()
    for _ in range(times):
        total = total.merge(block)
    return (time.perf_counter() - begun) / times


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Fit a line by least squares of relative errors, with both coefficients at least 0."""
    from scipy.optimize import nnls

    (fixed, each), _ = nnls(np.stack([1 / y, x / y], axis=1), np.ones_like(y))
    return float(fixed), float(each)


def _picture(across: str, up: str, lines: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    figure = Figure(figsize=(4.8, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, color=COLOURS[index], marker=MARKERS[index], markersize=4, linewidth=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.set_xticks(next(iter(lines.values()))[0], [f"{value:g}" for value in next(iter(lines.values()))[0]])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
