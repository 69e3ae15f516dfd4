"""Simulation: worlds drawn from a problem's model, and a policy played through them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from sims.checkpoints import Checkpoints, Standing
from sims.engine import (
    default_devices,
    digest_blocks,
    digest_text,
    draw_blocks,
    gather,
    mesh_of,
    one_device,
    play_blocks,
    sum_blocks,
)
from sims.moments import Moments
from sims.precision import BLOCK, Goal
from sims.progress import Bar, Stopwatch
from sims.results import Result
from stopping.policies import Policy
from stopping.policies.checks import whole_number
from stopping.problems import Problem, admit, as_pytree
from stopping.problems.problem import names_of

KEPT = 2**20  # worlds whose individual outcomes are kept; the others contribute to sums only


def simulate(
    key: Key[Array, ""],
    problem: Problem,
    policy: Policy,
    *,
    num_replicas: int | None = None,
    standard_error: float | None = None,
    relative_error: float | None = None,
    max_seconds: float | None = None,
    component: str = "utility",
    chunk_blocks: int = 2,
    devices: Sequence[jax.Device] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Result:
    """Estimate every component of a policy's outcome under the problem's model.

    Give exactly one of the four ways to say how long to run. Errors are checked after 1, 2, 4, ... blocks of 4,096 worlds only,
    so that confidence intervals keep their coverage (`sims.precision`). The result is bit-identical for any chunk size, any
    number of processes and of devices of one kind, and for a run that was killed and resumed; but with `max_seconds` the number
    of worlds depends on the machine.

    Under `jax.distributed`, every process makes the same call, and each gets the whole result.

    Args:
        key: of the worlds: the same key gives the same worlds for any policy.
        problem: a problem with a model.
        policy: any policy the problem admits.
        num_replicas: how many worlds to play; or
        standard_error: of the component, to reach; or
        relative_error: standard error over the component's mean, to reach; or
        max_seconds: how long to run, compiling included.
        component: whose error is controlled.
        chunk_blocks: blocks in flight on each device; it does not affect the result.
        devices: to compute on; by default all devices, but no more than there are blocks, and only the CPU for `num_replicas` up
            to 16,384. `Result.platform` says which was used.
        checkpoint: a directory for sums and counters, written every few seconds. If it holds a checkpoint of the same run, the
            run resumes from it. With several processes, the first one writes, and all must see the directory.
        progress: show a progress bar with the error so far and the time left.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
        ValueError: unless exactly one way is given, and it is positive; if the outcome has no such component; if the
            checkpoint is of another run, or has more worlds.
        PrecisionNotReached: if the requested error needs more than 2^31 worlds.
    """
    admit(problem, policy)
    goal = Goal(num_replicas, standard_error, relative_error, max_seconds, component)
    run = _Run(key, problem, as_pytree(policy), goal, devices, whole_number("chunk_blocks", chunk_blocks, 1))
    saved = Checkpoints(checkpoint, (key, problem, as_pytree(policy), BLOCK))
    kept: list[dict[str, np.ndarray]] = []
    with Stopwatch() as watch, Bar(progress) as bar:
        standing = saved.load(goal.most)
        resumed = 0 if standing is None else standing.num_blocks
        is_done = standing is not None and goal.is_reached(resumed, standing.moments)
        for block in run.blocks(resumed, is_done, None if standing is None else standing.centre):
            if block.values is not None:
                kept.append(block.values)
            if block.index < resumed:
                continue  # replayed only for its values, which checkpoints do not hold
            standing = block.added_to(standing)
            if goal.is_reached(standing.num_blocks, standing.moments):
                break
            saved.save(standing)
            bar.show(standing.moments, goal)
    assert standing is not None  # there is at least one block
    saved.save(standing, now=True)
    return Result(
        {name: np.concatenate([values[name] for values in kept]) for name in kept[0]},
        digest_text(standing.digest),
        f"simulation of {policy}",
        standing.moments,
        watch.compile_seconds,
        watch.run_seconds,
        run.platform,
        names_of(problem),
    )


def draw(key: Key[Array, ""], problem: Problem, num_replicas: int) -> Any:
    """Return the worlds that `simulate` plays for this key, stacked; `[replicas]`.

    Raises:
        ValueError: if `num_replicas` is not a whole number >= 1, or the problem has no model.
    """
    num_replicas = whole_number("num_replicas", num_replicas, 1)
    mesh = one_device(num_replicas)
    blocks = [draw_blocks(problem, key, np.int32(first), mesh) for first in range(0, num_replicas, BLOCK)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x)[0] for x in leaves])[:num_replicas], *blocks)


@dataclass(frozen=True, eq=False)
class _Block:
    """The results of one block.

    Attributes:
        index: its number.
        values: of each component, `[worlds]`; None where they are not kept.
        names: of the components that have a mean.
        count: number of worlds in the sums.
        centre, sums, products, fourth, digest: see `sum_blocks` and `digest_blocks`.
    """

    index: int
    values: dict[str, np.ndarray] | None
    names: tuple[str, ...]
    count: int
    centre: np.ndarray
    sums: np.ndarray
    products: np.ndarray
    fourth: np.ndarray
    digest: np.ndarray

    def added_to(self, standing: Standing | None) -> Standing:
        """Return the state of the run after this block; in float64."""
        sums, products = self.sums.astype(np.float64), self.products.astype(np.float64)
        mean, comoment = self.centre + sums / self.count, products - np.outer(sums, sums) / self.count
        own = Moments(self.names, self.count, mean, comoment, self.fourth.astype(np.float64))
        digest = self.digest.astype(np.uint64)
        if standing is None:
            return Standing(1, self.centre, own, digest)
        return Standing(self.index + 1, self.centre, standing.moments.merge(own), standing.digest + digest)


class _Run:
    """The compiled programs of a run; each call computes one block on every device."""

    def __init__(
        self, key: Any, problem: Any, policy: Any, goal: Goal, devices: Sequence[jax.Device] | None, in_flight: int
    ) -> None:
        self._key, self._problem, self._policy, self._in_flight = key, problem, policy, in_flight
        self._names = names_of(problem)
        self._total, self._num_blocks = goal.most, -(-goal.most // BLOCK)
        chosen = default_devices(goal.most) if devices is None else list(devices)
        self._mesh = mesh_of(chosen if jax.process_count() > 1 else chosen[: self._num_blocks])

    @property
    def platform(self) -> str:
        """The kind of the devices: cpu, gpu, ..."""
        return self._mesh.devices.flat[0].platform

    def blocks(self, resumed: int, is_done: bool, centre: np.ndarray | None) -> Iterator[_Block]:
        """Yield blocks in order: of the first `resumed`, those whose values are kept; then all others, unless the run is done."""
        spans = [(0, min(resumed, KEPT // BLOCK))] + ([] if is_done else [(resumed, self._num_blocks)])
        calls = deque[Any]()
        for start, end in spans:
            for index in range(start, end, self._mesh.size):
                worlds = draw_blocks(self._problem, self._key, np.int32(index * BLOCK), self._mesh)
                outcome = play_blocks(self._problem, self._policy, worlds, self._mesh)
                if centre is None:
                    centre = self._centre(outcome)
                calls.append((index, end, centre, self._summed(index, outcome, worlds, centre)))
                if len(calls) >= self._in_flight:
                    yield from self._collected(*calls.popleft())
        for call in calls:
            yield from self._collected(*call)

    def _centre(self, outcome: Any) -> np.ndarray:
        """Return the means of the components in the first block, from which sums are centred."""
        first = {name: gather(getattr(outcome, name))[0, : self._total] for name in self._names}
        return np.array([values.mean(dtype=np.float64) for values in first.values()], np.float32)

    def _summed(self, index: int, outcome: Any, worlds: Any, centre: np.ndarray) -> tuple:
        names, where = self._names, (np.int32(index * BLOCK), np.int32(self._total), self._mesh)
        sums = sum_blocks(tuple(getattr(outcome, name) for name in names), centre, *where)
        return names, outcome if index * BLOCK < KEPT else None, sums, digest_blocks(worlds, *where)

    def _collected(self, index: int, end: int, centre: np.ndarray, computed: tuple) -> Iterator[_Block]:
        names, outcome, *summed = computed
        sums, digests = gather(summed)
        values = None if outcome is None else gather(outcome)._asdict()
        for row, block in enumerate(range(index, min(index + self._mesh.size, end))):
            count = min(BLOCK, self._total - block * BLOCK)
            own = None
            if values is not None and block * BLOCK < KEPT:
                own = {name: each[row, :count].astype(np.float64) for name, each in values.items()}
            added, products, fourth = (each[row] for each in sums)
            yield _Block(block, own, names, count, centre, added, products, fourth, digests[row])
