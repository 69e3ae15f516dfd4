"""`stopping record`: record traces of a running model, with answers forced on the way, as a log that every command reads."""

import asyncio
import dataclasses
import functools
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stopping.cli.convert import CHECKS, function_named
from stopping.cli.exits import NotAchievedError
from stopping.cli.options import OutputOptions, Seed, busy, progress_bar
from stopping.cli.upstream import MarkupOptions, ServerOptions, talking

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.adapters.server.capabilities import Capabilities
    from stopping.adapters.server.client import Upstream
    from stopping.adapters.server.journal import Journal
    from stopping.adapters.server.markup import Markup
    from stopping.adapters.server.prompts import Prompt
    from stopping.adapters.server.recorded_log import Judging
    from stopping.adapters.server.recording import Cost, Failure, RecordedTrace, Recording

_traces = functools.partial(typer.Option, rich_help_panel="Traces")
_answers = functools.partial(typer.Option, rich_help_panel="Answers")
_run = functools.partial(typer.Option, rich_help_panel="Run")


@dataclass(frozen=True)
class TraceOptions:
    """Which traces."""

    samples: Annotated[int, _traces(metavar="N", min=1, help="Traces a problem.")] = 1
    max_tokens: Annotated[int, _traces(metavar="N", min=1, help="The cap on a trace.")] = 32768
    probe_every: Annotated[
        int | None, _traces(metavar="N", min=1, help="Force an answer after every so many tokens; by default never.")
    ] = None
    temperature: Annotated[float, _traces(min=0.0, help="Of the sampling.")] = 1.0
    setting: Annotated[
        list[str],
        _traces(metavar="NAME=VALUE", help="Of the sampling, sent as it is (top_p=0.95); may be given again."),
    ] = field(default_factory=list)
    token_signals: Annotated[bool, _traces("--token-signals", help="Keep token ids and signals of every token.")] = (
        False
    )
    seed: Seed = 0

    def plan(self, num_top: int) -> "Recording":
        """Return what is asked of the server.

        Raises:
            ValueError: for a setting not of the form NAME=VALUE, or one that has a separate option.
        """
        from stopping.adapters.server.recording import Recording

        settings: dict[str, Any] = {"temperature": self.temperature}
        for text in self.setting:
            name, equals, value = text.partition("=")
            if not name or not equals or name in _TAKEN:
                raise ValueError(f"--setting: expected NAME=VALUE, not of {', '.join(_TAKEN)}, got {text!r}")
            try:
                settings[name] = json.loads(value)
            except ValueError:
                settings[name] = value
        return Recording(
            self.samples, self.max_tokens, self.probe_every, num_top, settings, self.token_signals, self.seed
        )


_TAKEN = ("temperature", "seed", "max_tokens", "n", "logprobs", "top_logprobs", "stream", "prompt", "messages", "model")


@dataclass(frozen=True)
class AnswerOptions:
    """What an answer is, and which are right. A recording that is resumed may change them."""

    extract_answer: Annotated[
        str | None,
        _answers(
            metavar="REGEX",
            help="Finds the answer in what follows the thought: the last match, of it the first group. Or MODULE:FUNCTION.",
        ),
    ] = None
    check: Annotated[
        str,
        _answers(
            metavar="CHECK",
            help="Which are right: exact, numeric, choice, MODULE:FUNCTION of answer and target, or none.",
        ),
    ] = "none"
    answers: Annotated[
        str | None,
        _answers(
            metavar="EQUALITY",
            help="Which are equal: exact, numeric, or MODULE:FUNCTION from answer to key; by default as they are checked.",
        ),
    ] = None

    def judging(self, prefix: str) -> "Judging":
        """Return how answers are judged.

        Raises:
            ValueError: naming the option that means nothing.
        """
        from stopping.adapters.server.recorded_log import Judging
        from stopping.traces import checker, extractor

        extract: Any = self.extract_answer and function_named(self.extract_answer, "--extract-answer")
        checks = checker(self.check if self.check in CHECKS else function_named(self.check, "--check"))
        equal: Any = self.answers and function_named(self.answers, "--answers")
        if isinstance(equal, str) and equal not in ("exact", "numeric"):
            raise ValueError(f"--answers: expected exact, numeric or MODULE:FUNCTION, got {equal!r}")
        return Judging(
            (lambda text: text.strip()) if not extract else extractor(extract, "--extract-answer"),
            equal or ("exact" if checks is None else checks.answers),
            checks,
            prefix if extract else "",
        )


