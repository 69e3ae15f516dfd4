"""Many policies, at many prices, on the same worlds; and a search by sequential halving."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from sims.bands import Band, critical_value
from sims.engine import default_devices, digest_blocks, draw_blocks, gather, mesh_of, one_device, play_blocks
from sims.estimates import Estimate
from sims.precision import BLOCK
from stopping.policies import Policy
from stopping.policies.checks import whole_number
from stopping.problems import Problem, admit, as_pytree
from stopping.problems.problem import UTILITY


@dataclass(frozen=True, eq=False)
class Sweep:
    """Outcomes of every policy at every price, on the same worlds.

    Attributes:
        policies: in the order given.
        baseline: index of the policy that all are compared with.
        count: number of worlds.
        mean, standard_error: by component, in its unit; `[prices, policies]`.
        differences: utility of each policy less the baseline's, one band over the policies per price. The intervals of all
            policies and prices hold simultaneously.
    """

    policies: tuple[Any, ...]
    baseline: int
    count: int
    mean: dict[str, np.ndarray]
    standard_error: dict[str, np.ndarray]
    differences: tuple[Band, ...]

    def estimate(self, component: str, policy: int, price: int = 0) -> Estimate:
        """Return the mean of a component for one policy at one price."""
        figures = self.mean[component][price, policy], self.standard_error[component][price, policy]
        return Estimate(float(figures[0]), float(figures[1]), self.count)

    def best(self, price: int = 0) -> Any:
        """Return the policy of largest mean utility; selected on these worlds, its estimate is biased upwards."""
        return self.policies[int(np.argmax(self.mean["utility"][price]))]

    def __repr__(self) -> str:
        best = int(np.argmax(self.mean["utility"][0]))
        first = f"{self.policies[best]}, utility {self.estimate('utility', best)}"
        return f"Sweep of {len(self.policies)} policies at {len(self.differences)} prices, {self.count:,} worlds; best: {first}"


def sweep(
    key: Key[Array, ""],
    problem: Problem | Sequence[Problem],
    policies: Sequence[Policy],
    *,
    num_replicas: int,
    baseline: int = 0,
    confidence: float = 0.95,
    devices: Sequence[jax.Device] | None = None,
) -> Sweep:
    """Play many policies, at many prices, through the same worlds.

    The worlds are those that `simulate` draws with this key. Policies of one class share one compiled program at all prices.

    Args:
        key: of the worlds.
        problem: a problem with a model; or several that differ only in their prices (`[problem.priced(p) for p in prices]`).
        policies: any that the problem admits.
        num_replicas: number of worlds.
        baseline: index of the policy that all are compared with.
        confidence: simultaneous coverage of all intervals of differences.
        devices: as in `simulate`.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: if there is no policy, the baseline is not an index of one, or the problems draw different worlds.
    """
    grid = _Grid(key, problem, policies, baseline, devices)
    sums = grid.play(0, whole_number("num_replicas", num_replicas, 1))
    return sums.sweep(grid.policies, baseline, confidence)


@dataclass(frozen=True)
class Round:
    """One round of a search.

    Attributes:
        num_policies: policies still in the search.
        num_replicas: worlds that each of them was played through in this round.
    """

    num_policies: int
    num_replicas: int


@dataclass(frozen=True, eq=False)
class Search:
    """The result of a search.

    Attributes:
        policy: the winner.
        gain: its utility less the baseline's, on fresh worlds not used for the search.
        utility: its utility on the same fresh worlds.
        rounds: the rounds played, in order.
    """

    policy: Any
    gain: Estimate
    utility: Estimate
    rounds: tuple[Round, ...]

    def __repr__(self) -> str:
        return f"Search({self.policy}, utility {self.utility}, gain {self.gain}, {len(self.rounds)} rounds)"


def search(
    key: Key[Array, ""],
    problem: Problem | Sequence[Problem],
    policies: Sequence[Policy],
    *,
    num_replicas: int,
    baseline: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Search:
    """Find the policy of largest utility by sequential halving over worlds.

    Each round plays the remaining policies through new common worlds, twice as many as the round before, and keeps the better
    half by their mean over all worlds so far. So all rounds cost about the same, and the last two of m policies are compared on
    about m / 2 times as many worlds as in the first round.

    Args:
        key: of the worlds.
        problem: a problem with a model.
        policies: any that the problem admits.
        num_replicas: worlds of the first round, rounded up to blocks of 4,096. The winner is scored on as many worlds as the last
            round had.
        baseline: index of the policy that the winner is compared with.
        devices: as in `simulate`.

    Raises:
        PolicyMismatch, ValueError: as `sweep`.

    References:
        Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits" (ICML 2013), algorithm 1.
    """
    worlds = -(-whole_number("num_replicas", num_replicas, 1) // BLOCK) * BLOCK
    whole_number("baseline", baseline, 0, len(policies) - 1)
    left, first, total, rounds = list(policies), 0, None, []
    while True:
        rounds.append(Round(len(left), worlds))
        own = _Grid(key, problem, left, 0, devices).play(first, worlds)
        total = own if total is None else total.merge(own)
        first += worlds
        order = np.argsort(-total.mean[0, 0], kind="stable")[: -(-len(left) // 2)]
        left = [left[index] for index in order]
        if len(left) == 1:
            break
        total, worlds = total.take(order), 2 * worlds
    scored = _Grid(key, problem, (policies[baseline], left[0]), 0, devices).play(first, worlds)
    utility, gain = (
        Estimate(float(scored.mean[figure, 0, 1]), float(scored.error[figure, 0, 1]), worlds) for figure in (0, -1)
    )
    return Search(left[0], gain, utility, tuple(rounds))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Moments of every figure of the grid: the components, then the difference in utility.

    Attributes:
        names: of the components, `utility` first.
        count: number of worlds.
        mean, square: means, and sums of squares about them; `[components + 1, prices, policies]`, float64.
        sample: differences of utility in the first block, `[worlds, prices, policies]`.
    """

    names: tuple[str, ...]
    count: int
    mean: np.ndarray
    square: np.ndarray
    sample: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Standard errors of the means."""
        return np.sqrt(self.square / max(self.count - 1, 1) / self.count)

    def merge(self, other: "_Sums") -> "_Sums":
        """Return the moments of both sets of worlds together; see `sims.moments`."""
        count = self.count + other.count
        step = other.mean - self.mean
        between = step**2 * (self.count * other.count / count)
        mean = self.mean + step * (other.count / count)
        return _Sums(self.names, count, mean, self.square + other.square + between, self.sample)

    def take(self, policies: np.ndarray) -> "_Sums":
        """Return the moments of some of the policies."""
        return _Sums(
            self.names, self.count, self.mean[..., policies], self.square[..., policies], self.sample[..., policies]
        )

    def sweep(self, policies: Sequence[Any], baseline: int, confidence: float) -> Sweep:
        """Return the figures with their errors."""
        critical = critical_value(self.sample.reshape(len(self.sample), -1), confidence)
        bands = [Band.around(*pair, critical, confidence) for pair in zip(self.mean[-1], self.error[-1], strict=True)]
        mean, errors = (dict(zip(self.names, figures, strict=False)) for figures in (self.mean, self.error))
        return Sweep(tuple(policies), baseline, self.count, mean, errors, tuple(bands))


class _Grid:
    """Policies at prices; each policy is played by the compiled program of its class."""

    def __init__(
        self,
        key: Any,
        problem: Problem | Sequence[Problem],
        policies: Sequence[Any],
        baseline: int,
        devices: Sequence[jax.Device] | None,
    ) -> None:
        self.policies, self._key = tuple(policies), key
        self._problems = [problem] if isinstance(problem, Problem) else list(problem)
        if not self.policies or not self._problems:
            raise ValueError("policies: expected at least one, at one price, got none")
        others = [each.name for each in self._problems[0].components if each.name != UTILITY.name]
        self._names = (UTILITY.name, *others)
        for policy in self.policies:
            admit(self._problems[0], policy)
        self._baseline = whole_number("baseline", baseline, 0, len(self.policies) - 1)
        self._devices = devices
        if len(self._problems) > 1 and len(draws := {_digest(key, each) for each in self._problems}) > 1:
            raise ValueError(f"problems: expected the same worlds of all, got {len(draws)} different draws")

    def play(self, first: int, count: int) -> _Sums:
        """Play all policies through `count` worlds, starting at world `first`."""
        chosen = default_devices(count) if self._devices is None else list(self._devices)
        mesh = mesh_of(chosen if jax.process_count() > 1 else chosen[: -(-count // BLOCK)])
        total: _Sums | None = None
        for start in range(first, first + count, mesh.size * BLOCK):
            counts = np.clip(first + count - start - BLOCK * np.arange(mesh.size), 0, BLOCK)
            worlds = draw_blocks(self._problems[0], self._key, np.int32(start), mesh)
            rows = [self._play_policies(problem, worlds, counts, mesh) for problem in self._problems]
            mean, square, difference = (np.stack(parts, axis=-2) for parts in zip(*rows, strict=True))
            for row in np.flatnonzero(counts):
                sample = difference[row, : counts[row] if total is None else 0]
                block = _Sums(self._names, int(counts[row]), mean[row], square[row], sample)
                total = block if total is None else total.merge(block)
        assert total is not None
        return total

    def _play_policies(self, problem: Any, worlds: Any, counts: np.ndarray, mesh: Any) -> list[np.ndarray]:
        """Return means and squares, `[devices, figures, policies]`, and differences, `[devices, worlds, policies]`."""
        outcomes = [play_blocks(problem, as_pytree(policy), worlds, mesh) for policy in self.policies]
        figures = [tuple(getattr(outcome, name) for name in self._names) for outcome in outcomes]
        reduced = [_reduce(each, figures[self._baseline][0], counts) for each in figures]
        means, squares, differences = (np.stack(parts, axis=-1) for parts in zip(*gather(reduced), strict=True))
        return [means.astype(np.float64), squares.astype(np.float64), differences]


@jax.jit
def _reduce(figures: tuple, baseline: Array, counts: Array) -> tuple[Array, Array, Array]:
    """Return means, squares about them, `[devices, figures]`, and differences in utility, `[devices, BLOCK]`."""
    difference = figures[0] - baseline
    values = jnp.stack([each.astype(difference.dtype) for each in (*figures, difference)], axis=1)
    counted = (jnp.arange(BLOCK) < counts[:, None])[:, None]
    mean = jnp.where(counted, values, 0).sum(axis=-1) / jnp.maximum(counts, 1)[:, None]
    square = jnp.where(counted, (values - mean[..., None]) ** 2, 0).sum(axis=-1)
    return mean, square, difference


def _digest(key: Any, problem: Any) -> bytes:
    mesh = one_device(BLOCK)
    worlds = draw_blocks(problem, key, np.int32(0), mesh)
    return bytes(np.asarray(digest_blocks(worlds, np.int32(0), np.int32(BLOCK), mesh)))
