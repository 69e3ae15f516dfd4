"""Draw worlds from a model and play a policy through them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from sims.checkpoints import Checkpoints, Standing
from sims.clocks import Bar, Stopwatch
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
from sims.results import Result
from stopping.policies import Policy
from stopping.policies.checks import whole_number
from stopping.problems import Problem, admit, as_pytree
from stopping.problems.problem import names_of

KEPT = 2**20  # worlds whose outcomes are kept one by one; of all others the sums are


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

    How long to run is said in exactly one of four ways. Errors are looked at after 1, 2, 4, ... blocks of 4,096 worlds, so that
    intervals hold what they say (`sims.precision`). The result is the same to the last bit for any chunk, for any number of
    devices of one kind and of processes, and for a run that was killed and resumed; but `max_seconds` may end it elsewhere.

    Where `jax.distributed` is started, every process calls this alike, and each gets the whole result.

    Args:
        key: of the worlds: the same key means the same worlds, for any policy.
        problem: a problem with a model.
        policy: any policy the problem admits.
        num_replicas: how many worlds; or
        standard_error: of the component, to be reached; or
        relative_error: its share of the component's mean; or
        max_seconds: how long, compiling included.
        component: whose error counts.
        chunk_blocks: blocks in flight on each device; no effect on the result.
        devices: to compute on; default all there are, but no more than there are blocks, and the CPU alone for up to 16,384
            worlds asked for by number: `Result.platform` says where it was.
        checkpoint: a directory for sums and counters, written every few seconds: where it holds those of this very run, the run
            goes on from there. Of many processes the first writes, and all must see the directory.
        progress: show a bar, with the error so far and the time left.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
        ValueError: if not exactly one way is given, or one is not positive; if the outcome has no such component; if the
            checkpoint is of another run, or of more worlds.
        PrecisionNotReached: if the error asked for needs more than 2^31 worlds.
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
                continue  # played again for its values alone: no checkpoint holds them
            standing = block.added_to(standing)
            if goal.is_reached(standing.num_blocks, standing.moments):
                break
            saved.save(standing)
            bar.show(standing.moments, goal)
    assert standing is not None  # of one block at least
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
    """Return the very worlds that `simulate` plays, stacked; `[replicas]`.

    Raises:
        ValueError: if `num_replicas` is not a whole number >= 1, or the problem has no model.
    """
    num_replicas = whole_number("num_replicas", num_replicas, 1)
    mesh = one_device(num_replicas)
    blocks = [draw_blocks(problem, key, np.int32(first), mesh) for first in range(0, num_replicas, BLOCK)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x)[0] for x in leaves])[:num_replicas], *blocks)


@dataclass(frozen=True, eq=False)
class _Block:
    """What came of one block.

    Attributes:
        index: its number.
        values: of each component, `[worlds]`; None where they are not kept.
        names: of the components that have a mean.
        count: worlds that count.
        centre, sums, products, fourth, digest: as of `sum_blocks` and `digest_blocks`.
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
        """How far the run is with this block; in float64."""
        sums, products = self.sums.astype(np.float64), self.products.astype(np.float64)
        mean, comoment = self.centre + sums / self.count, products - np.outer(sums, sums) / self.count
        own = Moments(self.names, self.count, mean, comoment, self.fourth.astype(np.float64))
        digest = self.digest.astype(np.uint64)
        if standing is None:
            return Standing(1, self.centre, own, digest)
        return Standing(self.index + 1, self.centre, standing.moments.merge(own), standing.digest + digest)


class _Run:
    """The programs of a run: at each call a block on every device."""

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
        """What the devices are: cpu, gpu, ..."""
        return self._mesh.devices.flat[0].platform

    def blocks(self, resumed: int, is_done: bool, centre: np.ndarray | None) -> Iterator[_Block]:
        """Blocks in order: of the first `resumed` those that are kept, then all others, unless the run is done."""
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
        """Near the means of the components: those of the first block."""
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
