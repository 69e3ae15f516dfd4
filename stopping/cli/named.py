"""Rules and problems by name: `Margin(3)` of the library, `module:Class(args)` of the user.

Arguments are literals, read by `ast.literal_eval`: nothing is evaluated, and only a module that is named is imported.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Named:
    """A class, or a method that makes an instance of one, with the arguments that a text gives it.

    Attributes:
        place: what is named, for messages: `rule 'Margin(3)'`.
        maker: the class or method.
        args, keywords: its arguments.
    """

    place: str
    maker: Callable[..., Any]
    args: list[Any]
    keywords: dict[str, Any]

    @property
    def parameters(self) -> dict[str, bool]:
        """The parameters of the maker by name, and whether the text gives them.

        Raises:
            ValueError: if the arguments of the text do not fit them.
        """
        try:
            signature = inspect.signature(self.maker)
            given = signature.bind_partial(*self.args, **self.keywords).arguments
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.place}: {error}") from error
        return {name: name in given for name in signature.parameters}

    def make(self, **more: Any) -> Any:
        """Return the instance, with more arguments.

        Raises:
            ValueError: if it refuses its arguments.
        """
        try:
            return self.maker(*self.args, **self.keywords, **more)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.place}: {error}") from error


def find(text: str, kind: str, known: Mapping[str, Any], forms: str) -> Named:
    """Return what a text names.

    Args:
        text: `Class(args)`, `Class.method(args)` or either after `module:`; without arguments, the brackets may be left out.
        kind: of thing, for messages.
        known: the library's classes by name.
        forms: examples, for messages.

    Raises:
        ValueError: quoting the text and saying what is wrong with it.
    """
    place = f"{kind} {text!r}"
    own = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_].*)", text, re.DOTALL)
    parsed = _call(own[2] if own else text)
    if parsed is None:
        raise ValueError(f"{place}: expected {forms}, with plain numbers or lists as arguments")
    path, args, keywords = parsed
    source: Any = import_module(own[1], place) if own else known
    found: Any = source
    for depth, name in enumerate(path):
        found = known.get(name) if not own and depth == 0 else getattr(found, name, None)
        if found is None or name.startswith("_"):
            there = f"{own[1]} has no {'.'.join(path)}" if own else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"{place}: {there}; expected {forms}")
    return Named(place, found, args, keywords)


def import_module(name: str, place: str) -> Any:
    """Import a user's module, from the working directory too.

    Raises:
        ValueError: beginning with `place`, if it cannot be imported, for whatever reason.
    """
    with _working_directory_on_path():
        try:
            return importlib.import_module(name)
        except Exception as error:  # the user's own code: anything
            raise ValueError(f"{place}: cannot import {name!r}: {error}") from error


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _call(source: str) -> tuple[list[str], list[Any], dict[str, Any]] | None:
    """Take `a.b(1, c=2)` apart; `a.b` alone is `a.b()`. None for anything else."""
    try:
        node = ast.parse(source, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        path = []
        while isinstance(target := call.func, ast.Attribute):
            path.append(target.attr)
            call.func = target.value
        if not isinstance(target, ast.Name) or any(keyword.arg is None for keyword in call.keywords):
            return None
        args = [ast.literal_eval(arg) for arg in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return [target.id, *reversed(path)], args, keywords
