"""`stopping tune`: find, certify and save a rule on a log, or advise not to bother."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions, LogPath
from stopping.cli.options import (
    ImportOptions,
    OutputOptions,
    Plot,
    ProblemOptions,
    ProblemText,
    Seed,
    busy,
    plot_file,
)

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import TuneOutput
    from stopping.traces import TraceLog
    from stopping.tuning import Tuning


@dataclass(frozen=True)
class TuningOptions:
    """What is tuned, against which limit, and which rules are tried besides the library's."""

    max_accuracy_drop: Annotated[float, typer.Option(metavar="D", help="The loss of accuracy to rule out.")] = 0.02
    confidence: Annotated[float, typer.Option(metavar="C", help="Of the certificate.")] = 0.95
    problem: ProblemText = None
    rule: Annotated[
        list[str], typer.Option(metavar="RULE", help="Your own rule, tested with the library's: module:Class(args).")
    ] = field(default_factory=list)
    num_orders: Annotated[
        int, typer.Option(metavar="N", min=1, help="Random orders of a problem's samples to average over.")
    ] = 16
    seed: Seed = 0

    def run(
        self, console: "Console", path: Path, log_options: LogOptions, problem_options: ProblemOptions
    ) -> "tuple[TraceLog, Tuning]":
        """Return the log that was tuned on, and what was found.

        Raises:
            ValueError: for a rule or a log that cannot be read, an option that the problem does not have, and as
                `stopping.tune`.
        """
        from stopping.cli.rules import parse

        rules = [parse(text) for text in self.rule]
        data = log_options.load(path)

        import stopping
        from stopping.tuning.planning import plan

        problem, data = problem_options.problem_of(self.problem, data, console)
        limits = {"max_loss": self.max_accuracy_drop, "confidence": self.confidence}
        floor = plan(self.max_accuracy_drop, self.confidence).floor
        console.print(
            f"{path.name}: {data.num_problems:,} problems. To rule out a drop of {self.max_accuracy_drop:g} at "
            f"{self.confidence:.0%} by data takes a log of at least {floor:,}; fewer will do only for a rule that "
            "also corrects answers, and none are needed for one that loses nothing by proof.",
            markup=False,
        )
        with busy(console, "tuning"):
            found = stopping.tune(problem, data, **limits, rules=rules, num_orders=self.num_orders, seed=self.seed)
        return data, found


def tune(
    log: LogPath,
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    tuning_options: TuningOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to save the policy.", show_default=False)
    ] = None,
    plot: Plot = None,
) -> None:
    """Find the rule that saves most while its loss is certified, and save it with its certificate and its promise.

    The exit code is 1 if --out is given and no rule is worth saving.
    """
    console = output.console()
    plot_file(plot)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: expected nothing or an empty directory at {out}")
    from stopping.cli.exits import NotAchievedError

    imports.load()
    data, found = tuning_options.run(console, log, log_options, problem_options)
    record = record_of(log.name, data, found, out)
    print_tuning(console, record)
    if plot is not None:
        from stopping.plots import tuning

        tuning(found).savefig(plot)
        console.print(f"Picture: {plot}", markup=False)
    if out is not None and found.chosen is not None:
        save_tuned(found, out, log.name, data, tuning_options.seed)
        console.print(f"Saved in {out}", markup=False, soft_wrap=True)
    output.write(record)
    if out is not None and found.chosen is None:
        raise NotAchievedError(f"nothing was saved in {out}: there is no rule worth it")


def save_tuned(found: "Tuning", directory: Path, source: str, log: "TraceLog", seed: int) -> None:
    """Save the rule chosen, with its certificate, what is promised of it, and what the test part's traffic was like.

    Args:
        found: by tuning on the log with this seed.
        directory: where.
        source: the log's name.
        log: as it was tuned on.
        seed: of its split.

    Raises:
        ArtifactError: as `stopping.save_policy`.
    """
    import stopping
    from stopping.cli.rules import reference_of
    from stopping.traces.splits import FRACTIONS
    from stopping.tuning import Certification, traffic

    chosen = found.chosen
    assert chosen is not None
    figures, decision = chosen.measured, found.problem.decision
    stopping.save_policy(
        chosen.policy,
        directory,
        problem=found.problem,
        decision_points={"on": decision.asked, "interval_tokens": found.problem.interval_tokens(log)},
        reference_rule=reference_of(found.reference),
        calibrated_on={"num_problems": sum(found.num_problems), "description": source},
        traffic=traffic(found.problem, chosen.policy, found.reference, stopping.split(log, FRACTIONS, seed=seed)[2]),
        promised={
            "accuracy_change": {
                "mean": figures.accuracy_change.mean,
                "interval": list(figures.accuracy_interval),
                "confidence": 0.95,
                "num_independent": figures.accuracy_change.num_independent,
            },
            "net_saving_tokens": figures.saving_tokens.as_dict(),
            "net_saving_share": figures.saving_share.as_dict(),
        },
        certificate=chosen.certificate.summary(),
        evidence=[Certification((chosen.certificate,))],
    )


