"""Studies: questions put to the library by name, each answered with a table and pictures that can be made again."""

from typing import NamedTuple

from matplotlib.figure import Figure

from sims.estimates import Estimate


class Part(NamedTuple):
    """One question, a table `rows[name] = Estimate` and a picture."""

    question: str
    rows: dict[str, Estimate]
    figure: Figure
