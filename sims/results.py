"""Results of simulations and replays: estimates, the values behind them, and a digest of the worlds."""

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

    A unit is `unsupported` where the policy asks for more than the log holds. Such a unit counts as having no answer, and with
    the cost incurred until then. So if there is any, `correct` and all costs are lower bounds; `at_most` gives upper bounds.

    Attributes:
        values: by component of the problem's outcome (`utility`, `correct`, `..._tokens`, ...), in the component's unit, one
            value for each independent unit: a replica, or a problem of a log averaged over its orders; float64 `[units]`. A
            simulation of more than 2^20 worlds keeps the values of the first 2^20. Components that are labels, such as the index
            of an answer, are included but have no mean.
        digest: of the worlds; two results can be subtracted if their digests agree.
        title: a description of the run.
        moments: of all units, including those whose values were not kept; None where all were kept.
        compile_seconds, run_seconds: time that a simulation took, compiling separately.
        platform: kind of device it ran on (cpu, gpu, ...); empty for a replay.
        names: of the components that have a mean; all of them if empty.
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
        """Number of units whose values are kept."""
        return len(next(iter(self.values.values())))

    @property
    def num_units(self) -> int:
        """Number of independent units."""
        return self.num_kept if self.moments is None else self.moments.count

    def ratio(self, numerator: str, denominator: str) -> Estimate:
        """Return the ratio of the means of two components, such as tokens per right answer."""
        names = (numerator, denominator)
        moments = self.moments or Moments.of(names, np.stack([self.values[name] for name in names]))
        return moments.ratio(*names)

    def quantile(self, name: str, prob: float) -> Estimate:
        """Return a quantile of a component over the kept units; see `Estimate.quantile`."""
        return Estimate.quantile(self.values[name], prob)

    def tail_mean(self, name: str, prob: float) -> Estimate:
        """Return the mean of the largest 1 - `prob` of a component's kept values (CVaR); see `Estimate.tail_mean`."""
        return Estimate.tail_mean(self.values[name], prob)

    def distribution(self, name: str, points: np.ndarray, confidence: float = 0.95) -> Band:
        """Return the empirical distribution function of the kept units, with a simultaneous band; see `Band.distribution`."""
        return Band.distribution(self.values[name], points, confidence)

    @property
    def num_unsupported(self) -> float:
        """Number of units in which the policy asked for more than the log holds (fractional if averaged over several orders)."""
        return self.estimates["unsupported"].mean * self.num_units

    def at_most(self, **more: float) -> "Result":
        """Return upper bounds for the named components, adding the given amount to every unsupported unit.

        Only kept units are used. An answer adds at most 1 to `correct` and to `utility`; n traces of a log with a cap add at most
        n times the cap to `total_tokens`.
        """
        unsupported = self.values["unsupported"]
        values = {name: self.values[name] + most * unsupported for name, most in more.items()}
        values["unsupported"] = np.zeros_like(unsupported)
        return Result(values, self.digest, f"{self.title}, at most")

    def summary(self) -> dict[str, Any]:
        """Return the title and the estimates as plain numbers, as evidence for an artifact."""
        figures = {name: estimate.as_dict() for name, estimate in self.estimates.items()}
        # with a single unit the error is unknown, and such figures are left out
        known = {name: figure for name, figure in figures.items() if figure["standard_error"] is not None}
        return {"title": self.title, "figures": known}

    def __repr__(self) -> str:
        shown = [name for name in self.estimates if name != "unsupported" or self.num_unsupported]
        figures = ", ".join(f"{name} {self.estimates[name]}" for name in shown)
        return f"Result of the {self.title}, {self.num_units:,} units:\n  {figures}"


def difference(a: Result, b: Result) -> dict[str, Estimate]:
    """Return the mean of a - b for each component, paired unit by unit.

    If a has unsupported units, the difference in `correct` and in each cost is a lower bound; if b has, an upper bound.

    Raises:
        ValueError: if the two are on different worlds, or both have unsupported units: the difference of two lower bounds is
            not a bound. Replace one of them by its `at_most`.
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
