"""What a simulation or a replay gives: estimates, the values behind them, and which worlds they stand on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sims.bands import Band
from sims.estimates import Estimate
from sims.moments import Moments
from sims.plotted import Plotted


@dataclass(frozen=True, eq=False, repr=False)
class Result(Plotted):
    """Outcomes of one policy over many worlds.

    Where the policy went past what a log holds, a unit is `unsupported`: it is counted with no answer, and with what it had
    cost until then. So `correct` and all costs are lower bounds if there is any such unit; `at_most` gives the upper ones.

    Attributes:
        values: by component of the problem's outcome (`utility`, `correct`, `..._tokens`, ...), one value for each
            independent unit: a replica, or a problem of a log averaged over its orders; float64 `[units]`. Of a simulation of
            more than 2^20 worlds those of the first, a fair sample of all.
            What only names something, as an answer's label does, is among them, and has no mean.
        digest: of the worlds: two results can be subtracted if theirs agree.
        title: what was run, for people.
        moments: of all units, where `values` may hold some only.
        compile_seconds, run_seconds: what a simulation took, compiling apart.
        platform: what it ran on: cpu, gpu, ...
        names: of the components that have a mean; all if empty.
    """

    values: dict[str, np.ndarray]
    digest: str
    title: str
    moments: Moments | None = None
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    platform: str = ""
    names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Estimate:
        if name.startswith("_") or name not in self.values:
            raise AttributeError(
                f"result has no component {name!r}; it has {', '.join(self.__dict__.get('values', ()))}"
            )
        return self.estimates[name]

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The mean of each component."""
        names = list(self.names or self.values)
        if self.moments is not None and self.moments.count > self.num_kept:
            return {name: self.moments.estimate(name) for name in names}
        return {name: Estimate.of(self.values[name]) for name in names}

    @property
    def num_kept(self) -> int:
        """Units whose values are kept."""
        return len(next(iter(self.values.values())))

    @property
    def num_units(self) -> int:
        """Independent units."""
        return self.num_kept if self.moments is None else self.moments.count

    def ratio(self, numerator: str, denominator: str) -> Estimate:
        """The ratio of the means of two components: tokens for each right answer, say."""
        names = (numerator, denominator)
        moments = self.moments or Moments.of(names, np.stack([self.values[name] for name in names]))
        return moments.ratio(*names)

    def quantile(self, name: str, prob: float) -> Estimate:
        """A quantile of a component over the units that are kept; see `Estimate.quantile`."""
        return Estimate.quantile(self.values[name], prob)

    def tail_mean(self, name: str, prob: float) -> Estimate:
        """The mean of a component in the worst 1 - `prob` of the units that are kept (CVaR); see `Estimate.tail_mean`."""
        return Estimate.tail_mean(self.values[name], prob)

    def distribution(self, name: str, points: np.ndarray, confidence: float = 0.95) -> Band:
        """The share of the units kept that are at or below each point, with intervals that hold all at once; see `Band`."""
        return Band.distribution(self.values[name], points, confidence)

    @property
    def num_unsupported(self) -> float:
        """Units in which the policy went past what the log holds (fractions of a unit where it has several orders)."""
        return self.estimates["unsupported"].mean * self.num_units

    def at_most(self, **more: float) -> "Result":
        """Return the result of the components named alone, had so much come on top in every unsupported unit.

        Of the units that are kept. An answer adds 1 to `correct` and `utility`; n traces of a log with a cap, n times the cap
        to `total_tokens`.
        """
        unsupported = self.values["unsupported"]
        values = {name: self.values[name] + most * unsupported for name, most in more.items()}
        values["unsupported"] = np.zeros_like(unsupported)
        return Result(values, self.digest, f"{self.title}, at most")

    def summary(self) -> dict[str, Any]:
        """Return title and figures in plain numbers, as an artifact's evidence."""
        figures = {name: estimate.as_dict() for name, estimate in self.estimates.items()}
        # a single unit has no error, and a figure without one is none
        known = {name: figure for name, figure in figures.items() if figure["standard_error"] is not None}
        return {"title": self.title, "figures": known}

    def __repr__(self) -> str:
        shown = [name for name in self.estimates if name != "unsupported" or self.num_unsupported]
        figures = ", ".join(f"{name} {self.estimates[name]}" for name in shown)
        return f"Result of the {self.title}, {self.num_units:,} units:\n  {figures}"


def difference(a: Result, b: Result) -> dict[str, Estimate]:
    """Return the mean of a - b in each component, paired unit by unit.

    Where a has unsupported units, the difference of `correct` and of each cost is a lower bound; where b has, an upper one.

    Raises:
        ValueError: if the two do not stand on the same worlds, or both have unsupported units: the difference of two lower
            bounds bounds nothing, that of one of them and the other's `at_most` does.
    """
    if a.digest != b.digest:
        raise ValueError(
            f"results: expected the same worlds, got {a.title!r} ({a.digest}) and {b.title!r} ({b.digest})"
        )
    if a.num_unsupported and b.num_unsupported:
        raise ValueError(
            f"results: expected one at least without unsupported units, got {a.title!r} ({a.num_unsupported:,.4g} of them) "
            f"and {b.title!r} ({b.num_unsupported:,.4g}); bound one of them by at_most"
        )
    return {name: Estimate.of(a.values[name] - b.values[name]) for name in a.estimates if name in b.values}
