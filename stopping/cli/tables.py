"""How figures look in a terminal."""

import math
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from stopping.cli.output import Figure, Figures

NARROW = 100  # columns; below, a rule's name goes over several lines
FIGURES = {
    "correct": "accuracy, %",
    "utility": "utility",
    "total_tokens": "total tokens",
    "latency_tokens": "latency, tokens",
    "latency_seconds": "latency, seconds",
    "num_launched": "traces launched",
}


def plus_minus(figure: Figure, unit: float = 1.0, *, signed: bool = False) -> str:
    """Return `mean ± standard error` in this unit, to one digit of the error, or two where it begins with 1 to 3.5.

    (The Particle Data Group's rule for rounding.)
    """
    mean, error = figure.mean / unit, figure.standard_error
    plus = "+" if signed else ""
    if error is None:
        return f"{mean:{plus},.3g} ± ?"
    error /= unit
    if error == 0:
        return f"{mean:{plus},.6g}" if mean else "0"
    exponent = math.floor(math.log10(error))
    leading = error / 10**exponent
    digits = max(0, -exponent + (leading < 3.55 or leading >= 9.5))
    return f"{mean:{plus},.{digits}f} ± {error:,.{digits}f}"


def unit_of(name: str) -> float:
    """Return what a component is divided by to be shown: shares are shown in per cent."""
    return 0.01 if name == "correct" else 1.0


def folded(name: str, width: int) -> str:
    """Break a rule's name after its dots and colons and before its arguments, where it is longer than `width`."""
    lines = [""]
    for part in re.split(r"(?<=[.:])(?=[A-Za-z_])|(?=\()", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def new_table(*columns: str, left: int = 1) -> Table:
    """Return an empty table, the first `left` columns flush left and the others right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        is_left = index < left
        table.add_column(column, justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold")
    return table


def print_figures(console: Console, columns: Sequence[str], *figures: Figures) -> None:
    """Print the components of outcomes, one column each."""
    table = new_table("", *columns)
    for name, title in FIGURES.items():
        table.add_row(title, *(plus_minus(each[name], unit_of(name)) if name in each else "" for each in figures))
    console.print(table)
