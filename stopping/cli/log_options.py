"""Which log, and how to read it."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from stopping.traces import TraceLog

LogPath = Annotated[
    Path,
    typer.Argument(metavar="LOG", help="One row a completion: .parquet, .jsonl[.gz] or .csv[.gz].", show_default=False),
]
_log = functools.partial(typer.Option, rich_help_panel="Log")


@dataclass(frozen=True)
class LogOptions:
    """How to read a log."""

    column: Annotated[
        list[str],
        _log(
            metavar="OURS=THEIRS",
            help="Our column (problem, sample, length_tokens, correct, answer, censored, ...) is the file's; several "
            "for problem are joined by +. With it, only columns named so are read.",
        ),
    ] = field(default_factory=list)
    no_answer: Annotated[
        list[str], _log(metavar="TEXT", help="An answer that means none; default NO_ANSWER or empty.")
    ] = field(default_factory=list)
    group: Annotated[list[str], _log(metavar="NAME", help="A column with one label a problem.")] = field(
        default_factory=list
    )
    where: Annotated[
        list[str], _log(metavar="NAME=VALUE", help="Keep only these rows; repeat a name for more values.")
    ] = field(default_factory=list)
    cap_tokens: Annotated[int | None, _log(min=1, metavar="N", help="The cap on length.")] = None
    answers: Annotated[
        Literal["exact", "numeric"] | None, _log(help="When two answers are equal: as texts, or as numbers.")
    ] = None
    reference_rule: Annotated[
        str | None,
        _log(
            metavar="RULE", help="How the answer that counts is produced: single, majority@N, budget=TOKENS or logged."
        ),
    ] = None
    set_aside_incomplete: Annotated[
        bool, _log("--set-aside-incomplete", help="Leave out, and count, rows without a length.")
    ] = False

    def load(self, path: Path) -> "TraceLog":
        """Return the log.

        Raises:
            LogError: naming file, row and column; FileNotFoundError without a file; ValueError for an option not of the
                form NAME=VALUE.
        """
        import stopping

        columns: dict[str, str | tuple[str, ...]] = {}
        for ours, theirs in (_pair("--column", text) for text in self.column):
            if ours in columns:
                raise ValueError(f"--column: {ours!r} is given twice")
            names = tuple(theirs.split("+")) if ours == "problem" else (theirs,)
            columns[ours] = names if len(names) > 1 else names[0]
        where: dict[str, list[str]] = {}
        for name, value in (_pair("--where", text) for text in self.where):
            where.setdefault(name, []).append(value)
        log: TraceLog = stopping.load_log(
            path,
            columns or None,
            groups=tuple(self.group),
            answers=self.answers,
            cap_tokens=self.cap_tokens,
            where=where or None,
            reference=self.reference_rule,
            set_aside_incomplete=self.set_aside_incomplete,
            **({"no_answer_values": tuple(self.no_answer)} if self.no_answer else {}),
        )
        return log


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{option}: expected NAME=VALUE, got {text!r}")
    return name, value
