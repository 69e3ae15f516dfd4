"""Options that several commands share, each group of them in one class."""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from stopping.traces import TraceLog

Seed = Annotated[int, typer.Option(help="Of all that is random.", min=0, max=2**32 - 1)]
NumOrders = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Average over so many random orders of a problem's samples; 1: as logged."),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw accuracy against tokens: .png, .pdf or .svg.")]

Decision = Literal["sampling", "thinking"]
DecisionOption = Annotated[
    Decision | None,
    typer.Option(
        "--decision",
        help="When to stop sampling traces, or when to stop the thought of one; by default thinking where the log has "
        "checkpoints and its reference is no vote.",
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
        """Whether to show bars, which the library draws on stdout: on a terminal only."""
        return self.json != Path("-") and Console().is_terminal

    def write(self, output: Any) -> None:
        """Write an output record, if asked to."""
        if self.json is not None:
            text = output.model_dump_json(indent=2) + "\n"
            typer.echo(text, nl=False) if self.json == Path("-") else self.json.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class ImportOptions:
    """Modules of the user's, in which policies are defined."""

    rule_import: Annotated[
        list[str],
        typer.Option(
            "--import", metavar="MODULE", help="Import your module first: a saved policy may be of a class in it."
        ),
    ] = field(default_factory=list)

    def load(self) -> None:
        """Import them.

        Raises:
            ValueError: naming one that cannot be imported.
        """
        from stopping.cli.rules import import_module

        for module in self.rule_import:
            import_module(module, "--import")


_problem = functools.partial(typer.Option, rich_help_panel="Problem")


@dataclass(frozen=True)
class ProblemOptions:
    """What is decided, and what it costs."""

    num_traces: Annotated[
        int | None,
        _problem(metavar="N", min=1, help="The most traces a problem may get; by default the log's samples."),
    ] = None
    wave_size: Annotated[int | None, _problem(metavar="N", min=1, help="How many run at once; by default all.")] = None
    price_per_token: Annotated[float | None, _problem(help="In units of one right answer.")] = None
    price_per_second: Annotated[float, _problem(help="Of latency, in units of one right answer.")] = 0.0
    seconds_per_token: Annotated[float, _problem(help="Of one trace's decoding.")] = 0.02
    lag_tokens: Annotated[int, _problem(metavar="N", min=0, help="Generated between a stop and its effect.")] = 0
    decision_interval_tokens: Annotated[
        int | None,
        _problem(metavar="N", min=1, help="Ask the rule every so many tokens too, not only when traces end."),
    ] = None

    def decided(self, decision: Decision | None, log: "TraceLog", console: Console) -> "tuple[Any, TraceLog]":
        """Return the problem a log is about, and the part of the log that it can be played on: what is left out is said.

        Raises:
            ValueError: for an option that only a sampling problem has, or a log without checkpoints.
        """
        thinking = decision == "thinking" if decision else log.probed.any() and log.reference.kind != "majority"
        if not thinking:
            return self.problem(None, log.num_samples), log
        if not log.probed.any():
            raise ValueError("LOG: expected checkpoints for --decision thinking, got none; see stopping inspect LOG")
        if left_out := int((~log.probed).sum()):
            console.print(f"{left_out:,} problems have no checkpoints, and are left out.", style="yellow")
        return self._thinking(), log.take(log.probed) if left_out else log

    def _thinking(self) -> Any:
        import stopping

        for name in ("num_traces", "wave_size", "decision_interval_tokens"):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')}: means nothing for one chain of thought")
        return stopping.Thinking(
            price_per_token=self.price_per_token or 0.0,
            price_per_second=self.price_per_second,
            seconds_per_token=self.seconds_per_token,
            lag_tokens=self.lag_tokens,
        )

    def problem(self, model: Any, num_samples: int, *, price_per_token: float = 0.0) -> Any:
        """Return the sampling problem; the arguments after the model stand in for what was not given."""
        import stopping

        return stopping.Sampling(
            self.num_traces or num_samples,
            model=model,
            wave_size=self.wave_size,
            price_per_token=price_per_token if self.price_per_token is None else self.price_per_token,
            price_per_second=self.price_per_second,
            seconds_per_token=self.seconds_per_token,
            lag_tokens=self.lag_tokens,
            decision_interval_tokens=self.decision_interval_tokens,
        )


def busy(console: Console, what: str) -> AbstractContextManager[Any]:
    """Say that something is going on, on a terminal only."""
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
