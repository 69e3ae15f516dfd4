"""What a simulation or a replay gives: estimates, the values behind them, and which worlds they stand on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sims.estimates import Estimate

LABELS = ("answer",)  # components that name something, and have no mean


@dataclass(frozen=True, eq=False)
class Result:
    """Outcomes of one policy over many worlds.

    Attributes:
        values: by component of the problem's outcome (`utility`, `correct`, `..._tokens`, ...), one value for each
            independent unit: a replica, or a problem of a log averaged over its orders; float64 `[units]`.
        digest: of the worlds: two results can be subtracted if theirs agree.
        title: what was run, for people.
        supported: the same with 0 where the policy went past what the log holds; None where it never did.
    """

    values: dict[str, np.ndarray]
    digest: str
    title: str
    supported: dict[str, np.ndarray] | None = None

    def __getattr__(self, name: str) -> Estimate:
        if name.startswith("_") or name not in self.values:
            raise AttributeError(
                f"result has no component {name!r}; it has {', '.join(self.__dict__.get('values', ()))}"
            )
        return self.estimates[name]

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The mean of each component that is a quantity."""
        return {name: Estimate.of(values) for name, values in self.values.items() if name not in LABELS}

    @property
    def num_unsupported(self) -> float:
        """Units in which the policy went past what the log holds (fractions of a unit where it has several orders)."""
        return float(self.values["unsupported"].sum())

    def bounds(self, name: str, least: float, most: float) -> tuple[Estimate, Estimate]:
        """Bound a component that lies in [least, most] by setting what is unsupported to either end."""
        known = (self.supported or self.values)[name]
        low, high = (Estimate.of(known + end * self.values["unsupported"]) for end in (least, most))
        return low, high

    def summary(self) -> dict[str, Any]:
        """Return title and figures in plain numbers, as an artifact's evidence."""
        figures = {name: estimate.as_dict() for name, estimate in self.estimates.items()}
        # a single unit has no error, and a figure without one is none
        known = {name: figure for name, figure in figures.items() if figure["standard_error"] is not None}
        return {"title": self.title, "figures": known}


def difference(a: Result, b: Result) -> dict[str, Estimate]:
    """Return the mean of a - b in each component, paired unit by unit.

    Raises:
        ValueError: if the two do not stand on the same worlds.
    """
    if a.digest != b.digest:
        raise ValueError(
            f"results: expected the same worlds, got {a.title!r} ({a.digest}) and {b.title!r} ({b.digest})"
        )
    return {name: Estimate.of(a.values[name] - b.values[name]) for name in a.estimates if name in b.values}