def record(
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS",
            help="JSON lines with prompt or messages, and problem, target and labels where there are any.",
            show_default=False,
        ),
    ],
    traces: TraceOptions,
    answer_options: AnswerOptions,
    markup_options: MarkupOptions,
    server: ServerOptions,
    output: OutputOptions,
    upstream: Annotated[str, typer.Option(metavar="URL", help="An OpenAI-compatible server.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the log goes: .parquet.", show_default=False)],
    concurrency: Annotated[int, _run(metavar="N", min=1, help="Traces under way at once.")] = 4,
    yes: Annotated[bool, _run("--yes", help="Do not ask before tokens are paid for.")] = False,
    dry_run: Annotated[bool, _run("--dry-run", help="Stop after the cost is shown.")] = False,
) -> None:
    """Record traces of a running model as a log. If it was interrupted, the same command resumes. Needs no JAX."""
    console = output.console()
    partial = out.with_name(out.name + ".partial.jsonl")
    _check_out(out, partial)
    plan, judging = traces.plan(server.top_log_probs), answer_options.judging(markup_options.answer_prefix)
    if plan.probe_every_tokens is not None and not markup_options.close_tag:
        raise ValueError(
            "--close-tag: expected the tag that ends a thought, to force answers with --probe-every, got none"
        )
    client = server.upstream(upstream)
    from stopping.adapters.server.prompts import read_prompts

    asked = read_prompts(prompts, judging.checker)
    run = _Run(console, client, asked, plan, markup_options, out, partial, judging, output)
    with talking():
        asyncio.run(run.all(prompts, concurrency, yes=yes, dry_run=dry_run))
    if run.failures:
        shown = "; ".join(f"{count} times: {reason}" for reason, count in run.set_aside().items())
        raise NotAchievedError(
            f"{len(run.failures)} traces could not be had ({shown}), the first of problem {run.failures[0].problem!r}: "
            f"{run.failures[0].message}. Start again to try those alone; {partial.name} has the others"
        )


def _check_out(out: Path, partial: Path) -> None:
    if out.suffix.lower() != ".parquet":
        raise ValueError(f"--out: expected a name ending in .parquet, got {out.name!r}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: no such directory: {out.absolute().parent}")
    if out.exists() and not partial.exists():
        raise ValueError(f"--out: {out.name} is there already, and complete; what was paid for is not written over")


