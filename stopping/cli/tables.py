"""Tables in a terminal."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from stopping.problems import Component

NARROW = 100  # columns; below, a rule's name goes over several lines


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


def note_few(console: Console, num_problems: int) -> None:
    """Print how standard errors were computed, where there are few problems."""
    from sims.estimates import FEW

    if num_problems < FEW:
        console.print(f"Fewer than {FEW} problems: standard errors are by bootstrap over problems.")


def worth_and_costs(components: "Sequence[Component]") -> "list[Component]":
    """Return the component that a run is for (utility where none is), and its costs."""
    worth = [component for component in components if component.role == "worth"]
    worth += [component for component in components if component.name == "utility"]
    return [worth[0], *(component for component in components if component.role == "cost")]
