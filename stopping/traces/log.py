"""What every log offers, whatever was logged: problems, samples of each, and the rule that produced the answers."""

from collections.abc import Iterable, Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np

from stopping.traces.reference import Reference


@runtime_checkable
class Log(Protocol):
    """Several problems, with one or more samples of each. The independent unit is the problem, never the sample."""

    @property
    def problem_ids(self) -> Sequence[str]:
        """Names of the problems, each once."""

    @property
    def num_problems(self) -> int:
        """Number of problems."""

    @property
    def num_samples(self) -> int:
        """Number of samples of the problem that has most."""

    @property
    def reference(self) -> Reference:
        """The rule that produced the answer that counts."""

    @property
    def all_judged(self) -> bool:
        """Whether every sample is known to be right or wrong; otherwise only agreement can be certified."""

    @property
    def informative_censoring(self) -> str | None:
        """A clause saying why censoring is informative, so that other rules cannot be replayed; `None` if it is not."""

    def take(self, problem_indices: Iterable[int] | np.ndarray) -> Self:
        """Return the log of these problems, `[n]` indices or `[problems]` booleans, in this order."""

    def take_samples(self, sample_indices: Iterable[int] | np.ndarray) -> Self:
        """Return the log of these samples of each problem, `[k]` or `[problems, k]`."""
