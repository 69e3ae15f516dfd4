"""What all subjects share: one core, interleaved repeats, compiling apart, the machine's description, the report.

Import this module before JAX: it sets the flags for one thread. It pins nothing until `use_one_core` is called.
"""

import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 " + os.environ.get(
    "XLA_FLAGS", ""
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "torch")


@dataclass(frozen=True)
class Timing:
    """Of one contender, in seconds: the first call, with what is compiled in it, and then the least and the median."""

    first: float
    minimum: float
    median: float
    repeats: int


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        name: what ran.
        minimum, median: in the report's unit.
        first_seconds: the first call, compiling included; None where nothing is compiled.
        times: how many times slower than the report's first row (by minima); None where they are not comparable.
    """

    name: str
    minimum: float
    median: float
    first_seconds: float | None = None
    times: float | None = None


@dataclass(frozen=True)
class Report:
    """One subject.

    Attributes:
        title, goal: in words.
        unit: of the rows.
        rows: the timings.
        reached: each part of the goal, what was measured, whether it is met.
        checks: that the contenders compute the same thing: what was compared, and how far apart it is.
        notes: what one must know to read the rows.
    """

    title: str
    goal: str
    unit: str
    rows: list[Row]
    reached: list[tuple[str, str, bool]]
    checks: dict[str, float]
    notes: list[str] = field(default_factory=list)


def use_one_core() -> int | None:
    """Pin this process to the last core it may run on, where the system can; return the core."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def time_together(
    contenders: Mapping[str, Callable[[], Any]], repeats: int = 15, at_least_seconds: float = 0.0
) -> dict[str, Timing]:
    """Time functions in turn, round after round, so that what disturbs the machine disturbs all of them.

    A function that returns JAX arrays must wait for them itself (`jax.block_until_ready`). One that takes less than
    `at_least_seconds` is called so often in a row that together it takes as long.
    """
    first = {name: _seconds(run, 1) for name, run in contenders.items()}
    calls = {}
    for name, run in contenders.items():
        calls[name] = max(1, round(at_least_seconds / max(_seconds(run, 1), 1e-9)))
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            if calls[name] > 1:
                run()  # short ones find their code and data in the cache, as in a loop
            rounds[name].append(_seconds(run, calls[name]) / calls[name])
    return {name: Timing(first[name], min(times), statistics.median(times), repeats) for name, times in rounds.items()}


def rows_of(
    timings: Mapping[str, Timing], per_unit: Mapping[str, float] | float, compiled: tuple[str, ...] = ()
) -> list[Row]:
    """Put timings into a report's unit, beside the first; `per_unit` is the unit's factor (1e6 / problems, ...)."""
    factor = per_unit if isinstance(per_unit, Mapping) else dict.fromkeys(timings, per_unit)
    base = next(iter(timings))
    return [
        Row(
            name,
            timing.minimum * factor[name],
            timing.median * factor[name],
            timing.first if name in compiled else None,
            timing.minimum * factor[name] / (timings[base].minimum * factor[base]),
        )
        for name, timing in timings.items()
    ]


def _seconds(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, system, Python and the libraries."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    entry = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", info.split("\n\n")[0], re.M))
    flags = entry.get("flags", "").split()
    return {
        "processor": entry.get("model name", platform.processor() or platform.machine()),
        "family_model_stepping": [entry.get(name) for name in ("cpu family", "model", "stepping")],
        "cache": entry.get("cache size"),
        "vectors": [name for name in ("avx2", "avx512f") if name in flags],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in PACKAGES},
    }


def file_stem(description: Mapping[str, Any]) -> str:
    """Name a machine's result files by its processor and cores."""
    processor = re.sub(r"\((R|TM)\)", "", description["processor"])
    family = "-".join(part for part in description["family_model_stepping"][:2] if part)
    words = f"{processor} {family} {description['cores']} cores".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
