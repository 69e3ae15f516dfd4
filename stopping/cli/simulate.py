"""`stopping simulate`: one rule in drawn worlds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stopping.cli.exits import NotAchievedError
from stopping.cli.log_options import LogOptions
from stopping.cli.options import ImportOptions, OutputOptions, ProblemOptions, Seed, busy
from stopping.cli.replay import RuleText, print_run, record_of

if TYPE_CHECKING:
    from rich.console import Console


def simulate(
    rule: RuleText,
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    log: Annotated[
        Path | None, typer.Argument(metavar="[LOG]", help="A log to fit a model on first.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A fitted model instead: what stopping fit --json wrote.")
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="PROBLEM",
            help="A problem that draws its own worlds, module:Class(args), instead of a log or a model.",
        ),
    ] = None,
    num_replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many problems to draw; 65,536 if no error is asked for.", show_default=False
        ),
    ] = None,
    standard_error: Annotated[
        float | None, typer.Option(metavar="E", help="Draw until the component's standard error is below E.")
    ] = None,
    relative_error: Annotated[
        float | None, typer.Option(metavar="R", help="Draw until the standard error is below R times the mean.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(metavar="S", help="Draw for S seconds.")] = None,
    component: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose error counts: utility, correct, total_tokens, latency_tokens, ..."),
    ] = "utility",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the state here; a run that was killed goes on from it.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Follow one rule through worlds drawn from a model, fitted on LOG now or read with --model, or by your own --problem."""
    console = output.console()
    if sum(source is not None for source in (log, model, problem)) != 1:
        raise ValueError("expected either LOG or --model FILE, or a --problem that draws its own worlds")
    asked = {
        "--num-replicas": num_replicas, "--standard-error": standard_error, "--relative-error": relative_error,
        "--max-seconds": max_seconds,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"expected one of {', '.join(asked)}, got {' and '.join(given)}")
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    from stopping.cli.rules import parse

    imports.load()
    policy = parse(rule)
    if problem is not None:
        from stopping.cli.problems import problem_named

        played, source, drawn_by = problem_named(problem, problem_options.given), problem, problem
    else:
        played = _fitted(console, log, model, log_options, problem_options)
        source = (log or model).name  # type: ignore[union-attr]
        drawn_by = f"the model of {source}"

    import jax

    import sims

    try:
        result = sims.simulate(
            jax.random.key(seed), played, policy,
            num_replicas=num_replicas if given else 2**16, standard_error=standard_error, relative_error=relative_error,
            max_seconds=max_seconds, component=component, checkpoint=checkpoint, progress=output.progress(),
        )  # fmt: skip
    except sims.PrecisionNotReached as error:
        raise NotAchievedError(str(error)) from error
    record = record_of("simulate", source, rule, played, result)
    print_run(console, played, record, f"on {record.num_units:,} problems drawn by {drawn_by}")
    took = f"{result.run_seconds:.1f} s, and {result.compile_seconds:.1f} s to compile"
    console.print(f"Computed on the {result.platform.upper()} in {took}.", markup=False)
    output.write(record)


def _fitted(
    console: "Console", log: Path | None, model: Path | None, log_options: LogOptions, problem_options: ProblemOptions
) -> Any:
    """Return the sampling problem whose worlds are drawn by the model of a log, or of a model file."""
    from stopping.cli.fit import require_converged
    from stopping.cli.output import read_fit

    if model is not None:
        saved = read_fit(model)
        require_converged(saved.converged)
        from stopping.cli.model_file import to_model

        return problem_options.sampling(to_model(saved.model), saved.log.num_samples)
    assert log is not None
    data = log_options.load(log)

    import stopping

    with busy(console, "fitting"):
        fit = stopping.fit(stopping.models.LengthCorrectness(), data)
    require_converged(bool(fit.converged))
    return problem_options.sampling(fit.model, data.num_samples)
