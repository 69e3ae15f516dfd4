"""`stopping convert`: turn the log of another tool into one that every command reads."""

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stopping.cli.options import OutputOptions, busy

if TYPE_CHECKING:
    from stopping.traces import TraceLog

_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)")
CHECKS = ("exact", "numeric", "choice", "none")

_harness = functools.partial(typer.Option, rich_help_panel="From lm-eval")
_chat = functools.partial(typer.Option, rich_help_panel="From openai")
_answers = functools.partial(typer.Option, rich_help_panel="Answers")


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...", help="samples_*.jsonl of lm-eval, or lines of chat completions.", show_default=False
        ),
    ],
    output: OutputOptions,
    source: Annotated[
        Literal["lm-eval", "openai"],
        typer.Option(
            "--from",
            help="lm-eval: what lm_eval --log_samples writes. openai: chat completions with usage, alone, in pairs with "
            "their requests, or as the Batch API gives them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the log goes: .parquet.", show_default=False)],
    extract_answer: Annotated[
        str | None,
        _answers(
            metavar="REGEX",
            help="Finds the answer in a response: the last match, of it the first group. Or MODULE:FUNCTION.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        _answers(
            metavar="CHECK",
            help="Which answers are right: exact, numeric, choice, MODULE:FUNCTION of answer and target, or none. By "
            "default, the metric of lm-eval where there is one response, else none.",
        ),
    ] = None,
    answers: Annotated[
        Literal["exact", "numeric"] | None,
        _answers(help="When two answers are equal: as texts, or as numbers; by default as they are checked."),
    ] = None,
    count_tokens: Annotated[
        str | None,
        _harness(
            metavar="MODULE:FUNCTION",
            help="From a response to its number of tokens; or characters/4, which is approximate and labelled so.",
        ),
    ] = None,
    filter_name: Annotated[
        str | None, _harness("--filter", metavar="NAME", help="Whose lines to take, if there are several.")
    ] = None,
    metric: Annotated[
        str | None, _harness(metavar="NAME", help="The metric that judges a single response, if there are several.")
    ] = None,
    extract_target: Annotated[
        str | None, _harness(metavar="REGEX", help="Finds in the target what answers are checked against.")
    ] = None,
    cap_tokens: Annotated[
        int | None, _harness(min=1, metavar="N", help="The cap on length; by default the log's max_gen_toks.")
    ] = None,
    problem: Annotated[
        str | None,
        _chat(metavar="FIELD", help="Names the problem: request.metadata.problem; by default custom_id."),
    ] = None,
    extract_problem: Annotated[
        str | None, _chat(metavar="REGEX", help="Finds the problem's name in that field.")
    ] = None,
    references: Annotated[
        Path | None, _chat(metavar="FILE", help="Columns problem and target, to check answers against.")
    ] = None,
) -> None:
    """Turn logs of other tools into one that all commands read; say what it is enough for. Needs no JAX."""
    console = output.console()
    if out.suffix.lower() != ".parquet":
        raise ValueError(f"--out: expected a name ending in .parquet, got {out.name!r}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: no such directory: {out.absolute().parent}")
    from stopping.cli.inspect import print_report
    from stopping.cli.output import ConvertOutput, LogSummary
    from stopping.traces import check as report_of
    from stopping.traces import load_chat, load_harness, save_log

    harness = {
        "count_tokens": function_named(count_tokens, "--count-tokens"),
        "filter_name": filter_name,
        "metric": metric,
        "extract_target": function_named(extract_target, "--extract-target"),
        "cap_tokens": cap_tokens,
    }
    chat = {
        "problem": problem,
        "extract_problem": function_named(extract_problem, "--extract-problem"),
        "references": references,
    }
    own, others = (harness, chat) if source == "lm-eval" else (chat, harness)
    for name, value in others.items():
        if value is not None:
            option = "--filter" if name == "filter_name" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: nothing that --from {source} has a use for")
    if source == "lm-eval" and count_tokens is None:
        raise ValueError(
            "--count-tokens: expected MODULE:FUNCTION, as lm-eval logs no lengths; characters/4 approximates them"
        )
    arguments = {
        "extract_answer": function_named(extract_answer, "--extract-answer"),
        "check": check if check in CHECKS else function_named(check, "--check"),
        "answers": answers,
        **own,
    }
    read: Any = load_harness if source == "lm-eval" else load_chat
    with busy(console, "reading"):
        log: TraceLog = read(paths, **{name: value for name, value in arguments.items() if value is not None})
    save_log(log, out)
    report = report_of(log)
    print_report(console, report)
    if "token_count" in log.groups:
        console.print(f"Lengths are approximate: {count_tokens}.", style="yellow", markup=False)
    console.print(f"{out}: {log}", markup=False)
    output.write(ConvertOutput(log=LogSummary.of(out.name, log), report=report.as_dict()))


def function_named(text: str | None, option: str) -> Any:
    """Return the function that MODULE:FUNCTION names, or the text itself where it is not of that form."""
    named = _FUNCTION.fullmatch(text or "")
    if named is None:
        return text
    from stopping.cli.named import import_module

    function = getattr(import_module(named[1], option), named[2], None)
    if not callable(function):
        raise ValueError(f"{option}: {named[1]} has no function {named[2]}")
    return function
