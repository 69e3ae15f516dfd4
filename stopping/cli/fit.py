"""`stopping fit`: fit the model to a log; its parameters in words, with standard errors."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stopping.cli.exits import NotAchievedError
from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import OutputOptions, busy

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import Agreement, FitOutput
    from stopping.traces import TraceLog

GOOD, POOR = (
    0.05,
    0.1,
)  # Kolmogorov-Smirnov distances: below the first a good fit, above the second a poor one


def fit(
    log: LogPath,
    log_options: LogOptions,
    output: OutputOptions,
    pooled: Annotated[
        bool,
        typer.Option("--pooled", help="Fit all traces as one problem, for comparison; it overstates first finish."),
    ] = False,
    float64: Annotated[bool, typer.Option("--float64", help="Fit in double precision.")] = False,
) -> None:
    """Fit the length-correctness model to a log. The file that --json writes can be given to simulate --model."""
    console = output.console()
    data = log_options.load(log)

    import stopping

    with busy(console, "fitting"):
        fitted = stopping.fit(stopping.models.LengthCorrectness(), data, pooled=pooled, float64=float64)
    record = record_of(fitted, data, log.name, pooled)
    print_fit(console, record)
    output.write(record)
    require_converged(record.converged)


def require_converged(converged: bool) -> None:
    """Refuse to go on with parameters that are not a maximum."""
    if not converged:
        raise NotAchievedError("the fit did not converge: do not rely on it; try --float64, or a log of more problems")


def record_of(fitted: Any, log: "TraceLog", name: str, pooled: bool) -> "FitOutput":
    """Return a fit in plain numbers."""
    from stopping.cli.model_file import to_parameters
    from stopping.cli.output import Agreement, FitOutput, LogSummary

    seen, answers = fitted.diagnostics, fitted.model.answers
    if not math.isfinite(float(answers.discount) + float(answers.concentration) + float(fitted.model.shift)):
        raise NotAchievedError(
            f"{name}: the fit failed, a parameter is not finite; try --float64, or a log of more problems"
        )
    return FitOutput(
        log=LogSummary.of(name, log),
        pooled=pooled,
        num_judged=fitted.num_traces,
        num_unjudged=fitted.num_unjudged,
        converged=fitted.converged,
        num_steps=fitted.num_steps,
        standard_errors={key: _finite(value) for key, value in fitted.standard_errors.items()},
        lengths_right=Agreement(
            distance=_finite(seen.ks_right), p_value=_finite(seen.p_value_right), num_traces=len(seen.pit_right)
        ),
        lengths_wrong=Agreement(
            distance=_finite(seen.ks_wrong), p_value=_finite(seen.p_value_wrong), num_traces=len(seen.pit_wrong)
        ),
        population=to_parameters(fitted.population),
        model=to_parameters(fitted.model),
    )


def print_fit(console: "Console", record: "FitOutput") -> None:
    """Print a fit."""
    from stopping.cli.tables import new_table

    log = record.log
    console.print(
        f"[bold]Model of {escape(log.name)}[/bold]: {log.num_problems:,} problems, {record.num_judged:,} judged traces"
    )
    table = new_table("", "", "")
    table.show_header = False
    table.columns[1].no_wrap = True
    table.columns[2].justify, table.columns[2].no_wrap = "left", False
    for row in _rows(record):
        table.add_row(*row)
    console.print(table)
    for kind, agreement in (("right", record.lengths_right), ("wrong", record.lengths_wrong)):
        console.print(f"Lengths of {kind} traces: {_verdict(agreement)}")
    state = (
        f"Converged in {record.num_steps} steps." if record.converged else f"Not converged in {record.num_steps} steps."
    )
    console.print(state, style=None if record.converged else "red")
    aside = [f"{record.num_unjudged:,} traces of unknown correctness"] if record.num_unjudged else []
    aside += [f"{count:,} rows ({reason})" for reason, count in log.set_aside.items()]
    console.print(f"Set aside: {', '.join(aside) or 'nothing'}.", markup=False)
    if record.population.cap_tokens is None and record.population.loop_prob > 0:
        console.print("No cap is known, so wrong traces may never end; give the cap with --cap-tokens.", style="yellow")
    if record.pooled:
        console.print(
            "Pooled: the fit mistakes differences in difficulty for a within-problem length signal.", style="yellow"
        )


def _rows(record: "FitOutput") -> list[tuple[str, str, str]]:
    model, errors = record.population, record.standard_errors
    alpha, beta = model.alpha[0], model.beta[0]
    chance = alpha / (alpha + beta)
    spread = math.sqrt(chance * (1 - chance) / (alpha + beta + 1))
    longer = math.expm1(model.shift)
    ratio = "longer" if longer >= 0 else "shorter"
    loop = model.loop_prob
    agree, agree_error = _agreement(
        model.answers.discount, model.answers.concentration, errors["log_concentration_answers"]
    )
    kinds = -model.answers.concentration / model.answers.discount if model.answers.discount < 0 else math.inf
    return [
        (
            "chance of a right answer",
            f"{_pm(chance, _times(errors['logit_mean_chance'], chance * (1 - chance)), 100)} %",
            f"± {spread:.0%} from problem to problem",
        ),
        (
            "length of a right trace",
            f"{math.exp(model.effect[0]):,.0f} tokens",
            f"x or ÷ {math.exp(model.effect_scale[0]):.2f} from problem to problem",
        ),
        (
            f"wrong traces are {ratio} by",
            f"{_pm(abs(longer), _times(errors['shift'], 1 + longer), 100)} %",
            "of the same problem (shift)",
        ),
        (
            "spread of right lengths",
            _pm(model.scale_right, errors["scale_right"]),
            f"x or ÷ {math.exp(model.scale_right):.2f} within a problem",
        ),
        (
            "spread of wrong lengths",
            _pm(model.scale_wrong, errors["scale_wrong"]),
            f"x or ÷ {math.exp(model.scale_wrong):.2f} within a problem",
        ),
        (
            "wrong traces that never end",
            f"{_pm(loop, _times(errors['logit_loop_prob'], loop * (1 - loop)), 100)} %",
            "cap " + ("none" if model.cap_tokens is None else f"{model.cap_tokens:,.0f} tokens"),
        ),
        ("ended without an answer", f"{model.no_answer_prob:.1%}", "of the wrong traces that end"),
        (
            "two wrong answers agree",
            f"{_pm(agree, agree_error, 100)} %",
            "any number of kinds" if math.isinf(kinds) else f"among {kinds:.0f} kinds of wrong answer",
        ),
    ]


def _agreement(discount: float, concentration: float, log_error: float | None) -> tuple[float, float | None]:
    """P(two wrong answers of a problem agree) and its error, that of log(concentration + discount) carried over."""
    agree = (1 - discount) / (1 + concentration)
    if discount < 0:  # finitely many kinds M, each of weight w = -discount: (1 + w) / (1 + M w)
        kinds = concentration / -discount
        slope = -discount * (1 - kinds) / (1 + concentration) ** 2
    else:
        slope = -agree * (concentration + discount) / (1 + concentration)
    return agree, _times(log_error, abs(slope))


def _verdict(agreement: "Agreement") -> str:
    distance = agreement.distance
    if distance is None:
        return "none."
    word = (
        "as the model says"
        if distance < GOOD
        else "roughly as the model says"
        if distance < POOR
        else "not as the model says"
    )
    p_value = "" if agreement.p_value is None else f", p {agreement.p_value:.2g}"
    return f"{word} (Kolmogorov-Smirnov {distance:.3f}{p_value}; {agreement.num_traces:,} traces)."


def _pm(value: float, error: float | None, unit: float = 1.0) -> str:
    from sims.rounding import plus_minus
    from stopping.cli.output import Figure

    return plus_minus(Figure(mean=value, standard_error=error, num_independent=0), 1 / unit)


def _times(error: float | None, factor: float) -> float | None:
    return None if error is None else error * abs(factor)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
