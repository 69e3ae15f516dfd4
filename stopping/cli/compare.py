"""`stopping compare`: rules on one log, paired."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import (
    DecisionOption,
    ImportOptions,
    NumOrders,
    OutputOptions,
    Plot,
    ProblemOptions,
    Seed,
    busy,
    plot_file,
)

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import CompareOutput

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
    decision: DecisionOption = None,
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

    At equal cost stands the best mixture of fixed rules, a coin tossed for each problem, that takes the same tokens in mean.
    """
    console = output.console()
    plot_file(plot)
    from stopping.cli.rules import default_rules, distinct, name_of, parse

    imports.load()
    named = [(parse(text), text) for text in ([reference] if reference else []) + rule]
    data = log_options.load(log)

    import stopping
    from sims.estimates import FEW
    from stopping.cli.output import ComparedRule, CompareOutput, LogSummary, Problem, accuracy_bounds, figures_of

    problem, data = problem_options.decided(decision, data, console)
    rules = [policy for policy, _ in named[bool(reference) :]] or default_rules(data, problem)
    base = named[0][0] if reference else problem.reference_rule(data)
    with busy(console, f"replaying {len(rules)} rules"):
        comparison = stopping.compare(problem, distinct(rules), data, reference=base, num_orders=num_orders, seed=seed)
    equal = [figures_of(row.at_equal) for row in comparison.rows]
    names = [_given(row.policy, named) or name_of(row.policy) for row in comparison.rows]
    record = CompareOutput(
        log=LogSummary.of(log.name, data),
        problem=Problem.of(problem),
        num_orders=num_orders,
        bootstrap=data.num_problems < FEW,
        reference=names[0],
        rules=[
            ComparedRule(
                rule=name,
                figures=figures_of(row.result.estimates),
                against_reference=figures_of(row.against_reference),
                at_equal_tokens=at_equal.get("total_tokens"),
                at_equal_latency=at_equal.get("latency_tokens"),
                unsupported_share=row.result.num_unsupported / data.num_problems,
                accuracy_bounds=accuracy_bounds(row.result),
            )
            for name, row, at_equal in zip(names, comparison.rows, equal, strict=True)
        ],
    )
    print_comparison(console, record)
    if plot is not None:
        from stopping.plots import frontier

        frontier(comparison, names).savefig(plot)
        console.print(f"Picture: {plot}", markup=False)
    output.write(record)


def _given(policy: Any, named: list[tuple[Any, str]]) -> str | None:
    return next((text for known, text in named if known == policy), None)


def print_comparison(console: "Console", record: "CompareOutput") -> None:
    """Print the table of rules, the reference first."""
    from sims.rounding import plus_minus
    from stopping.cli.tables import NARROW, folded, new_table, note_few

    narrow = console.width < NARROW  # then changes stand below what has changed
    some_unsupported = any(rule.unsupported_share for rule in record.rules)
    unit = 1000.0 if any(rule.figures["total_tokens"].mean >= 10_000 for rule in record.rules) else 1.0
    k = ", k" if unit > 1 else ""
    columns = ["accuracy, %", f"tokens{k}", f"latency{k}"]
    if narrow:
        columns = [f"{column}\nand change" for column in columns]
        columns[1:] = [f"{column},\npoints at equal" for column in columns[1:]]
    else:
        columns += ["change,\npoints", f"change,\n{'k' if k else 'tokens'}", "at equal\ntokens", "at equal\nlatency"]
    table = new_table("rule", *columns, *(["unsupported"] if some_unsupported else []))
    units = {"correct": 0.01, "total_tokens": unit, "latency_tokens": unit}
    for index, rule in enumerate(record.rules):
        least = "≥ " if rule.unsupported_share else ""
        own = [least + plus_minus(rule.figures[name], unit) for name, unit in units.items()]
        change = [least + plus_minus(rule.against_reference[name], unit, signed=True) for name, unit in units.items()]
        equal = [
            "" if figure is None else plus_minus(figure, 0.01, signed=True)
            for figure in (rule.at_equal_tokens, rule.at_equal_latency)
        ]
        if narrow:
            below = change if index else [""] * 3
            cells = ["\n".join(lines) for lines in zip(own, below, ["", *equal], strict=True)]
        else:
            cells = own + (change[:2] if index else ["reference", "reference"]) + equal
        share = [f"{rule.unsupported_share:.1%}" if rule.unsupported_share else ""] if some_unsupported else []
        name = folded(rule.rule, 32) if console.width < WIDE else rule.rule
        table.add_row(escape(name), *cells, *share, style=None if index else "bold")
    log = record.log
    each = f"up to {record.problem.num_traces} traces each" if record.problem.num_traces else "each trace by itself"
    console.print(f"{log.name}: {log.num_problems:,} problems, {each}", markup=False)
    console.print(table)
    console.print(f"Changes are against {record.reference}, paired by problem; ± is one standard error.", markup=False)
    thousands = "; k: thousands" if unit > 1 else ""
    what = "those of all traces of a problem" if record.problem.num_traces else "those of a trace and its probes"
    console.print(f"Tokens are {what}; latency, those until its answer{thousands}.")
    console.print(
        "At equal tokens (latency): points of accuracy more than the best mixture of fixed rules that takes as many in mean, a "
        "coin tossed for each problem. Empty: no fixed rule takes so few."
    )
    if some_unsupported:
        console.print(
            "Unsupported: problems in which a rule asked for more than the log holds. They count without an answer, and with "
            "what the rule had cost until then: ≥.",
            style="yellow",
        )
    note_few(console, log.num_problems)
