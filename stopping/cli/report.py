"""`stopping report`: what tuning finds on a log, as one HTML page."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import ImportOptions, OutputOptions, ProblemOptions
from stopping.cli.tune import TuningOptions, record_of


def report(
    context: typer.Context,
    log: LogPath,
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    tuning_options: TuningOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the page: .html.", show_default=False)],
) -> None:
    """Tune as `stopping tune` does, and write a page about it: the advice, the rules, the certificate, what the log is like.

    The page is one file that fetches nothing and can be printed.
    """
    console = output.console()
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: expected a name ending in .html, got {out.name!r}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: no such directory: {out.absolute().parent}")
    imports.load()
    data, found = tuning_options.run(console, log, log_options, problem_options)

    from stopping.cli.output import ReportOutput
    from stopping.report import page

    text = page(found, data, name=log.name, command=command_line(context))
    out.write_text(text, encoding="utf-8", errors="replace")  # a file's name need not be text
    console.print(found.advice, style="bold", markup=False)
    console.print(f"Page: {out}", markup=False, soft_wrap=True)
    output.write(ReportOutput(tuned=record_of(log.name, data, found, None), page=str(out)))


def command_line(context: typer.Context) -> str:
    """Return the command that is being run, as it can be typed again: what was given, quoted for the shell."""
    words = ["stopping", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[str(parameter.name)]
        option = [parameter.opts[0]] if parameter.param_type_name == "option" else []
        for one in value if isinstance(value, (list, tuple)) else [value]:
            words += option if isinstance(one, bool) else [*option, str(one)]
    return shlex.join(words)
