"""The command line: `stopping COMMAND`, listed by `stopping --help`.

Exit codes: 0 for success; 1 if what was asked for cannot be achieved (a precision not reached, a fit that did not converge);
2 for bad input, with a message of one line; 70 for a bug in this library, with its traceback.
"""

import sys
import traceback
from typing import Annotated

import typer

from stopping.cli.compare import compare
from stopping.cli.convert import convert
from stopping.cli.demo import demo
from stopping.cli.doctor import doctor
from stopping.cli.exits import BUG, guarded
from stopping.cli.export import export
from stopping.cli.fit import fit
from stopping.cli.inspect import inspect
from stopping.cli.options import flat
from stopping.cli.plan import plan
from stopping.cli.promise import promise
from stopping.cli.reasoner import reasoner
from stopping.cli.record import record
from stopping.cli.replay import replay
from stopping.cli.report import report
from stopping.cli.serve import serve
from stopping.cli.simulate import simulate
from stopping.cli.study import study
from stopping.cli.tune import tune

app = typer.Typer(
    name="stopping",
    help="When an LLM should stop: compare rules on your logs, fit a model, simulate, derive a rule.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(demo, inspect, convert, record, doctor, serve, compare, tune, report, export),
    *(fit, simulate, replay, plan, promise, study),
)
for command in COMMANDS:
    app.command()(flat(guarded(command)))
app.add_typer(reasoner)


def _version(asked: bool) -> None:
    if asked:
        from stopping import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="stopping")
    except Exception:
        traceback.print_exc()
        sys.exit(BUG)
