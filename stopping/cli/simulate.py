"""`stopping simulate`: one rule under a model."""

from pathlib import Path
from typing import Annotated

import typer

from stopping.cli.exits import NotAchievedError
from stopping.cli.log_options import LogOptions
from stopping.cli.options import ImportOptions, OutputOptions, ProblemOptions, Seed, busy
from stopping.cli.replay import RuleText, print_run, record_of


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
    """Follow one rule through problems drawn from a model: fitted on LOG now, or read with --model."""
    console = output.console()
    if (log is None) == (model is None):
        raise ValueError("expected either LOG or --model FILE")
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
    from stopping.cli.fit import require_converged
    from stopping.cli.output import read_fit
    from stopping.cli.rules import parse

    imports.load()
    policy = parse(rule)
    data = None if log is None else log_options.load(log)
    saved = None if model is None else read_fit(model)

    import jax

    import sims
    import stopping
    from stopping.cli.model_file import to_model

    if data is not None:
        with busy(console, "fitting"):
            fit = stopping.fit(stopping.models.LengthCorrectness(), data)
        fitted, num_samples, converged = fit.model, data.num_samples, bool(fit.converged)
    else:
        assert saved is not None
        fitted, num_samples, converged = to_model(saved.model), saved.log.num_samples, saved.converged
    require_converged(converged)
    problem = problem_options.problem(fitted, num_samples)
    try:
        result = sims.simulate(
            jax.random.key(seed), problem, policy,
            num_replicas=num_replicas if given else 2**16, standard_error=standard_error, relative_error=relative_error,
            max_seconds=max_seconds, component=component, checkpoint=checkpoint, progress=output.progress(),
        )  # fmt: skip
    except sims.PrecisionNotReached as error:
        raise NotAchievedError(str(error)) from error
    source = (log or model).name  # type: ignore[union-attr]
    record = record_of("simulate", source, rule, problem, result)
    print_run(console, problem, record, f"on {record.num_units:,} problems drawn from the model of {source}")
    took = f"{result.run_seconds:.1f} s, and {result.compile_seconds:.1f} s to compile"
    console.print(f"Computed on the {result.platform.upper()} in {took}.", markup=False)
    output.write(record)
