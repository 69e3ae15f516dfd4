"""`stopping replay`: one rule on a log."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import ImportOptions, NumOrders, OutputOptions, ProblemOptions, ProblemText, Seed

if TYPE_CHECKING:
    from rich.console import Console

    from sims import Result
    from stopping.cli.output import RunOutput
    from stopping.problems import Problem

RuleText = Annotated[
    str,
    typer.Option(
        "--rule",
        metavar="RULE",
        help="Margin(3), VoteTable.cannot_be_caught(8), a policy's directory, or module:Class(args).",
        show_default=False,
    ),
]


def replay(
    log: LogPath,
    rule: RuleText,
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    problem: ProblemText = None,
    num_orders: NumOrders = 1,
    seed: Seed = 0,
) -> None:
    """Follow one rule through a log: accuracy, tokens and latency, with errors by problem."""
    console = output.console()
    from stopping.cli.rules import parse

    imports.load()
    policy = parse(rule)
    data = log_options.load(log)

    import sims

    played, data = problem_options.problem_of(problem, data, console)
    result = sims.replay(played, policy, data, num_orders=num_orders, seed=seed)
    record = record_of("replay", log.name, rule, played, result)
    print_run(console, played, record, f"on {data.num_problems:,} problems of {log.name}")
    output.write(record)


def record_of(
    command: Literal["simulate", "replay"], source: str, rule: str, problem: "Problem", result: "Result"
) -> "RunOutput":
    """Return what one rule did in plain numbers."""
    from stopping.cli.output import ProblemSummary, RunOutput, accuracy_bounds, figures_of

    return RunOutput(
        command=command,
        source=source,
        rule=rule,
        problem=ProblemSummary.of(problem),
        figures=figures_of(result.estimates),
        num_units=result.utility.num_independent,
        num_unsupported=result.num_unsupported,
        accuracy_bounds=accuracy_bounds(problem, result),
        worlds=result.digest,
    )


def print_run(console: "Console", problem: "Problem", record: "RunOutput", where: str) -> None:
    """Print what one rule did in a problem."""
    from sims.rounding import plus_minus
    from stopping.cli.tables import new_table, note_few

    console.print(f"[bold]{escape(record.rule)}[/bold] {escape(where)}")
    table = new_table("", "mean ± error")
    for component in problem.components:
        least = "≥ " if record.num_unsupported and component.name != "utility" else ""
        table.add_row(component.label, least + plus_minus(record.figures[component.name], component.unit))
    console.print(table)
    if record.accuracy_bounds is not None:
        least, most = (plus_minus(bound, 0.01) for bound in record.accuracy_bounds)
        console.print(
            f"The rule asked for more than the log holds in {record.num_unsupported:,.4g} of {record.num_units:,} "
            f"problems. They count without an answer, and with what it had cost until then: accuracy is between {least} % "
            f"and {most} %.",
            style="yellow",
        )
    note_few(console, record.num_units)