def record_of(name: str, log: "TraceLog", found: "Tuning", out: Path | None) -> "TuneOutput":
    """Return what was found in plain numbers."""
    from stopping.cli.output import Figure, LogSummary, MeasuredRule, TunedRule, TuneOutput

    def measured(figures: Any) -> MeasuredRule:
        values = {name: Figure.of(value) if hasattr(value, "mean") else value for name, value in vars(figures).items()}
        return MeasuredRule.model_validate(values)

    return TuneOutput(
        log=LogSummary.of(name, log),
        decision=found.problem.decision.name,
        split=found.num_problems,
        num_tried=found.num_tried,
        num_orders=found.num_orders,
        reference=str(found.reference),
        reference_measured=measured(found.reference_measured),
        rules=[
            TunedRule.model_validate(
                {
                    "rule": str(rule.policy),
                    "family": rule.family,
                    "grade": rule.certificate.grade.name.lower(),
                    "statement": rule.certificate.statement,
                    "loss_bound": rule.certificate.loss_bound,
                    "p_value": rule.certificate.p_value,
                    "measured": measured(rule.measured),
                }
            )
            for rule in found.tested
        ],
        chosen=None if found.chosen is None else str(found.chosen.policy),
        policy=None if out is None or found.chosen is None else str(out),
        advice=found.advice,
    )


def print_tuning(console: "Console", record: "TuneOutput") -> None:
    """Print the table of rules, the reference first, and the advice."""
    from sims.rounding import in_points, plus_minus
    from stopping.cli.tables import NARROW, folded, new_table, note_few
    from stopping.tuning.tuning import REACHABLE, WHAT_CAN_BE

    wide = console.width >= NARROW + 20  # else accuracy and tokens, of which the changes are shown, are left to --json
    own = ["accuracy, %", "tokens"] if wide else []
    reachable = any(rule.measured.reachable_share is not None for rule in record.rules)
    bounds = ["of reach-\nable, %"] if reachable else []
    bounds += ["of what\ncan be, %"] if wide or not reachable else []
    columns = [*own, "change,\npoints", "saved, %", "latency,\n50 / 95 %", *bounds, "certi-\nfied by"]
    table = new_table("rule", *columns)
    name_width = 36 if wide else 22

    def row(name: str, one: Any, change: str, saved: str, shares: list[str], grade: str, style: str | None) -> None:
        both = [plus_minus(one.accuracy, 0.01), plus_minus(one.total_tokens)] if wide else []
        latency = f"{one.latency_median_tokens:,.0f} / {one.latency_95th_tokens:,.0f}"
        table.add_row(escape(folded(name, name_width)), *both, change, saved, latency, *shares, grade, style=style)

    row(record.reference, record.reference_measured, "reference", "", [""] * len(bounds), "", None)
    for rule in record.rules:
        one = rule.measured
        change = "0" if rule.grade == "proof" else in_points(one.accuracy_change.mean, one.accuracy_interval)
        saved = plus_minus(one.saving_share, 0.01, signed=True)
        style = "bold" if rule.rule == record.chosen else None
        shares = [f"{100 * share:.0f}" for share in (one.reachable_share, one.clairvoyant_share) if share is not None]
        row(rule.rule, one, change, saved, shares[: len(bounds)], rule.grade, style)
    fit_part, certify_part, test_part = record.split
    console.print(
        f"{record.num_tried:,} rules were tried on {fit_part:,} problems; the best {len(record.rules)} were tested in this order "
        f"on {certify_part:,}, and measured on {test_part:,}:",
        markup=False,
    )
    console.print(table)
    console.print(
        f"Changes and savings are against {record.reference}, paired by problem"
        + (f" and averaged over {record.num_orders} orders of its samples" if record.num_orders > 1 else "")
        + "; ± is one standard error, in brackets are 95 % intervals. Tokens count probes and all that is cancelled."
        + (f" {REACHABLE}" if reachable else "")
        + (f" {WHAT_CAN_BE}" if wide or not reachable else ""),
        markup=False,
    )
    note_few(console, test_part)
    console.print()
    console.print(record.advice, style="bold", markup=False)
