"""`stopping compare`: rules on one log, paired."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import (
    ImportOptions,
    NumOrders,
    OutputOptions,
    Plot,
    ProblemOptions,
    ProblemText,
    Seed,
    busy,
    plot_file,
)

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import CompareOutput
    from stopping.problems import Component

WIDE = 130  # columns; below, a rule's name may go over several lines


def compare(
    log: LogPath,
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    rule: Annotated[
        list[str],
        typer.Option(
            metavar="RULE",
            help="Margin(3), a policy's directory, or module:Class(args); repeat for more. Default: the library's.",
        ),
    ] = [],  # noqa: B006
    problem: ProblemText = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="What rules are compared with; default: the log's own reference rule.",
            show_default=False,
        ),
    ] = None,
    num_orders: NumOrders = 1,
    seed: Seed = 0,
    plot: Plot = None,
) -> None:
    """Compare rules on one log: accuracy and tokens with errors, paired with a reference rule and with fixed ones at equal cost.

    At equal cost a rule is compared with the best mixture of fixed rules: a coin, tossed for each problem, decides between two
    of them, so that the mixture costs as much on average.
    """
    console = output.console()
    plot_file(plot)
    from stopping.cli.rules import parse

    imports.load()
    named = [(parse(text), text) for text in ([reference] if reference else []) + rule]
    data = log_options.load(log)

    import stopping
    from sims.estimates import FEW
    from stopping.cli.output import ComparedRule, CompareOutput, LogSummary, ProblemSummary, accuracy_bounds, figures_of
    from stopping.solvers.families import default_rules, distinct

    played, data = problem_options.problem_of(problem, data, console)
    rules = [policy for policy, _ in named[bool(reference) :]] or default_rules(played, played.worlds(data))
    base = named[0][0] if reference else played.reference_rule(data)
    with busy(console, f"replaying {len(rules)} rules"):
        comparison = stopping.compare(played, distinct(rules), data, reference=base, num_orders=num_orders, seed=seed)
    names = [_given(row.policy, named) or str(row.policy) for row in comparison.rows]
    record = CompareOutput(
        log=LogSummary.of(log.name, data),
        problem=ProblemSummary.of(played),
        num_orders=num_orders,
        bootstrap=data.num_problems < FEW,
        reference=names[0],
        rules=[
            ComparedRule(
                rule=name,
                figures=figures_of(row.result.estimates),
                against_reference=figures_of(row.against_reference),
                at_equal=figures_of(row.at_equal),
                unsupported_share=row.result.num_unsupported / data.num_problems,
                accuracy_bounds=accuracy_bounds(played, row.result),
            )
            for name, row in zip(names, comparison.rows, strict=True)
        ],
    )
    print_comparison(console, record, played.components)
    if plot is not None:
        from stopping.plots import frontier

        frontier(comparison, names).savefig(plot)
        console.print(f"Picture: {plot}", markup=False)
    output.write(record)


def _given(policy: Any, named: list[tuple[Any, str]]) -> str | None:
    return next((text for known, text in named if known == policy), None)


def print_comparison(console: "Console", record: "CompareOutput", components: "Sequence[Component]") -> None:
    """Print the table of rules, the reference first, by the components of an outcome that are its worth and its costs."""
    from sims.rounding import plus_minus
    from stopping.cli.tables import NARROW, folded, new_table, note_few, worth_and_costs

    worth, *costs = worth_and_costs(components)
    narrow = console.width < NARROW  # then changes are below what has changed
    some_unsupported = any(rule.unsupported_share for rule in record.rules)
    in_thousands = any(rule.figures[cost.name].mean >= 10_000 for rule in record.rules for cost in costs[:1])
    k = ", k" if in_thousands else ""
    titles = [cost.label.partition(",")[0].removeprefix("total ") for cost in costs]
    columns = [worth.label, *(f"{title}{k}" for title in titles)]
    if narrow:
        columns = [f"{column}\nand change" for column in columns]
        columns[1:] = [f"{column},\npoints at equal" for column in columns[1:]]
    else:
        columns += ["change,\npoints", *(f"change,\n{'k' if k else title}" for title in titles[:1])]
        columns += [f"at equal\n{title}" for title in titles]
    table = new_table("rule", *columns, *(["unsupported"] if some_unsupported else []))
    units = {worth.name: worth.unit} | {cost.name: 1000.0 if in_thousands else cost.unit for cost in costs}
    for index, rule in enumerate(record.rules):
        least = "≥ " if rule.unsupported_share else ""
        own = [least + plus_minus(rule.figures[name], unit) for name, unit in units.items()]
        change = [least + plus_minus(rule.against_reference[name], unit, signed=True) for name, unit in units.items()]
        figures = [rule.at_equal.get(cost.name) for cost in costs]
        equal = ["" if figure is None else plus_minus(figure, worth.unit, signed=True) for figure in figures]
        if narrow:
            below = change if index else [""] * len(own)
            cells = ["\n".join(lines) for lines in zip(own, below, ["", *equal], strict=True)]
        else:
            cells = own + (change[:2] if index else ["reference"] * len(change[:2])) + equal
        share = [f"{rule.unsupported_share:.1%}" if rule.unsupported_share else ""] if some_unsupported else []
        name = folded(rule.rule, 32) if console.width < WIDE else rule.rule
        table.add_row(escape(name), *cells, *share, style=None if index else "bold")
    console.print(f"{record.log.name}: {record.log.num_problems:,} problems, {record.problem}", markup=False)
    console.print(table)
    thousands = "; k: thousands" if in_thousands else ""
    console.print(
        f"Changes are against {record.reference}, paired by problem; ± is one standard error{thousands}.", markup=False
    )
    if costs:
        console.print(
            f"At equal {' (or '.join(titles)}{')' * (len(titles) - 1)}: points above the best mixture of fixed rules with the "
            "same mean; a coin, tossed for each problem, decides between two of them. Empty: every fixed rule takes more."
        )
    if some_unsupported:
        console.print(
            "Unsupported: problems in which a rule asked for more than the log holds. They count without an answer, and with "
            "what the rule had cost until then: ≥.",
            style="yellow",
        )
    note_few(console, record.log.num_problems)
