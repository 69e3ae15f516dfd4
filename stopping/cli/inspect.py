"""`stopping inspect`: the content of a log, a policy's directory or a model file, and what it is good for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions
from stopping.cli.options import ImportOptions, OutputOptions

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import InspectOutput
    from stopping.traces import Report


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A log, a policy's directory, or what fit --json wrote.", show_default=False
        ),
    ],
    log_options: LogOptions,
    output: OutputOptions,
    imports: ImportOptions,
) -> None:
    """Say what a log is enough for, what a saved policy does and promises, or what a model says. Needs no JAX."""
    console = output.console()
    if not path.exists():
        raise FileNotFoundError(f"no such file or directory: {path}")
    if path.is_dir():
        record = _policy(console, path, imports)
    elif path.suffix.lower() == ".json":
        record = _model(console, path)
    else:
        record = _log(console, path, log_options)
    output.write(record)


def _log(console: "Console", path: Path, log_options: LogOptions) -> "InspectOutput":
    from stopping.cli.output import InspectOutput
    from stopping.traces import check

    report = check(log_options.load(path))
    print_report(console, report)
    return InspectOutput(kind="log", name=path.name, content=report.as_dict())


def print_report(console: "Console", report: "Report") -> None:
    """Print what `stopping.check` says of a log."""
    from rich.table import Table

    counts = str(report).splitlines()[: -len(report.uses) - len(report.notes)]
    for line in counts:
        console.print(line, markup=False)
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, use in report.uses.items():
        table.add_row("[green]yes[/green]" if use.possible else "[yellow]no[/yellow]", name, escape(use.sentence))
    console.print(table)
    for note in report.notes:
        console.print(f"Note: {note}", markup=False)


def _policy(console: "Console", path: Path, imports: ImportOptions) -> "InspectOutput":
    from rich.markdown import Markdown

    from stopping.artifacts import load_policy
    from stopping.artifacts.card import card
    from stopping.cli.output import InspectOutput

    imports.load()
    artifact = load_policy(path)
    console.print(Markdown(card(artifact.document, artifact.policy)))
    backends = "NumPy and plain Python" if artifact.document.plain_python else "NumPy"
    console.print()
    console.print(
        f"Valid: the checksums match, and every golden line gives the decisions it must on {backends}.", style="green"
    )
    content = {"digest": artifact.digest, "document": artifact.document.model_dump(mode="json", exclude_none=True)}
    return InspectOutput(kind="policy", name=path.name, content=content)


def _model(console: "Console", path: Path) -> "InspectOutput":
    from stopping.cli.fit import print_fit
    from stopping.cli.output import InspectOutput, read_fit

    saved = read_fit(path)
    print_fit(console, saved)
    return InspectOutput(kind="model", name=path.name, content=saved.model_dump(mode="json"))
