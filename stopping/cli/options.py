"""Options that several commands share, each group of them in one class."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from stopping.traces import TraceLog

Seed = Annotated[int, typer.Option(help="Of all random numbers.", min=0, max=2**32 - 1)]
NumOrders = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Average over so many random orders of a problem's samples; 1: as logged."),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw accuracy against tokens: .png, .pdf or .svg.")]

ProblemText = Annotated[
    str | None,
    typer.Option(
        "--problem",
        metavar="PROBLEM",
        help="What is decided: Sampling (when to stop sampling traces), Thinking (when to stop the thought of one), or your "
        "module:Class(args). By default Thinking where the log has checkpoints and its reference is no vote.",
        show_default=False,
    ),
]


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Give typer the fields of a command's option classes as options of the command."""
    taken: dict[str, Any] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(parameter.annotation):
            parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        options: Any = parameter.annotation
        taken[name] = options
        hints = get_type_hints(options, include_extras=True)
        for own in fields(options):
            default = own.default if own.default_factory is MISSING else own.default_factory()
            parameters[own.name] = inspect.Parameter(
                own.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[own.name]
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        groups = {
            name: options(**{own.name: values.pop(own.name) for own in fields(options)})
            for name, options in taken.items()
        }
        command(**values, **groups)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run


def _print_schema(context: typer.Context, asked: bool) -> None:
    if asked:
        import json

        from stopping.cli.output import OUTPUTS

        typer.echo(json.dumps(OUTPUTS[str(context.info_name)].model_json_schema(), indent=2))
        raise typer.Exit


_output = functools.partial(typer.Option, rich_help_panel="Output")


@dataclass(frozen=True)
class OutputOptions:
    """Where results go besides the terminal."""

    json: Annotated[
        Path | None,
        _output(
            "--json", metavar="FILE", help="Write the result as JSON too; - for stdout (tables then go to stderr)."
        ),
    ] = None
    json_schema: Annotated[
        bool,
        _output(
            "--json-schema",
            callback=_print_schema,
            is_eager=True,
            help="Print the JSON Schema of what --json writes, and exit.",
        ),
    ] = False

    def console(self) -> Console:
        """Return where to print for people.

        Raises:
            ValueError: if the file for the JSON cannot be there.
        """
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise ValueError(f"--json: no such directory: {self.json.absolute().parent}")
        return Console(stderr=self.json == Path("-"), highlight=False)

    def progress(self) -> bool:
        """Return whether to show bars, which the library draws on stdout: on a terminal only."""
        return self.json != Path("-") and Console().is_terminal

    def write(self, output: Any) -> None:
        """Write an output record, if asked to."""
        if self.json is not None:
            text = output.model_dump_json(indent=2) + "\n"
            typer.echo(text, nl=False) if self.json == Path("-") else self.json.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class ImportOptions:
    """The user's modules, in which policies are defined."""

    rule_import: Annotated[
        list[str],
        typer.Option(
            "--import", metavar="MODULE", help="Import your module first: a saved policy may be of a class in it."
        ),
    ] = field(default_factory=list)

    def load(self) -> None:
        """Import the modules.

        Raises:
            ValueError: naming one that cannot be imported.
        """
        from stopping.cli.named import import_module

        for module in self.rule_import:
            import_module(module, "--import")


_problem = functools.partial(typer.Option, rich_help_panel="Problem")


@dataclass(frozen=True)
class ProblemOptions:
    """Arguments of the problem. One that is not given is as the problem's class has it."""

    num_traces: Annotated[
        int | None,
        _problem(metavar="N", min=1, help="The most traces a problem may get; by default the log's samples."),
    ] = None
    wave_size: Annotated[int | None, _problem(metavar="N", min=1, help="How many run at once; by default all.")] = None
    price_per_token: Annotated[float | None, _problem(help="In units of one right answer; by default 0.")] = None
    price_per_second: Annotated[
        float | None, _problem(help="Of latency, in units of one right answer; by default 0.")
    ] = None
    seconds_per_token: Annotated[float | None, _problem(help="Of one trace's decoding; by default 0.02.")] = None
    lag_tokens: Annotated[
        int | None, _problem(metavar="N", min=0, help="Generated between a stop and its effect; by default 0.")
    ] = None
    decision_interval_tokens: Annotated[
        int | None,
        _problem(metavar="N", min=1, help="Ask the rule every so many tokens too, not only when traces end."),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def problem_of(self, text: str | None, log: "TraceLog", console: Console) -> "tuple[Any, TraceLog]":
        """Return the problem named, or by default the one that a log is about, and the part of the log to play it on.

        Problems of the log that are left out are counted on the console.

        Raises:
            ValueError: for a text that names no problem, an option that the problem does not have, or a log without checkpoints
                for a problem that needs them.
        """
        from stopping.cli.problems import default_problem, playable, problem_named

        problem = problem_named(text or default_problem(log), self.given, num_samples=log.num_samples)
        part = playable(problem, log)
        if left_out := log.num_problems - part.num_problems:
            console.print(f"{left_out:,} problems have no checkpoints, and are left out.", style="yellow")
        return problem, part

    def sampling(self, model: Any, num_samples: int, **defaults: Any) -> Any:
        """Return a sampling problem whose worlds a model draws."""
        import stopping

        return stopping.Sampling(**{"num_traces": num_samples, "model": model} | defaults | self.given)


def busy(console: Console, what: str) -> AbstractContextManager[Any]:
    """Return a status line to show while something runs, on a terminal only."""
    return console.status(what) if console.is_terminal else nullcontext()


def progress_bar(console: Console) -> Progress:
    """Return a bar for things that are counted, on a terminal only."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)


def plot_file(path: Path | None) -> None:
    """Refuse a picture that could not be written, before any work.

    Raises:
        ValueError: naming the endings there are, or the directory that is not there.
    """
    if path is not None and path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot: expected a name ending in .png, .pdf or .svg, got {path.name!r}")
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"--plot: no such directory: {path.absolute().parent}")
