"""`stopping demo`: every step from a log to a saved rule, with what was promised and what was observed on test problems."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stopping.cli.log_options import LogOptions
from stopping.cli.options import OutputOptions, Plot, ProblemOptions, Seed, busy, plot_file

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.cli.output import DemoOutput
    from stopping.traces import TraceLog

FRACTIONS = (0.3, 0.5, 0.2)
COST_OF_FULL_VOTE = 0.1  # of a right answer: what the vote of all traces costs, unless a price is given
NUM_BLOCKS = 2  # of worlds to choose rules on, and as many to score them on
FAR = 4  # errors between promised and observed: beyond, the model is at fault, not chance


def demo(
    log_options: LogOptions,
    problem_options: ProblemOptions,
    output: OutputOptions,
    log: Annotated[
        Path | None,
        typer.Argument(metavar="[LOG]", help="Your log; by default the shipped reasoner's.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to save the policy; by default a new temporary directory.")
    ] = None,
    seed: Seed = 0,
    plot: Plot = None,
) -> None:
    """Go through every step on one log: check, split, fit, derive a rule, simulate it, replay it, save it, load it again.

    Unless --price-per-token is given, tokens are priced so that the vote of all traces costs a tenth of a right answer.
    """
    console = output.console()
    plot_file(plot)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: expected nothing or an empty directory at {out}")
    if log is None:
        console.print("No log was given, so this is the [bold]shipped reasoner's[/bold]. For yours: stopping demo LOG")
    data = log_options.load(log or _shipped_log())
    name = log.name if log else "shipped log"
    road = _Road(console, problem_options, data, name, seed, output.progress())
    target = out or Path(tempfile.mkdtemp(prefix="stopping-")) / "policy"
    output.write(road.walk(target, plot=plot))


def _shipped_log() -> Path:
    from stopping.reasoner.recording import LOG

    return LOG


@dataclass
class _Road:
    """The steps, in order; each prints what it did."""

    console: "Console"
    options: ProblemOptions
    log: "TraceLog"
    name: str
    seed: int
    progress: bool

    def walk(self, target: Path, *, plot: Path | None) -> "DemoOutput":
        import jax
        import jax.random as jr

        import sims
        import stopping
        from sims.engine import BLOCK
        from stopping.cli.output import DemoOutput, LogSummary, ProblemSummary, figures_of
        from stopping.cli.rules import reference_of
        from stopping.solvers.families import distinct

        key_solve, key_promise = (jr.fold_in(jax.random.key(self.seed), index) for index in (1, 2))
        self._check()
        fit_part, certify_part, test_part = self._split()
        fitted = self._fit(fit_part)

        num_traces = self.options.num_traces or self.log.num_samples
        full_vote = num_traces * float(fit_part.length_tokens[fit_part.present].mean())
        problem = self.options.sampling(
            fitted.model, self.log.num_samples, price_per_token=COST_OF_FULL_VOTE / full_vote
        )
        reference = problem.reference_rule(self.log)
        why = "" if self.options.price_per_token is not None else ", so that the vote of all costs a tenth of one"
        price = f"One token costs {float(problem.price_per_token):.2g} of a right answer{why}."
        self._say("4", "Derive", f"{price} Every family of rules is tried on the same drawn problems.")
        solution = stopping.solve(
            problem, stopping.solvers.FamilySearch(NUM_BLOCKS * BLOCK), key=key_solve, progress=self.progress
        )
        self._family(solution)

        policy, rule, base = solution.policy, str(solution.policy), str(reference)
        with busy(self.console, "simulating and replaying"):
            simulated = [
                sims.simulate(key_promise, problem, each, num_replicas=2 * NUM_BLOCKS * BLOCK)
                for each in (policy, reference)
            ]
            promise = sims.difference(*simulated)
            members = [member.policy for member in solution.family.values()] if plot else []
            comparison = stopping.compare(problem, distinct([policy, *members]), test_part, reference=reference)
        row = next(row for row in comparison.rows if row.policy == policy)
        promised, observed = figures_of(simulated[0].estimates), figures_of(row.result.estimates)
        promised_change, observed_change = figures_of(promise), figures_of(row.against_reference)
        self._promised_and_observed(
            rule, base, test_part.num_problems, (promised, promised_change), (observed, observed_change)
        )

        stopping.save_policy(
            policy,
            target,
            evidence=[simulated[0], row.result],
            problem=problem,
            reference_rule=reference_of(reference),
            calibrated_on={
                "num_problems": fit_part.num_problems,
                "num_traces": fit_part.num_traces,
                "description": self.name,
            },
            promised={
                "accuracy_change": promise["correct"].as_dict(),
                "net_saving_tokens": sims.difference(*reversed(simulated))["total_tokens"].as_dict(),
            },
            decision_points={"on": "trace_end", "interval_tokens": problem.decision_interval_tokens},
            lag_tokens=int(problem.lag_tokens),
        )
        agrees = self._serve(target)
        if plot:
            from stopping.plots import frontier

            frontier(comparison, [str(row.policy) for row in comparison.rows]).savefig(plot)
            self.console.print(f"Picture of the rules on the test problems: {plot}", markup=False)
        adaptive = solution.status.name == "ADAPTIVE"
        advice = _advice(rule, base, adaptive, row.against_reference, comparison.rows[0].result)
        self.console.print()
        self.console.print(advice, style="bold", markup=False)
        return DemoOutput(
            log=LogSummary.of(self.name, self.log),
            split=(fit_part.num_problems, certify_part.num_problems, test_part.num_problems),
            problem=ProblemSummary.of(problem),
            adaptive=adaptive,
            rule=rule,
            reference=base,
            promised=promised,
            observed=observed,
            promised_against_reference=promised_change,
            observed_against_reference=observed_change,
            policy=str(target),
            decisions_agree=agrees,
            advice=advice,
        )

    def _say(self, number: str, title: str, text: str) -> None:
        self.console.print(f"\n[bold cyan]{number}. {title}[/bold cyan]  {escape(text)}")

    def _check(self) -> None:
        from stopping.cli.inspect import print_report
        from stopping.traces import check

        self._say("1", "Check", "What the log is enough for.")
        print_report(self.console, check(self.log))

    def _split(self) -> tuple["TraceLog", "TraceLog", "TraceLog"]:
        from stopping.traces import split

        parts = split(self.log, FRACTIONS, seed=self.seed)
        sizes = [f"{part.num_problems:,}" for part in parts]
        self._say(
            "2",
            "Split",
            f"By problem: {sizes[0]} to fit, {sizes[1]} kept unseen for a certificate, {sizes[2]} to test.",
        )
        return parts  # type: ignore[return-value]

    def _fit(self, part: "TraceLog") -> Any:
        import stopping
        from stopping.cli.fit import print_fit, record_of, require_converged

        self._say(
            "3", "Fit", "The lengths of traces, how often they are right, and which wrong answers agree, by problem."
        )
        with busy(self.console, "fitting"):
            fitted = stopping.fit(stopping.models.LengthCorrectness(), part)
        record = record_of(fitted, part, self.name, False)
        print_fit(self.console, record)
        require_converged(record.converged)
        return fitted

    def _family(self, solution: Any) -> None:
        from sims.rounding import plus_minus
        from stopping.cli.tables import NARROW, folded, new_table

        table = new_table("best of its family", "utility", "above the best fixed rule")
        for member in sorted(solution.family.values(), key=lambda member: -member.value.mean):
            name = str(member.policy)
            gain = plus_minus(member.gain, signed=True) if member is not solution.best_fixed else ""
            table.add_row(
                escape(folded(name, 36) if self.console.width < NARROW else name),
                plus_minus(member.value),
                gain,
                style="bold" if member.policy == solution.policy else None,
            )
        self.console.print(table)
        assert solution.upper_bound is not None
        bound = plus_minus(solution.upper_bound)
        self.console.print(f"Upper bound for rules that cannot see which answers are right: {bound}.")
        self.console.print(f"Chosen: [bold]{escape(str(solution.policy))}[/bold]: {solution.status.value}.")

    def _promised_and_observed(self, rule: str, base: str, num_problems: int, promised: Any, observed: Any) -> None:
        from sims.rounding import plus_minus
        from stopping.cli.tables import new_table, note_few
        from stopping.problems import Sampling

        text = (
            f"{rule} on problems of the fitted model (promised) and on the {num_problems:,} test problems (observed)."
        )
        self._say("5", "Simulate and replay", text)
        table = new_table("", "promised", "observed", "apart by")
        components = {component.name: component for component in Sampling.components}
        rows = [(components[name].label, 0, name) for name in ("correct", "total_tokens", "latency_tokens")]
        rows += [(f"accuracy less {base}'s, points", 1, "correct"), (f"tokens less {base}'s", 1, "total_tokens")]
        furthest = 0.0
        for title, part, name in rows:
            one, two, unit = promised[part][name], observed[part][name], components[name].unit
            error = ((one.standard_error or 0) ** 2 + (two.standard_error or 0) ** 2) ** 0.5
            apart = abs(one.mean - two.mean) / error if error else 0.0
            furthest = max(furthest, apart)
            figures = (plus_minus(figure, unit, signed=bool(part)) for figure in (one, two))
            table.add_row(escape(title), *figures, f"{apart:.1f} errors" if error else "")
        self.console.print(table)
        self.console.print("± is one standard error; that of a promise covers the simulation, not the fit.")
        if furthest > FAR:
            self.console.print("The model misses something in these traces: trust what was observed, not the promise.")
        note_few(self.console, num_problems)

    def _serve(self, target: Path) -> bool:
        from stopping.cli.tables import new_table

        self._say("6", "Save and load", "In a new Python where JAX cannot be imported, as on a server:")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", "stopping.cli.without_jax", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"the saved policy could not be run without JAX:\n{done.stderr}")
        steps = json.loads(done.stdout)["steps"]
        signals = list(steps[0]["saw"])
        table = new_table(*(name.replace("_", " ") for name in signals), "decision", left=0)
        for step in steps:
            amount = f" {step['amount']}" if step["amount"] else ""
            table.add_row(*(f"{step['saw'][name]:,}" for name in signals), step["asked"] + amount)
        self.console.print(table)
        self.console.print(f"Saved in {target}", markup=False, soft_wrap=True)
        return all(step["agrees"] for step in steps)


def _advice(rule: str, base: str, adaptive: bool, change: Any, reference: Any) -> str:
    """Return the advice, in one sentence."""
    if rule == base:
        return f"Do not bother: no rule is better than the one in use, {base}."
    from sims.rounding import plus_minus

    tokens = plus_minus(change["total_tokens"], -reference.total_tokens.mean / 100)  # saved, in per cent
    points = plus_minus(change["correct"], 0.01, signed=True)
    came = f"on the test problems it saved {tokens} % of the tokens of {base} and changed accuracy by {points} points"
    if adaptive:
        return f"Use {rule}: {came}."
    return f"Do not bother with an adaptive rule: at this price keep to a fixed number of samples, {rule}; {came}."
