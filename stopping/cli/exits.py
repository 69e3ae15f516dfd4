"""Exit codes of commands, and errors as one clear line."""

import functools
import re
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console

NOT_ACHIEVED, BAD_INPUT, BUG = 1, 2, 70

_ARGUMENT = re.compile(r"\b(filter_name|metric|check|cap_tokens|extract_answer|extract_target|problem)=(?=[,;) ]|$)")


class NotAchievedError(Exception):
    """What was asked for cannot be achieved; the message says why."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors about the input into one red line on stderr and an exit code.

    All of the library's errors about logs, artifacts, policies and arguments are `ValueError`s.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except NotAchievedError as error:
            _end(str(error), NOT_ACHIEVED)
        except ModuleNotFoundError as error:
            _end(_missing_extra(command.__name__, error), BAD_INPUT)
        except (ValueError, OSError) as error:
            _end(_on_the_command_line(error), BAD_INPUT)

    return run


def _missing_extra(command: str, error: ModuleNotFoundError) -> str:
    from stopping import TUNE_LIBRARIES

    library = (error.name or "").partition(".")[0]
    extra = "tune" if library in TUNE_LIBRARIES else {"gguf": "llamacpp", "httpx": "serve"}.get(library)
    if extra is None:
        raise error
    return f"stopping {command} needs {library}; install it with: pip install 'stopping[{extra}]'"


def _on_the_command_line(error: Exception) -> str:
    """Return the message, with an option's name in place of an argument of `load`, `load_harness` or `load_chat`."""
    message = _ARGUMENT.sub(_option, str(error) or repr(error))
    column = getattr(error, "column", None)
    if column and "say so: columns=" in message:
        return message.partition("If one of them")[0] + f"If one of them is it, say so: --column {column}=ITS_NAME"
    if "columns: expected our names" in message:
        return message.replace("columns:", "--column:").replace("the mapping goes from", "write")
    message = re.sub(r"^max_loss: ", "--max-accuracy-drop: ", message)
    return message.replace("set_aside_incomplete=True", "--set-aside-incomplete")


def _option(argument: re.Match[str]) -> str:
    return "--filter" if argument[1] == "filter_name" else f"--{argument[1].replace('_', '-')}"


def _end(message: str, code: int) -> NoReturn:
    Console(stderr=True).print(
        f"error: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True
    )
    raise typer.Exit(code)
