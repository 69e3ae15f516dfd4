"""One step of every policy: on plain Python numbers for one request, on NumPy and torch for many."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Report, rows_of, time_together
from stopping.policies import SAMPLING, Decision, bind, decision_of, parameters
from stopping.policies.examples import EXAMPLES

POLICIES = tuple({type(policy): policy for policy in EXAMPLES}.values())  # one of each, the last
NUM_STEPS = 64


def run() -> Report:
    """Time a stream of steps on every backend; all must ask for the same actions."""
    backends = ["python", *(("torch",) if importlib.util.find_spec("torch") else ())]
    contenders, decisions = {}, {}
    for policy in POLICIES:
        name = type(policy).__name__
        given = {rows: _stream(decision_of(policy), rows) for rows in (None, 1, 64, 256)}
        streams = {"python": given[None]} | {f"NumPy, {rows} rows": given[rows] for rows in (1, 64, 256)}
        if "torch" in backends:
            streams |= {f"torch, {rows} rows": _as_torch(given[rows]) for rows in (64, 256)}
        for kind, stream in streams.items():
            backend = kind.split(",")[0].lower()
            rows = () if backend == "python" else stream[0].elapsed_tokens.shape
            contenders[f"{name}, {kind}"] = _steps(policy, backend, stream, rows)
            decisions[name, kind] = _decisions(policy, backend, stream, rows)
    timings = time_together(contenders, repeats=300, at_least_seconds=5e-4)
    rows = [row for row in rows_of(timings, 1e6 / NUM_STEPS)]
    scalar = [
        row for row, policy in zip(rows[:: len(rows) // len(POLICIES)], POLICIES, strict=True) if _is_scalar(policy)
    ]
    small = {type(policy).__name__ for policy in POLICIES if _has_small_state(policy)}
    batched = [row for row in rows if row.name.endswith(("NumPy, 64 rows", "NumPy, 256 rows"))]
    batched = [row for row in batched if row.name.split(",")[0] in small]
    slowest, slowest_batch = (max(part, key=lambda row: row.minimum) for part in (scalar, batched))
    differ = sum(int((got != decisions[name, "python"]).sum()) for (name, _), got in decisions.items())
    return Report(
        title="One step of a policy",
        goal="at most 1 microsecond on plain floats for policies of scalars, at most 6 for 64 to 256 rows in NumPy "
        "where a row's state is a few numbers",
        unit="microseconds a step",
        rows=rows,
        reached=[
            ("at most 1 on plain Python, the slowest", f"{slowest.minimum:.2f} ({slowest.name})", slowest.minimum <= 1),
            (
                "at most 6 in NumPy, the slowest",
                f"{slowest_batch.minimum:.2f} ({slowest_batch.name})",
                slowest_batch.minimum <= 6,
            ),
        ],
        checks={"first rows' actions that differ from plain Python's": float(differ)},
        notes=[
            f"Bound once, then a stream of {NUM_STEPS} steps over one state, the loop included.",
            "torch: not installed." if "torch" not in backends else "torch on the CPU, one thread.",
        ],
    )


def _stream(decision: Decision, rows: int | None) -> list[Any]:
    """The observations of eight traces that end, or of one that thinks, over and over; every row sees the same."""
    random, steps = np.random.default_rng(0), []
    for step in range(NUM_STEPS):
        ended, answer = step % 9, int(random.integers(-1, 3))
        leader = int(random.integers(ended // 2, ended + 1))
        sampling = (8 * (ended > 0), (8 - ended) * (ended > 0), ended, answer, leader, ended - leader)
        log_probs = [-4 / (1 + ended)] * 4
        thinking = (700 * ended, *log_probs[:3], ended // 3, step % 2 > 0, answer, *log_probs[2:])
        fields = (*sampling, 700 * ended, 5000 * ended) if decision is SAMPLING else thinking
        values = zip(decision.signals, fields, strict=True)
        row = (value if rows is None else np.full(rows, value, decision.dtype_of(name)) for name, value in values)
        steps.append(decision.observation(*row))
    return steps


def _as_torch(stream: list[Any]) -> list[Any]:
    import torch

    torch.set_num_threads(1)
    return [type(step)(*map(torch.as_tensor, step)) for step in stream]


def _steps(policy: Any, backend: Any, stream: list[Any], shape: tuple[int, ...]) -> Callable[[], None]:
    bound = bind(policy, backend)
    start, step = bound.init(shape), bound.step

    def run() -> None:
        state = start
        for observation in stream:
            state, _ = step(state, observation)

    return run


def _decisions(policy: Any, backend: Any, stream: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    bound = bind(policy, backend)
    state, actions = bound.init(shape), []
    for observation in stream:
        state, action = bound.step(state, observation)
        actions.append([int(np.asarray(part).flat[0]) for part in action])
    return np.array(actions)


def _has_small_state(policy: Any) -> bool:
    return all(leaf.ndim == 0 for leaf in bind(policy, "numpy").init())


def _is_scalar(policy: Any) -> bool:
    return not any(isinstance(value, np.ndarray) for value in parameters(policy).values())
