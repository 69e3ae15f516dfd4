"""`stopping study`: a question put to the library by name, answered with a table and pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from stopping.cli.options import OutputOptions, busy

STUDIES = ("reasoner",)


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="reasoner: what the shipped model's traces are like.")],
    output: OutputOptions,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another log of `stopping reasoner record`.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the table (Markdown and JSON) and the pictures here.")
    ] = None,
) -> None:
    """Run a study: print its table, and write it with its pictures to a directory."""
    console = output.console()
    if name not in STUDIES:
        raise ValueError(f"NAME: expected one of {', '.join(STUDIES)}, got {name}")

    from sims.studies import reasoner
    from stopping.cli.output import Figure, StudyOutput
    from stopping.cli.tables import new_table
    from stopping.reasoner import load_log
    from stopping.traces import load

    with busy(console, "studying"):
        done = reasoner.run(load(log) if log else load_log())
    table = new_table("", "estimate")
    for what, estimate in done.rows.items():
        table.add_row(what, str(estimate))
    console.print(table)
    console.print("± is one standard error, by problem.")
    record = StudyOutput(study=name, rows={what: Figure.of(estimate) for what, estimate in done.rows.items()})
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        lines = [f"| {what} | {estimate} |" for what, estimate in done.rows.items()]
        (out / f"{name}.md").write_text("\n".join(["| | |", "| --- | --- |", *lines, ""]), encoding="utf-8")
        (out / f"{name}.json").write_text(json.dumps(record.model_dump(), indent=2) + "\n", encoding="utf-8")
        for part, figure in done.figures.items():
            figure.savefig(out / f"{name}_{part}.png")
        console.print(f"Table and pictures: {out}", markup=False)
    output.write(record)
