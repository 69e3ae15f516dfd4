"""Problems by name: `Sampling`, `Thinking(lag_tokens=8)`, `module:Class(args)`. They are known by their protocol alone."""

from collections.abc import Mapping
from typing import Any

from stopping import problems
from stopping.cli.named import find
from stopping.problems import Replayable
from stopping.traces import TraceLog

FORMS = "Sampling, Thinking(lag_tokens=8), or module:Class(args)"
LIBRARY = {
    name: value
    for name, value in vars(problems).items()
    if isinstance(value, type) and hasattr(value, "decision") and hasattr(value, "play")
}


def problem_named(text: str, options: Mapping[str, Any], *, num_samples: int | None = None) -> Any:
    """Return the problem that a text names.

    Args:
        text: the problem, with arguments or without.
        options: more arguments.
        num_samples: of a log, which is the number of traces where the problem has one and neither says it.

    Raises:
        ValueError: quoting the text and saying what is wrong with it, or naming an option that the problem does not have.
    """
    named = find(text.strip(), "problem", LIBRARY, FORMS)
    parameters = named.parameters
    for name in options:
        if parameters.get(name) is not False:
            option, kind = f"--{name.replace('_', '-')}", getattr(named.maker, "__name__", text)
            raise ValueError(
                f"{option}: " + (f"{kind} has no {name}" if name not in parameters else f"given in {text} too")
            )
    more = dict(options)
    if num_samples is not None and parameters.get("num_traces") is False:
        more = {"num_traces": num_samples} | more
    problem = named.make(**more)
    if isinstance(problem, type) or not isinstance(problem, Replayable):
        raise ValueError(
            f"{named.place}: expected a problem, got {type(problem).__name__}; it must have all of "
            "stopping.problems.Replayable"
        )
    return problem


def default_problem(log: TraceLog) -> str:
    """Return the name of the problem that a log is about: thinking where it has checkpoints and its reference is no vote."""
    return "Thinking" if log.probed.any() and log.reference.kind != "majority" else "Sampling"


def playable(problem: Replayable, log: TraceLog) -> TraceLog:
    """Return the part of a log that a problem can be played on: with checkpoints, where its policies are asked there.

    Raises:
        ValueError: if that is nothing.
    """
    if problem.decision.asked != "checkpoint":
        return log
    if not log.probed.any():
        raise ValueError(f"LOG: expected checkpoints for {type(problem).__name__}, got none; see stopping inspect LOG")
    return log if log.probed.all() else log.take(log.probed)
