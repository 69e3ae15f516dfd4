"""When a simulation has run long enough, and how far it still is.

A rule that stops as soon as the error looks small stops early when it looks small by luck, and its intervals then hold the truth
too rarely (on such rules: Chow and Robbins, "On the asymptotic theory of fixed-width sequential confidence intervals", 1965). Two
things stand against it. The error is looked at after 1, 2, 4, ... blocks of 4,096 worlds only: a handful of looks, each at twice
the data. And it must be small for certain: what counts is what it would be, were the variance two standard errors larger than it
looks.
`stopping study precision` measures what is left.
"""

import time
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.experimental import multihost_utils

from sims.moments import Moments
from stopping.policies.checks import whole_number

BLOCK = 4096  # worlds that one compiled program draws or plays
MAX_REPLICAS = 2**31 - BLOCK  # their numbers are 32 bits wide
UNVARIED = 2**20  # a component that never varied is believed only after so many worlds


class PrecisionNotReached(ValueError):
    """The precision asked for needs more worlds than the engine can number."""


@dataclass(frozen=True)
class Goal:
    """Exactly one of four ways to say how long to run.

    Attributes:
        num_replicas: so many worlds.
        standard_error: until the component's standard error is no larger.
        relative_error: until the standard error is no larger than this share of the mean.
        max_seconds: until so much time has passed; how many worlds that makes hangs on the machine.
        component: whose error counts.

    Raises:
        ValueError: unless exactly one is given, and positive.
    """

    num_replicas: int | None = None
    standard_error: float | None = None
    relative_error: float | None = None
    max_seconds: float | None = None
    component: str = "utility"
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Check what was asked."""
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
        """Worlds at most."""
        return self.num_replicas or MAX_REPLICAS

    def is_reached(self, num_blocks: int, moments: Moments) -> bool:
        """Whether to stop after so many blocks: at a look, that is a power of two, or when the time is over.

        Raises:
            ValueError: if there is no such component.
            PrecisionNotReached: as soon as the error tells that more worlds are needed than can be numbered.
        """
        if self.component not in moments.names:
            raise ValueError(f"component: expected one of {', '.join(moments.names)}, got {self.component!r}")
        if self.num_replicas is not None:
            return False  # all of them
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
        """How many worlds it will take, as far as can be told."""
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
    """The first process's answer, in all of them: clocks differ."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))
