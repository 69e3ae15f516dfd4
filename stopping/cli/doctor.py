"""`stopping doctor`: the capabilities of a server, and the cost of each signal."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stopping.cli.exits import NotAchievedError
from stopping.cli.options import ImportOptions, OutputOptions, busy
from stopping.cli.upstream import MarkupOptions, ServerOptions, TagsRefusedError, talking

if TYPE_CHECKING:
    from rich.console import Console

    from stopping.adapters.server.capabilities import Capabilities
    from stopping.adapters.server.markup import Markup

_NAMES = {
    "log_probs": "log-probabilities in a stream",
    "num_top": "the likeliest tokens' too",
    "full_distribution": "of all tokens: entropies",
    "token_ids": "ids of generated tokens",
    "prompt_ids": "prompts of token ids",
    "tokenizer": "a tokeniser",
    "prefix_cache": "prompts are cached",
    "num_choices": "several answers a request (n)",
    "control": "a thought closed by order",
    "usage": "counts of tokens",
    "idle_seconds": "a cancelled request is gone",
}


def doctor(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of an OpenAI-compatible server.", show_default=False)],
    output: OutputOptions,
    server: ServerOptions,
    markup_options: MarkupOptions,
    imports: ImportOptions,
    policy: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A saved policy: say whether this server can run it.")
    ] = None,
) -> None:
    """Test what a server can do, by short requests, and say which policies it can run. Needs no JAX."""
    console = output.console()
    artifact = None
    if policy is not None:
        from stopping.artifacts import load_policy

        imports.load()
        artifact = load_policy(policy)
    upstream = server.upstream(url)
    from stopping.adapters.server.examination import examine
    from stopping.cli.output import DoctorOutput, ServerCapabilities

    async def ask() -> "tuple[Capabilities, Markup | None, str]":
        async with upstream:
            found = await examine(upstream, num_top=server.top_log_probs, close=markup_options.close_tag)
            try:
                return found, await markup_options.markup(upstream, found), ""
            except TagsRefusedError as error:
                return found, None, str(error)

    with talking(), busy(console, "asking the server"):
        capabilities, markup, no_tags = asyncio.run(ask())
    refusal = None if artifact is None else refused(artifact.policy, capabilities, markup, no_tags)
    _print(console, capabilities, markup)
    if no_tags:
        console.print(no_tags, style="yellow", markup=False)
    name = None if artifact is None else str(artifact.policy)
    if name is not None and refusal is None:
        console.print(f"{name} can run here.", style="green", markup=False)
    found = dataclasses.asdict(capabilities)
    output.write(
        DoctorOutput(
            capabilities=ServerCapabilities(**found),
            signals=_signals(capabilities, markup),
            policy=name,
            refusal=refusal,
        )
    )
    if refusal is not None:
        raise NotAchievedError(f"{name} cannot run here: {refusal}")


def refused(policy: Any, capabilities: "Capabilities", markup: "Markup | None", no_tags: str = "") -> str | None:
    """Return why a policy cannot run on a server, None if it can; `no_tags`: why there is no markup, where the tags are why."""
    from stopping.adapters.server.capabilities import WHAT_GIVES, Unsupported, require_continuation
    from stopping.adapters.server.signals import require
    from stopping.policies import SAMPLING, decision_of

    if decision_of(policy) is SAMPLING:  # streams, and closing them, are all it needs
        counted = capabilities.usage or capabilities.token_ids
        return None if counted else f"tokens are not counted; the server lacks {WHAT_GIVES['usage']}"
    try:
        require_continuation(capabilities, "a thought cannot be continued")
        if markup is None:
            return no_tags or "--close-tag: expected the tag that ends a thought, got none"
        require(policy, capabilities, markup)
    except (Unsupported, ValueError) as error:
        return str(error)
    return None


def _signals(capabilities: "Capabilities", markup: "Markup | None") -> list[str]:
    from stopping.adapters.server.signals import signals_there

    return [] if markup is None else sorted(signals_there(capabilities, markup))


def _print(console: "Console", capabilities: "Capabilities", markup: "Markup | None") -> None:
    from rich.table import Table

    from stopping.adapters.server.capabilities import WHAT_GIVES
    from stopping.adapters.server.signals import says_bound

    console.print(capabilities.model, markup=False)
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, shown in _NAMES.items():
        value = getattr(capabilities, name)
        there = value is not None and (
            name == "idle_seconds" or (bool(value) and not (name == "num_top" and value < 2))
        )
        table.add_row(
            shown,
            "[green]yes[/green]" if there else "[yellow]no[/yellow]",
            _measured(name, capabilities) if there else f"wanted: {WHAT_GIVES[name]}",
        )
    console.print(table)
    if capabilities.tokens_per_second:
        console.print(f"One stream: {capabilities.tokens_per_second:,.0f} tokens a second without log-probabilities.")
    if capabilities.num_slots:
        console.print(f"Works on {capabilities.num_slots} requests at once.")
    if capabilities.context_tokens:
        console.print(f"Each has room for {capabilities.context_tokens:,} tokens, the prompt among them.")
    console.print()
    if not (capabilities.usage or capabilities.token_ids):
        console.print("Nothing can be run: tokens are not counted.", style="yellow")
        return
    console.print("Votes over several answers, and restarts: can run, by closing streams.")
    if markup is None:
        console.print(
            "One chain of thought: cannot be stopped here; it is continued from its token ids.", style="yellow"
        )
    else:
        signals = _signals(capabilities, markup)
        console.print(
            "One chain of thought: can be stopped, by continuing it from its token ids. A policy may read "
            f"{', '.join(signals)}."
        )
        if bound := says_bound(signals, capabilities):
            console.print(bound, markup=False)


def _measured(name: str, capabilities: "Capabilities") -> str:
    """Return what was measured of a capability that the server has."""

    def share(value: float | None) -> str:
        return "" if value is None else f"at {value:.0%} of the speed without"

    seconds = capabilities.control_seconds
    return {
        "log_probs": share(capabilities.log_probs_share),
        "num_top": ", ".join(filter(None, (str(capabilities.num_top), share(capabilities.top_share)))),
        "tokenizer": capabilities.tokenizer,
        "control": ""
        if seconds is None
        else f"reply after {1e3 * seconds:.1f} ms, answer after {capabilities.control_lag_tokens} more tokens",
        "idle_seconds": f"after {1e3 * (capabilities.idle_seconds or 0):.1f} ms",
    }.get(name, "")
