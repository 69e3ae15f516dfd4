"""Rules by name: `Margin(3)`, `VoteTable.adaptive_consistency(0.95, 8)`, a policy's directory, `module:Class(args)`.

Arguments are literals, read by `ast.literal_eval`; nothing is evaluated, and no module imported that is not named.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stopping import policies
from stopping.policies import (
    FirstFinish,
    FixedSamples,
    Margin,
    Policy,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
)

if TYPE_CHECKING:
    from stopping.traces import Reference, TraceLog

FORMS = "Margin(3), VoteTable.adaptive_consistency(0.95, 8), a policy's directory, or module:Class(args)"
OURS = {
    name: value
    for name, value in vars(policies).items()
    if isinstance(value, type) and hasattr(value, "signals") and hasattr(value, "step")
}
_BUDGET_QUANTILES = (0.25, 0.5, 0.75)


def parse(text: str) -> Any:
    """Return the policy that a text names.

    Raises:
        ValueError: quoting the text and saying what is wrong with it; `ArtifactError` for a directory.
    """
    text = text.strip()
    if text and Path(text).is_dir():
        from stopping.artifacts import load_policy

        return load_policy(text).policy
    own = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_].*)", text, re.DOTALL)
    path, args, keywords = _call(text, own[2] if own else text)
    known: Any = import_module(own[1], f"rule {text!r}") if own else OURS
    found: Any = known
    for depth, name in enumerate(path):
        found = known.get(name) if not own and depth == 0 else getattr(found, name, None)
        if found is None or name.startswith("_"):
            there = f"{own[1]} has no {'.'.join(path)}" if own else f"known: {', '.join(sorted(OURS))}"
            raise ValueError(f"rule {text!r}: {there}; expected {FORMS}")
    try:
        policy = found(*args, **keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rule {text!r}: {error}") from error
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise ValueError(
            f"rule {text!r}: expected a policy, got {type(policy).__name__}; decorate its class with policies.policy"
        )
    return policy


def import_module(name: str, place: str) -> Any:
    """Import a module of the user's, from the working directory too.

    Raises:
        ValueError: beginning with `place`, if it cannot be imported, for whatever reason.
    """
    with _working_directory_on_path():
        try:
            return importlib.import_module(name)
        except Exception as error:  # the user's own code: anything
            raise ValueError(f"{place}: cannot import {name!r}: {error}") from error


@contextmanager
def _working_directory_on_path() -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _call(text: str, source: str) -> tuple[list[str], list[Any], dict[str, Any]]:
    """Take `a.b(1, c=2)` apart; `a.b` alone is `a.b()`."""
    try:
        node = ast.parse(source, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        path = []
        while isinstance(target := call.func, ast.Attribute):
            path.append(target.attr)
            call.func = target.value
        if not isinstance(target, ast.Name) or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("not a name")
        args = [ast.literal_eval(arg) for arg in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"rule {text!r}: expected {FORMS}, with plain numbers or lists as arguments") from None
    return [target.id, *reversed(path)], args, keywords


def name_of(policy: Any) -> str:
    """Return the policy's text, from which `parse` gives it back (after an import of its class, for one's own).

    One with long tables is named by its single numbers; `parse` takes the directory where it is saved.
    """
    return str(policy)


def reference_of(policy: Any) -> "Reference":
    """Return a reference rule as logs and saved policies state it; `logged` for one that they have no word for."""
    from stopping.traces import Reference

    if isinstance(policy, FixedSamples):
        return Reference.vote(policy.num_samples)
    return Reference("budget", policy.max_tokens) if isinstance(policy, TokenBudget) else Reference("logged")


def default_rules(log: "TraceLog", problem: Any) -> list[Any]:
    """Return the library's rules that make sense on a log.

    Those that vote, only where answers can be compared; of those that stop a thought, a few of each family.
    """
    if not hasattr(problem, "num_traces"):
        from stopping.solvers import thinking_families

        members = thinking_families(problem.worlds(log)).values()
        return distinct(each[len(each) * part // 4] for each in members for part in (1, 2, 3))
    num_traces = problem.num_traces
    rules: list[Any] = [FixedSamples(2**k) for k in range(num_traces.bit_length()) if 2**k < num_traces]
    rules += [FixedSamples(num_traces), *(FirstFinish(k) for k in (1, 3) if k <= num_traces)]
    if log.num_samples > 1 and log.has_answers:
        rules += [Margin(votes) for votes in (2, 3) if votes <= num_traces]
        rules += [VoteTable.adaptive_consistency(confidence, num_traces) for confidence in (0.8, 0.95)]
        rules += [VoteTable.cannot_be_caught(num_traces), *([UnanimousWindow(3)] if num_traces >= 3 else [])]
    else:
        rules = [FixedSamples(1), FirstFinish(1)]
    if problem.decision_interval_tokens is not None:
        lengths = np.quantile(log.length_tokens[log.present], _BUDGET_QUANTILES)
        rules += [TokenBudget(int(np.ceil(length))) for length in lengths]
    return distinct(rules)


def distinct(rules: Iterable[Any]) -> list[Any]:
    """Return the rules, each once, in order."""
    kept: list[Any] = []
    for rule in rules:
        if rule not in kept:
            kept.append(rule)
    return kept
