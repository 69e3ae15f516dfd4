"""Reading prompts to record from a file of JSON lines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stopping.traces.checkers import Checker
from stopping.traces.errors import LogError
from stopping.traces.readers.long_form import CANONICAL
from stopping.traces.readers.records import Record, records

OURS = ("problem", "prompt", "messages", "target")


@dataclass(frozen=True)
class Prompt:
    """The prompt of one problem.

    Attributes:
        problem: the problem's name.
        text: the prompt's text, sent unchanged; None if there are messages.
        messages: the messages of a chat; empty if there is a text.
        target: the target that answers are checked against; None if unknown.
        groups: labels by name (data set, difficulty, ...).
    """

    problem: str
    text: str | None
    messages: tuple[dict[str, Any], ...] = ()
    target: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


def read_prompts(path: Path, checker: Checker | None = None) -> list[Prompt]:
    """Return the prompts in a file ending in .jsonl or .jsonl.gz.

    A line has `prompt` (a text) or `messages` (of a chat). It may also have `problem` (a name; by default the line number, from
    1), `target`, and further fields with one label each, which become groups of the log.

    Args:
        path: the file.
        checker: the checker of answers, which must accept the targets.

    Raises:
        LogError: naming file, row, line and field.
        FileNotFoundError: if there is no such file.
    """
    found: dict[str, Prompt] = {}
    for record in records(path):
        prompt = _prompt(record)
        if prompt.problem in found:
            raise record.error("problem", "each problem once", f"{prompt.problem!r} again")
        if checker is not None and checker.name != "custom" and prompt.target is not None:
            with record.at("target"):
                checker.correct("0", prompt.target)
        found[prompt.problem] = prompt
    if checker is not None and all(prompt.target is None for prompt in found.values()):
        raise LogError(f"{path.name}: expected a target on some line, to check answers against, got none")
    return list(found.values())


def _prompt(record: Record) -> Prompt:
    text, messages = record.content.get("prompt"), record.content.get("messages")
    if (text is None) == (messages is None):
        raise record.error("prompt", "prompt or messages", "both" if messages is not None else "neither")
    if text is not None and (not isinstance(text, str) or not text):
        raise record.error("prompt", "a text")
    if messages is not None:
        for place, message in enumerate(record.entries("messages", "a list of messages")):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise record.error(f"messages.{place}", "a message with a role and content")
    problem = record.text("problem") if "problem" in record.content else str(record.row + 1)
    if not problem.strip():
        raise record.error("problem", "a name")
    target = None if record.content.get("target") is None else record.text("target", "a text or a whole number")
    groups = {name: _label(record, name) for name in record.content if name not in OURS}
    return Prompt(problem, text, tuple(messages or ()), target, {k: v for k, v in groups.items() if v is not None})


def _label(record: Record, name: str) -> str | None:
    if name in CANONICAL:
        raise record.error(name, "another name for a group", "a column that the log has")
    value = record.content[name]
    if value is not None and not isinstance(value, str | int | float | bool):
        raise record.error(name, "one label: a text, a number, true or false")
    return None if value is None else str(value)