@dataclass
class _Run:
    """One recording, from the examination of the server to the log."""

    console: "Console"
    upstream: "Upstream"
    prompts: "list[Prompt]"
    plan: "Recording"
    markup_options: MarkupOptions
    out: Path
    partial: Path
    judging: "Judging"
    output: OutputOptions
    failures: "list[Failure]" = field(default_factory=list)

    def set_aside(self) -> dict[str, int]:
        from stopping.adapters.server.recording import reasons

        return reasons(self.failures)

    async def all(self, source: Path, concurrency: int, *, yes: bool, dry_run: bool) -> None:
        from stopping.adapters.server.examination import examine
        from stopping.adapters.server.journal import Journal
        from stopping.adapters.server.recording import RecordedTrace, check_possible, signals_recorded

        async with self.upstream:
            close = self.markup_options.close_tag
            with busy(self.console, "asking the server"):
                found = await examine(self.upstream, num_top=self.plan.num_top, close=close, measure=False)
                check_possible(self.plan, found)
                markup = await self.markup_options.markup(self.upstream, found)
            signals = signals_recorded(self.plan, found, markup)
            self._say_signals(signals, markup, found)
            if dry_run and not self.partial.exists():
                self._say_cost([], markup)
                return
            with Journal(self.partial, self._options(source, found)) as journal:
                if journal.num_torn:
                    self.console.print(f"{self.partial.name}: a line that was not written to its end is dropped.")
                done = [RecordedTrace(**line) for line in journal.lines]
                left = self._say_cost(done, markup)
                if dry_run:
                    return
                if left:
                    _confirm(yes)
                    await self._record(journal, found, markup, concurrency, left)
                self._save(journal, signals)

    async def _record(
        self, journal: "Journal", found: "Capabilities", markup: "Markup | None", concurrency: int, left: int
    ) -> None:
        from stopping.adapters.server.recording import RecordedTrace, record

        tokens = 0
        with progress_bar(self.console) as bar:
            task = bar.add_task("recording", total=left)

            def report(ended: "RecordedTrace | Failure") -> None:
                nonlocal tokens
                if isinstance(ended, RecordedTrace):
                    tokens += ended.length_tokens + ended.probe_tokens
                bar.update(task, advance=1, description=f"recording, {tokens:,} tokens")

            self.failures = await record(
                self.upstream, self.prompts, self.plan, journal,
                capabilities=found, markup=markup, close=self.markup_options.close_tag,
                concurrency=concurrency, report=report,
            )  # fmt: skip

    def _save(self, journal: "Journal", signals: tuple[str, ...]) -> None:
        from stopping.adapters.server.recorded_log import save_recorded
        from stopping.adapters.server.recording import RecordedTrace, cost_of
        from stopping.cli.inspect import print_report
        from stopping.cli.output import LogSummary, RecordOutput
        from stopping.traces import check

        traces = [RecordedTrace(**line) for line in journal.lines]
        if not traces:
            return  # nothing to write: the failures are the message
        log = save_recorded(
            traces, self.prompts, self.out,
            judging=self.judging, signals=signals, protocol=self._protocol(),
            cap_tokens=self.plan.max_tokens, set_aside=self.set_aside(),
        )  # fmt: skip
        if not self.failures:
            journal.remove()
        report, cost = check(log), cost_of(traces)
        print_report(self.console, report)
        self._say_missing(log)
        self._say_late(traces)
        self.console.print(f"{self.out}: {log}", markup=False)
        self.output.write(
            RecordOutput(log=LogSummary.of(self.out.name, log), report=report.as_dict(), cost=cost._asdict())
        )

    def _protocol(self) -> str:
        options = self.markup_options
        prefix = f" and {options.answer_prefix!r}" if options.answer_prefix else ""
        return (
            f"{options.close_tag}{prefix} appended, the answer decoded greedily to its end, {options.answer_tokens} tokens at "
            "most; the probe costs what is appended and the answer"
        )

    def _options(self, source: Path, found: "Capabilities") -> dict[str, Any]:
        """Return what recorded traces depend on, by option."""
        content = json.dumps([dataclasses.asdict(prompt) for prompt in self.prompts], sort_keys=True)
        plan, options = self.plan, self.markup_options
        return {
            "PROMPTS": hashlib.sha256(content.encode()).hexdigest()[:16],
            "--model": found.model,
            "--samples": plan.num_samples,
            "--max-tokens": plan.max_tokens,
            "--probe-every": plan.probe_every_tokens,
            "--top-log-probs": plan.num_top,
            "--temperature": plan.settings["temperature"],
            "--setting": {name: value for name, value in plan.settings.items() if name != "temperature"},
            "--token-signals": plan.token_signals,
            "--seed": plan.seed,
            "--close-tag": options.close_tag,
            "--answer-prefix": options.answer_prefix,
            "--answer-tokens": options.answer_tokens,
            "--candidate": options.candidate,
        }

    def _say_signals(self, signals: tuple[str, ...], markup: "Markup | None", found: "Capabilities") -> None:
        """Say which signals of checkpoints are left out, and what would give them; and which may be a bound."""
        if self.plan.probe_every_tokens is None:
            return
        from stopping.adapters.server.recording import PROBE_SIGNALS, SIGNALS
        from stopping.adapters.server.signals import says_bound, what_gives

        if left_out := {*SIGNALS, *PROBE_SIGNALS} - set(signals):
            self.console.print(f"Left out of checkpoints: {what_gives(left_out)}.", style="yellow", markup=False)
        if bound := says_bound(signals, found):
            self.console.print(bound, markup=False)

    def _say_cost(self, done: "list[RecordedTrace]", markup: "Markup | None") -> int:
        """Print what the traces that are left cost at most, and if they are like those done; returns their number."""
        from stopping.adapters.server.recording import cost_at_most, cost_of

        total = len(self.prompts) * self.plan.num_samples
        left = total - len(done)
        if done:
            self.console.print(f"{self.partial.name}: {len(done):,} of {total:,} traces are there.", markup=False)
        if left:
            self.console.print(f"{left:,} traces, at most {_cost(cost_at_most(self.plan, left, markup))}.")
        if left and done:
            each = (round(value * left / len(done)) for value in cost_of(done))
            self.console.print(f"If they are like those there: {_cost(type(cost_of(done))(*each))}.")
        return left

    def _say_missing(self, log: Any) -> None:
        """Say which signals are not at every checkpoint past the first token."""
        import numpy as np

        if log.checkpoints is None:
            return
        later = log.checkpoints.position_tokens > 0
        for name, values in log.checkpoints.signals.items():
            if later.any() and (missing := np.isnan(values[later])).any():
                self.console.print(
                    f"{name}: missing at {missing.mean():.1%} of checkpoints; stopping tune reads only what is at all of them.",
                    style="yellow",
                )

    def _say_late(self, traces: "list[RecordedTrace]") -> None:
        """Say how many forced answers did not end in time: where they do not, no policy can stop."""
        ended = [probe["text"] is not None for trace in traces for probe in trace.probes]
        if late := len(ended) - sum(ended):
            self.console.print(
                f"{late / len(ended):.1%} of forced answers did not end within {self.markup_options.answer_tokens} tokens, and "
                "count as none (--answer-tokens).",
                style="yellow",
            )


def _cost(cost: "Cost") -> str:
    return f"{cost.num_requests:,} requests, {cost.tokens:,} tokens and {cost.probe_tokens:,} of probes"


def _confirm(yes: bool) -> None:
    """Ask whether to go on.

    Raises:
        ValueError: if there is nobody to ask; NotAchievedError for no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("--yes: expected, as there is no terminal to ask whether to go on")
    if not typer.confirm("Go on?", err=True):
        raise NotAchievedError("nothing was recorded")
