"""When a simulation has run long enough, and how much longer it will take.

A simulation that stops as soon as the estimated error is small tends to stop when the error is underestimated, so its confidence
intervals undercover (Chow and Robbins, "On the asymptotic theory of fixed-width sequential confidence intervals", 1965). Two
measures reduce this. The error is checked only after 1, 2, 4, ... blocks of 4,096 worlds: a few looks, each at twice the data.
And it must be small with confidence: the variance is taken two standard errors above its estimate.
`stopping study precision` measures the remaining undercoverage.
"""

import time
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.experimental import multihost_utils

from sims.moments import Moments
from stopping.policies.checks import whole_number

BLOCK = 4096  # worlds that one compiled program draws or plays
MAX_REPLICAS = 2**31 - BLOCK  # replica numbers have 32 bits
UNVARIED = 2**20  # worlds after which a component that never varied is taken as constant


class PrecisionNotReached(ValueError):
    """The requested precision needs more worlds than the engine can number."""


@dataclass(frozen=True)
class Goal:
    """How long to run, in exactly one of four ways.

    Attributes:
        num_replicas: for this many worlds.
        standard_error: until the component's standard error is at most this.
        relative_error: until the component's standard error is at most this share of its mean.
        max_seconds: for this long; the number of worlds then depends on the machine.
        component: whose error is controlled.
        started: time at which the run started, on the monotonic clock, seconds.

    Raises:
        ValueError: unless exactly one way is given, and it is positive.
    """

    num_replicas: int | None = None
    standard_error: float | None = None
    relative_error: float | None = None
    max_seconds: float | None = None
    component: str = "utility"
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Check the arguments."""
        ways = {name: getattr(self, name) for name in ("standard_error", "relative_error", "max_seconds")}
        given = [name for name, value in {"num_replicas": self.num_replicas, **ways}.items() if value is not None]
        if len(given) != 1:
            expected = "num_replicas, standard_error, relative_error, max_seconds"
            raise ValueError(f"expected exactly one of {expected}, got {', '.join(given) or 'none'}")
        if self.num_replicas is not None:
            whole_number("num_replicas", self.num_replicas, 1, MAX_REPLICAS)
        for name, value in ways.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a positive number, got {value!r}")

    @property
    def most(self) -> int:
        """The largest number of worlds to play."""
        return self.num_replicas or MAX_REPLICAS

    def is_reached(self, num_blocks: int, moments: Moments) -> bool:
        """Return whether to stop after this many blocks: only at a power of two, or when the time is over.

        Raises:
            ValueError: if there is no such component.
            PrecisionNotReached: as soon as the error shows that more worlds are needed than can be numbered.
        """
        if self.component not in moments.names:
            raise ValueError(f"component: expected one of {', '.join(moments.names)}, got {self.component!r}")
        if self.num_replicas is not None:
            return False  # all worlds are played
        if self.max_seconds is not None:
            return same_everywhere(time.monotonic() - self.started >= self.max_seconds)
        if num_blocks & (num_blocks - 1):
            return False
        needed = self.needed(moments)
        if moments.count >= UNVARIED and needed > MAX_REPLICAS:
            asked = "standard_error" if self.standard_error is not None else "relative_error"
            raise PrecisionNotReached(
                f"{asked} {getattr(self, asked)} of {self.component}: expected to be reached with {MAX_REPLICAS:,} worlds; "
                f"after {moments.count:,} it is {moments.estimate(self.component)}, which needs about {needed:.1e}"
            )
        return moments.count >= needed

    def needed(self, moments: Moments) -> float:
        """Return the estimated number of worlds that the run takes in all."""
        if self.num_replicas is not None:
            return self.num_replicas
        if self.max_seconds is not None:
            return moments.count * self.max_seconds / max(time.monotonic() - self.started, 1e-9)
        estimate, error = moments.estimate(self.component), moments.largest_error(self.component)
        if estimate.standard_error == 0:
            return UNVARIED
        relative = (self.relative_error or 0) * abs(estimate.mean)
        wanted = relative if self.standard_error is None else self.standard_error
        return moments.count * (error / wanted) ** 2 if wanted else float("inf")


def same_everywhere(answer: bool) -> bool:
    """Return the first process's answer in every process, because their clocks differ."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))
