"""`stopping export`: a policy as settings of an engine, and the loss where a simpler rule replaces it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stopping.cli.log_options import LogOptions
from stopping.cli.options import ImportOptions, OutputOptions, ProblemOptions, Seed, busy

Target = Literal["llamacpp", "vllm", "sglang", "transformers"]  # as of `artifacts.native`, which --help does not import

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.artifacts import Artifact
    from stopping.cli.output import ExportOutput, Replaced
    from stopping.problems import Component
    from stopping.traces import TraceLog
    from stopping.tuning.substitution import Substitution

SHIPPED_LOG = "shipped log"  # as policies tuned on it are described
TO_THE_END = 2**30  # tokens: the budget that stops nothing


@dataclass(frozen=True)
class TagOptions:
    """The text around a thought."""

    message: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Said before a thought is closed: that of the log's probes, if they had one."
        ),
    ] = ""
    open_tag: Annotated[str, typer.Option(metavar="TEXT", help="Before a thought.")] = "<think>"
    close_tag: Annotated[str, typer.Option(metavar="TEXT", help="Behind it.")] = "</think>"


def export(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="A saved policy's directory.", show_default=False)],
    target: Annotated[Target, typer.Option(help="The engine.", show_default=False)],
    tags: TagOptions,
    log_options: LogOptions,
    output: OutputOptions,
    imports: ImportOptions,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG",
            help="What a budget is picked on, and its loss measured; by default the shipped log, for a policy tuned on it.",
            show_default=False,
        ),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="PROBLEM",
            help="Your problem, module:Class(args), whose policy is replaced by one of its fixed rules; by default Thinking.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write the settings.", show_default=False)
    ] = None,
) -> None:
    """Write a policy as settings that an engine reads by itself, and report the loss.

    Engines have a budget of thinking tokens and a number of samples. Any other thinking policy is replaced by the cheapest
    budget that is right as often, picked on one part of the log; the loss is measured on the test part of the tuning with the
    same seed. Ends with 1 if no budget can replace the policy.
    """
    console = output.console()
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: expected nothing or an empty directory at {out}")
    imports.load()
    from stopping.artifacts import load_policy, native
    from stopping.policies import FixedSamples, TokenBudget

    artifact = load_policy(policy)
    rule = None if problem else native.native_rule(artifact)
    # what the engine does not have is refused before any work
    written: Any = None if problem else native.settings(rule or TokenBudget(1), target, **vars(tags))
    loss: Replaced | None = None
    notes: tuple[str, ...] = ()
    components: Sequence[Component] = ()
    is_replaced, chosen = True, rule
    if rule is None or (log is not None and not isinstance(rule, FixedSamples)):
        name, data = _log(artifact, log, log_options)
        played, data, found = _simplified(console, artifact, rule, data, problem, seed)
        loss, notes, chosen, components = _replaced(name, data, found), _about(data), found.rule, played.components
        is_replaced = rule is not None or getattr(found.rule, "max_tokens", 0) < TO_THE_END
        written = native.settings(found.rule, target, **vars(tags)) if is_replaced else None
    settings = {
        "arguments": list(written.arguments()) if is_replaced else [],
        "fields": written.fields() if is_replaced else {},
        "notes": [*(written.notes() if is_replaced else ()), *notes],
        "directory": str(out) if out and is_replaced else None,
    }
    record = _record(artifact, target, chosen, settings, rule is not None, loss, components)
    print_export(console, record, components)
    if out is not None and is_replaced:
        _write(record, native.files(written), out)
        console.print(f"Written to {out}", markup=False, soft_wrap=True)
    output.write(record)
    if not is_replaced:
        from stopping.cli.exits import NotAchievedError

        raise NotAchievedError(
            "no budget is right as often as the policy short of thinking to the end, which needs no setting: run the policy "
            "itself, with stopping serve"
        )


def _log(artifact: "Artifact", path: Path | None, options: LogOptions) -> "tuple[str, TraceLog]":
    if path is not None:
        return path.name, options.load(path)
    known = artifact.document.calibrated_on
    if known is not None and known.description == SHIPPED_LOG:
        from stopping.reasoner import load_shipped_log

        return SHIPPED_LOG, load_shipped_log()
    named = f", {known.description}" if known and known.description else ""
    raise ValueError(
        f"--log: {artifact.policy} is no budget, and the one in its place is picked on a log: give the one that the policy "
        f"was calibrated on{named}"
    )


def _simplified(
    console: "Console", artifact: "Artifact", rule: Any, log: "TraceLog", problem_text: str | None, seed: int
) -> "tuple[Any, TraceLog, Substitution]":
    """Return the problem, the part of the log it is played on, and the fixed rule in the place of the policy."""
    from stopping.policies import TokenBudget
    from stopping.traces import Reference
    from stopping.tuning.substitution import substitute

    document = artifact.document
    options = ProblemOptions(lag_tokens=document.lag_tokens or None)
    problem, log = options.problem_of(problem_text or "Thinking", log, console)
    reference = Reference.parse(document.reference_rule or "logged")
    held = document.certificate if rule is None else None  # an exact rule keeps the policy's own
    limit = held.max_accuracy_drop if held and held.grade != "none" else None
    with busy(console, "replaying"):
        found = substitute(
            problem, getattr(problem, "native", problem), artifact.policy, log, rule=rule, seed=seed,
            reference=TokenBudget(reference.amount) if reference.kind == "budget" else None,
            max_loss=limit, confidence=held.confidence if held else None,
        )  # fmt: skip
    return problem, log, found


def _about(log: "TraceLog") -> tuple[str, ...]:
    probes = log.checkpoints
    if probes is None:
        return ()
    told = f"The log forced its answers so: {probes.protocol}. The loss holds where the engine does the same."
    cues = "The log has checkpoints at cues only: the loss is that of a budget which waits for the next one."
    return (told, cues) if probes.grid == "cue" else (told,)


def _replaced(name: str, log: "TraceLog", found: "Substitution") -> "Replaced":
    from stopping.cli.output import Figure, LogSummary, Replaced, figures_of

    certificate = found.certificate
    return Replaced(
        log=LogSummary.of(name, log),
        split=found.num_problems,
        policy_figures=figures_of(found.policy_result.estimates),
        rule_figures=figures_of(found.rule_result.estimates),
        change=figures_of(found.loss),
        tokens_share=Figure.of(found.tokens_share),
        certified=None if certificate is None else certificate.grade.name != "NONE",
        certificate=None if certificate is None else certificate.statement,
    )


def _record(
    artifact: "Artifact",
    target: Target,
    rule: Any,
    settings: dict[str, Any],
    exact: bool,
    loss: "Replaced | None",
    components: "Sequence[Component]",
) -> "ExportOutput":
    from stopping.cli.output import ExportOutput

    policy = str(artifact.policy)
    return ExportOutput(
        policy=policy,
        digest=artifact.digest,
        target=target,
        rule=str(rule),
        exact=exact,
        loss=loss,
        statement=_statement(policy, str(rule), exact, loss, components),
        **settings,
    )


def _statement(policy: str, rule: str, exact: bool, loss: "Replaced | None", components: "Sequence[Component]") -> str:
    said = ""
    if loss is not None:
        from sims.rounding import plus_minus
        from stopping.cli.tables import worth_and_costs

        worth, cost, *_ = worth_and_costs(components)
        points = plus_minus(loss.change[worth.name], worth.unit, signed=True)
        tokens = plus_minus(loss.change[cost.name], cost.unit, signed=True)
        share = plus_minus(loss.tokens_share, 0.01, signed=True)
        said = f"accuracy changes by {points} points and a trace by {tokens} tokens ({share} %)"
    if exact:
        where = "" if rule == policy else f", which stops where {policy} does"
        but = (
            f" But for answers that a stop leaves empty: there the engine does not think on, and {said}."
            if said
            else ""
        )
        return f"Exact, nothing lost: {rule} is the engine's own{where}.{but}"
    assert loss is not None
    kept = {
        None: "The policy is not certified, so there is no limit for the rule to keep.",
        True: f"It keeps the certified accuracy: it {loss.certificate}.",
        False: f"It does not keep the certified accuracy: {loss.certificate}.",
    }[loss.certified]
    return f"{rule} in the place of {policy}: {said}. {kept}"


def print_export(console: "Console", record: "ExportOutput", components: "Sequence[Component]") -> None:
    """Print the settings, their loss, and notes on using them."""
    import json
    import shlex

    if record.arguments:
        console.print(f"Command line: {shlex.join(record.arguments)}", markup=False, soft_wrap=True)
    if record.fields:
        where = "generation_config.json" if record.target == "transformers" else "Request"
        console.print(f"{where}: {json.dumps(record.fields, ensure_ascii=False)}", markup=False, soft_wrap=True)
    if record.loss is not None:
        from sims.rounding import plus_minus
        from stopping.cli.tables import new_table, note_few

        loss = record.loss
        table = new_table("", "the policy", record.rule, "change")
        for component in components:
            name, title, unit = component.name, component.label, component.unit
            figures = plus_minus(loss.policy_figures[name], unit), plus_minus(loss.rule_figures[name], unit)
            table.add_row(title, *figures, plus_minus(loss.change[name], unit, signed=True))
        console.print(table)
        picked, certified, tested = loss.split
        how = "" if record.exact else f"The budget was picked on {picked:,} problems and certified on {certified:,}. "
        console.print(
            f"{how}Measured on {tested:,} problems of {loss.log.name}, paired by problem; ± is one standard error.",
            markup=False,
        )
        note_few(console, tested)
    for note in record.notes:
        console.print(f"- {note}", markup=False)
    held = record.loss is None or record.loss.certified is not False
    console.print(record.statement, style="bold" if held else "bold yellow", markup=False)


def _write(record: "ExportOutput", texts: dict[str, str], directory: Path) -> None:
    """Write the settings, the record as JSON, and a README with the loss."""
    lines = [f"# {record.policy} for {record.target}", record.statement, "## Settings"]
    lines += [f"`{name}`:\n\n```\n{text.strip()}\n```" for name, text in texts.items()]
    lines += ["## Before using them", "\n".join(f"- {note}" for note in record.notes)]
    lines += [f"Written from the policy with SHA-256 `{record.digest}`; all figures are in `export.json`."]
    directory.mkdir(parents=True, exist_ok=True)
    contents = texts | {"README.md": "\n\n".join(lines) + "\n", "export.json": record.model_dump_json(indent=2) + "\n"}
    for name, text in contents.items():
        (directory / name).write_text(text, encoding="utf-8")
