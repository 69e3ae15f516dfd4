"""Studies: questions put to the library by name, each answered with a table and pictures that can be made again."""

from typing import NamedTuple

from matplotlib.figure import Figure

from sims.estimates import Estimate


class Part(NamedTuple):
    """One question, a table `rows[name] = Estimate` and a picture."""

    question: str
    rows: dict[str, Estimate]
    figure: Figure


def exact(value: float) -> Estimate:
    """A figure without chance in it, of a formula or an integral; to three decimals, which single precision is good for."""
    return Estimate(round(float(value), 3) + 0.0, 0.0, 1)
