"""`stopping plan`: how many problems a certificate takes, the cost of recording them, and when it does not pay."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stopping.cli.log_options import LogOptions
from stopping.cli.options import ImportOptions, OutputOptions, ProblemOptions, ProblemText

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import Losses, PlanOutput
    from stopping.traces import TraceLog

_recording = functools.partial(typer.Option, rich_help_panel="Recording", show_default=False)
_losses = functools.partial(typer.Option, rich_help_panel="Losses", show_default=False)


@dataclass(frozen=True)
class RecordingOptions:
    """What recording takes."""

    samples: Annotated[int | None, _recording(metavar="N", min=1, help="Of each problem; default the log's, or 1.")] = (
        None
    )
    mean_tokens: Annotated[float | None, _recording(metavar="N", help="Of a sample; default the log's.")] = None
    probe_tokens: Annotated[float, _recording(metavar="N", help="Of all probes of a sample; default 0.")] = 0.0
    price_per_million: Annotated[float, _recording(metavar="PRICE", help="Of tokens, in your money; default 0.")] = 0.0
    requests_per_day: Annotated[float | None, _recording(metavar="N", help="That the rule will serve.")] = None
    payback_days: Annotated[float, _recording(metavar="N", help="Until savings must have paid; default 30.")] = 30.0


@dataclass(frozen=True)
class LossOptions:
    """What a rule is expected to lose."""

    rule: Annotated[str | None, _losses(metavar="RULE", help="Take its losses from the log, or:")] = None
    discordance: Annotated[float | None, _losses(metavar="SHARE", help="Problems whose outcome it changes.")] = None
    mean_loss: Annotated[
        float, _losses(metavar="SHARE", help="Those it makes wrong minus those it corrects; default 0.")
    ] = 0.0

    def losses(
        self,
        log: "TraceLog | None",
        problem_text: str | None,
        problem_options: ProblemOptions,
        imports: ImportOptions,
        console: "Console",
    ) -> "Losses | None":
        """Return what was given, or found on the log.

        Raises:
            ValueError: for a rule without a log, or with a discordance beside it, and as `sims.compare`.
        """
        from stopping.cli.output import Losses

        if self.rule is None:
            if self.discordance is None:
                return None
            return Losses(rule=None, reference=None, discordance=self.discordance, mean_loss=self.mean_loss)
        if log is None or self.discordance is not None:
            raise ValueError("--rule: expected a LOG to take its losses from, and no --discordance")

        from stopping.cli.rules import parse
        from stopping.tuning.certification import losses_on

        imports.load()
        problem, log = problem_options.problem_of(problem_text, log, console)
        reference = problem.reference_rule(log)
        losses = losses_on(problem, [parse(self.rule)], log, reference)
        changed, lost = float(abs(losses).mean()), float(losses.mean())
        return Losses(rule=self.rule, reference=str(reference), discordance=changed, mean_loss=lost)


def plan(
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    imports: ImportOptions,
    loss_options: LossOptions,
    recording: RecordingOptions,
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LOG]", help="A log to read samples and tokens from, and a rule's losses.", show_default=False
        ),
    ] = None,
    max_accuracy_drop: Annotated[float, typer.Option(metavar="D", help="The loss that is to be ruled out.")] = 0.02,
    confidence: Annotated[float, typer.Option(metavar="C", help="Of the certificate.")] = 0.95,
    problem: ProblemText = None,
) -> None:
    """Say how many problems a certificate takes, what recording them costs, and the saving below which it does not pay."""
    console = output.console()
    from stopping.cli.output import LogSummary, PlanOutput, Recording

    data = None if log is None else log_options.load(log)
    losses = loss_options.losses(data, problem, problem_options, imports, console)

    from stopping.tuning import planning

    num_samples, mean_tokens = recording.samples, recording.mean_tokens
    if data is not None:
        num_samples = num_samples or data.num_samples
        mean_tokens = float(data.length_tokens[data.present].mean()) if mean_tokens is None else mean_tokens
    num_samples, mean_tokens = num_samples or 1, mean_tokens or 0.0
    found = planning.plan(
        max_accuracy_drop,
        confidence,
        discordance=None if losses is None else losses.discordance,
        mean_loss=0.0 if losses is None else losses.mean_loss,
        num_samples=num_samples,
        mean_tokens=mean_tokens,
        probe_tokens=recording.probe_tokens,
        price_per_token=recording.price_per_million / 1e6,
        requests_per_day=recording.requests_per_day,
        payback_days=recording.payback_days,
    )
    record = PlanOutput(
        log=None if data is None or log is None else LogSummary.of(log.name, data),
        max_accuracy_drop=max_accuracy_drop,
        confidence=confidence,
        floor=found.floor,
        losses=losses,
        power=planning.POWER,
        num_problems=found.num_problems,
        possible=losses is None or found.num_problems is not None,
        recording=Recording(
            num_samples=num_samples,
            mean_tokens=mean_tokens,
            probe_tokens=recording.probe_tokens,
            tokens_a_problem=found.tokens_a_problem,
            tokens=found.tokens,
            cost=found.cost,
            least_saving_tokens=found.least_saving_tokens,
        ),
    )
    _print(console, record, recording)
    output.write(record)


def _print(console: "Console", record: "PlanOutput", options: RecordingOptions) -> None:
    from stopping.tuning.planning import MOST_PROBLEMS, problems_of_log

    def say(words: str) -> None:
        console.print(words, markup=False)

    from stopping.traces.splits import FRACTIONS

    limit, confidence = f"{100 * record.max_accuracy_drop:.3g} %", f"{100 * record.confidence:.4g} %"
    say(f"To rule out a loss of {limit} with confidence {confidence}:")
    say(f"  a log of at least {record.floor:,} problems, if the rule changes nothing on those that certify;")
    if record.losses is not None:
        losses = record.losses
        whose = f"{losses.rule} against {losses.reference}" if losses.rule else "a rule"
        what = f"{whose} that changes {losses.discordance:.2%} of outcomes and loses {losses.mean_loss:.2%}"
        chance = f"in {record.power:.0%} of cases"
        if record.possible:
            say(f"  a log of {record.num_problems:,} for {what}, to pass {chance}.")
        elif losses.mean_loss >= record.max_accuracy_drop:
            say(f"  no number for {what}: that is not below the limit.")
        else:
            say(f"  more than {problems_of_log(MOST_PROBLEMS):,} for {what}, to pass {chance}.")
    say(
        f"  (tune certifies on {FRACTIONS[1]:.0%} of a log's problems, chooses on {FRACTIONS[0]:.0%}, measures on the rest.)"
    )
    recording = record.recording
    if recording.tokens:
        say(
            f"Recording {record.num_problems or record.floor:,} problems, {recording.tokens_a_problem:,.0f} tokens each: "
            f"{recording.tokens:,.0f} tokens" + (f", {recording.cost:,.2f} in money." if recording.cost else ".")
        )
        if recording.least_saving_tokens is not None:
            say(
                f"It does not pay within {options.payback_days:g} days if a request saves less than "
                f"{recording.least_saving_tokens:,.1f} tokens."
            )
