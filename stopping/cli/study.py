"""`stopping study`: answer a question about the library by a table and pictures."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stopping.cli.options import OutputOptions, busy

if TYPE_CHECKING:
    from sims.studies import Part
    from stopping.cli.output import LogSummary

STUDIES = {
    "reasoner": "what the shipped model's traces are like",
    "certification": "how often are certificates wrong",
    "model": "is the model better than a grid of rules",
    "deployments": "is what tuning predicts observed live (an hour)",
    "first_finish": "when does returning the first answer help, and when does it hurt",
    "latency": "in parallel, in sequence or in waves, by the price of latency",
    "lag": "what does a lag between a stop and its effect cost",
    "precision": "do intervals of a simulation that stops at an error cover the truth",
    "scaling": "what does a simulation cost, and what would break first",
    "drift": "what is lost before a change of the traffic is noticed",
    "misspecified": "what does a rule lose if its model has the wrong distribution of lengths",
    "engines": "are the promises of tuning kept on llama.cpp and in transformers",
}
OF_A_LOG = ("reasoner", "certification", "model", "lag", "drift", "engines")  # the others draw their problems


def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="; ".join(f"{name}: {question}" for name, question in STUDIES.items()) + ".",
        ),
    ],
    output: OutputOptions,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A log, for reasoner one of `stopping reasoner record`; default the shipped one.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write README.md with the tables, and the pictures, here.")
    ] = None,
) -> None:
    """Run a study: print its tables, and write them with their pictures to a directory."""
    console = output.console()
    if name not in STUDIES:
        raise ValueError(f"NAME: expected one of {', '.join(STUDIES)}, got {name}")
    if log is not None and name not in OF_A_LOG:
        raise ValueError(f"--log: {name} draws its problems, got {log}")

    from stopping.cli.output import Figure, LogSummary, StudyOutput
    from stopping.cli.tables import new_table
    from stopping.reasoner import load_shipped_log
    from stopping.traces import load_log

    with busy(console, "studying"):
        about = importlib.import_module(f"sims.studies.{name}")
        if name not in OF_A_LOG:
            summary, parts = None, about.run()
        else:
            data = load_log(log) if log else load_shipped_log()
            summary, parts = LogSummary.of(log.name if log else "shipped log", data), about.run(data)
    for part in parts.values():
        table = new_table(part.question, "estimate")
        for what, estimate in part.rows.items():
            table.add_row(what, str(estimate))
        console.print(table)
        console.print()
    console.print("± is one standard error, of independent problems or runs.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "README.md").write_text(_page(name, str(about.__doc__), summary, parts), encoding="utf-8")
        for title, part in parts.items():
            part.figure.savefig(out / f"{title}.png")
        console.print(f"Tables and pictures: {out}", markup=False)
    rows = {what: Figure.of(estimate) for part in parts.values() for what, estimate in part.rows.items()}
    output.write(StudyOutput(study=name, log=summary, rows=rows))


def _page(name: str, about: str, log: "LogSummary | None", parts: "dict[str, Part]") -> str:
    """All tables in Markdown, with the pictures beside the file."""
    source = (
        "problems that it draws"
        if log is None
        else f"the {log.name}: {log.num_problems:,} problems, {log.num_traces:,} traces"
    )
    sections = [
        f"# {about.strip()}",
        f"Written by `stopping study {name} --out DIR` from {source}; sizes and seeds are at the head of "
        f"`sims/studies/{name}.py`. ± is one standard error.",
    ]
    for title, part in parts.items():
        rows = [f"| {what} | {estimate} | {estimate.num_independent:,} |" for what, estimate in part.rows.items()]
        table = "\n".join(["| | estimate | problems or runs |", "| --- | --- | --- |", *rows])
        heading = title.replace("_", " ").capitalize()
        sections += [f"## {heading}", part.question, f"![{heading}]({title}.png)", table]
    return "\n\n".join(sections) + "\n"
