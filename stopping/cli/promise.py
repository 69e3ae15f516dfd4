"""`stopping promise`: what tuning promises of the shipped reasoner, and what is observed live."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stopping.cli.options import OutputOptions, Plot, Seed, plot_file

if TYPE_CHECKING:
    from rich.console import Console

    from sims import Estimate
    from stopping.cli.output import PromiseOutput


def promise(
    output: OutputOptions,
    problems: Annotated[
        int, typer.Option(metavar="N", min=100, help="To run live, not used for tuning; at most 3,000.")
    ] = 3000,
    max_accuracy_drop: Annotated[float, typer.Option(metavar="D", help="The loss of accuracy to rule out.")] = 0.02,
    confidence: Annotated[float, typer.Option(metavar="C", help="Of the certificate.")] = 0.95,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to save the policy.", show_default=False)
    ] = None,
    seed: Seed = 0,
    plot: Plot = None,
) -> None:
    """Tune a thinking rule on the shipped log, run it live in the shipped model, and compare the result with the promise.

    The rule is tuned on the log's problems with checkpoints. It then stops the model's thoughts on the other problems of the
    log, which are not used for anything else. The log has their traces without a rule, sampled with the same noise, so the two
    runs of each problem are paired.
    """
    console = output.console()
    plot_file(plot)
    from rich.progress import Progress

    import stopping
    from stopping.cli.tune import print_tuning, record_of, save_tuned
    from stopping.reasoner import load_shipped_log
    from stopping.traces import split
    from stopping.traces.splits import FRACTIONS
    from stopping.tuning import placebo
    from stopping.tuning.measurement import predict

    log = load_shipped_log()
    probed, fresh = log.take(log.probed), log.take(~log.probed)
    if problems > fresh.num_problems:
        raise ValueError(f"--problems: expected at most {fresh.num_problems:,}, got {problems:,}")
    problem, limits = stopping.Thinking(), {"confidence": confidence, "seed": seed}
    found = stopping.tune(problem, probed, max_loss=max_accuracy_drop, **limits)
    tuned = record_of("shipped log", probed, found, out)
    print_tuning(console, tuned)
    shuffled = stopping.tune(problem, placebo(probed, seed), max_loss=max_accuracy_drop, **limits)
    live = None
    if found.chosen is not None:
        worlds = problem.worlds(split(probed, FRACTIONS, seed=seed)[2])
        promised = predict(problem, found.reference, found.chosen.policy, worlds, problems)
        with Progress(disable=not output.progress(), transient=True) as bar:
            task = bar.add_task("running live", total=problems)
            live = _live(fresh.take(range(problems)), found.chosen.policy, lambda done: bar.advance(task, done))
        if out is not None:
            save_tuned(found, out, "shipped log", probed, seed)
    record = _record(tuned, shuffled, promised if live else None, live, problems)
    _print(console, record)
    if plot is not None and live is not None:
        from stopping.plots import tuning

        tuning(found, live=(live["saving_share"], live["accuracy_change"])).savefig(plot)
        console.print(f"Picture: {plot}", markup=False)
    output.write(record)


def _live(log: Any, policy: Any, report: Any) -> dict[str, "Estimate"]:
    """Return the accuracy change and the share of tokens saved, against the same traces without a rule."""
    import jax

    from stopping.reasoner import Plan, load_model, run_live
    from stopping.reasoner.recording import draw_distinct
    from stopping.tuning.measurement import observed

    plan = Plan()
    drawn = draw_distinct(plan)
    index_of = {problem.prompt: index for index, problem in enumerate(drawn)}
    chosen = [index_of[name] for name in log.problem_ids]
    run = run_live(
        jax.random.key(plan.seed), load_model("target"), [drawn[index] for index in chosen], policy,
        problem_index=chosen, every_tokens=plan.probe_every_tokens, cap_tokens=plan.cap_tokens,
        temperature=plan.temperature, report=report,
    )  # fmt: skip
    return observed(run.correct, run.total_tokens, log.correct[:, 0], log.length_tokens[:, 0])


def _record(tuned: Any, shuffled: Any, promised: Any, live: Any, num_live: int) -> "PromiseOutput":
    from stopping.cli.output import Figure, Kept, PromiseOutput

    kept = {}
    if live is not None:
        for name, told in promised.items():
            figure = live[name]
            kept[name] = Kept(
                promised=told.mean, low=told.low, high=told.high, observed=Figure.of(figure),
                held=told.low <= figure.mean <= told.high,
            )  # fmt: skip
    return PromiseOutput(tuned=tuned, num_live=num_live, kept=kept, advice_placebo=shuffled.advice)


def _print(console: "Console", record: "PromiseOutput") -> None:
    from sims.rounding import plus_minus
    from stopping.cli.tables import new_table

    console.print()
    if record.kept:
        table = new_table(
            f"{record.tuned.chosen}, live on {record.num_live:,} problems", "promised", "95 % interval", "observed", ""
        )
        titles = {"accuracy_change": "accuracy, change in points", "saving_share": "tokens saved, %"}
        for name, kept in record.kept.items():
            table.add_row(
                titles[name], f"{100 * kept.promised:+.1f}", f"{100 * kept.low:+.1f} to {100 * kept.high:+.1f}",
                plus_minus(kept.observed, 0.01, signed=True), "kept" if kept.held else "missed",
            )  # fmt: skip
        console.print(table)
        console.print(
            "± is one standard error; the interval covers the error of the test part and the noise of the live runs."
        )
    console.print(
        f"Placebo, the same log with its signals shuffled among traces: {record.advice_placebo}", markup=False
    )
