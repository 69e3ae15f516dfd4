"""A policy from a problem, by any solver."""

from typing import Protocol

import jax.random as jr
from jaxtyping import Array, Key

from stopping.problems import Replayable
from stopping.solvers.family_search import FamilySearch, Solution


class Solver(Protocol):
    """A method that finds a policy for a problem."""

    def solve(self, problem: Replayable, key: Key[Array, ""], *, progress: bool = False) -> Solution:
        """Return what was found."""


def solve(
    problem: Replayable,
    solver: Solver | None = None,
    *,
    key: Key[Array, ""] | None = None,
    progress: bool = False,
) -> Solution:
    """Find a policy for a problem with a model.

    Args:
        problem: any.
        solver: how; `FamilySearch()` if not given.
        key: of the worlds; `jax.random.key(0)` if not given.
        progress: show a bar.

    Raises:
        ValueError: if the problem has no model.
    """
    return (solver or FamilySearch()).solve(problem, jr.key(0) if key is None else key, progress=progress)
