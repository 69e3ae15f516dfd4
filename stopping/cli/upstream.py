"""Which server, and how its model writes."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from stopping.cli.exits import NotAchievedError

if TYPE_CHECKING:
    from stopping.adapters.server.capabilities import Capabilities
    from stopping.adapters.server.client import Upstream
    from stopping.adapters.server.markup import Markup

_server = functools.partial(typer.Option, rich_help_panel="Server")
_model = functools.partial(typer.Option, rich_help_panel="Model")


@dataclass(frozen=True)
class ServerOptions:
    """How to reach the server."""

    model: Annotated[str, _server(metavar="NAME", help="As the server names it; by default the first it lists.")] = ""
    api_key: Annotated[
        str | None, _server(metavar="VARIABLE", help="The environment variable that holds the API key.")
    ] = None
    timeout_seconds: Annotated[float, _server(help="For connecting, and between two pieces of a stream.")] = 60.0
    top_log_probs: Annotated[
        int, _server(metavar="N", min=1, help="Likeliest tokens whose log-probabilities are asked for with each token.")
    ] = 20

    def upstream(self, url: str) -> "Upstream":
        """Return a client of the server, not connected yet.

        Raises:
            ValueError: if the URL is none, or the variable with the key is not set.
        """
        from stopping.adapters.server.client import Upstream

        if not url.startswith(("http://", "https://")):
            raise ValueError(f"URL: expected http://... or https://..., got {url!r}")
        if self.api_key is not None and not os.environ.get(self.api_key):
            raise ValueError(
                f"--api-key: expected the name of an environment variable that is set, got {self.api_key!r}"
            )
        key = os.environ[self.api_key] if self.api_key else ""
        return Upstream(url, self.model, key, timeout_seconds=self.timeout_seconds)


class TagsRefusedError(ValueError):
    """The server's tokeniser cannot write a tag."""


@dataclass(frozen=True)
class MarkupOptions:
    """How the model writes."""

    open_tag: Annotated[str, _model(metavar="TEXT", help="What begins a thought.")] = "<think>"
    close_tag: Annotated[
        str, _model(metavar="TEXT", help="What ends a thought; empty for a model that does not think.")
    ] = "</think>"
    answer_prefix: Annotated[str, _model(metavar="TEXT", help="Written after it where an answer is forced.")] = ""
    answer_tokens: Annotated[
        int, _model(metavar="N", min=1, help="The most that a forced answer may take; a longer one is none.")
    ] = 32
    candidate: Annotated[
        list[str], _model(metavar="TEXT", help="A token that puts forward a result; may be given again.")
    ] = field(default_factory=list)

    async def markup(self, upstream: "Upstream", capabilities: "Capabilities") -> "Markup | None":
        """Return the marks as token ids; None where there is no closing tag, or the server gives no ids.

        Raises:
            TagsRefusedError: if the server's tokeniser refuses one of the texts.
            ValueError: if the opening tag is empty, or a candidate is not one token.
        """
        from stopping.adapters.server.client import UpstreamError
        from stopping.adapters.server.markup import read_markup

        if not self.close_tag or not capabilities.continues:
            return None
        try:
            return await read_markup(
                upstream,
                capabilities,
                open=self.open_tag,
                close=self.close_tag,
                answer_prefix=self.answer_prefix,
                candidates=self.candidate,
                answer_tokens=self.answer_tokens,
            )
        except UpstreamError as error:
            if error.status is None:
                raise
            raise TagsRefusedError(
                f"--open-tag {self.open_tag!r}, --close-tag {self.close_tag!r}: the server's tokeniser refuses one of the "
                f"texts: {error}"
            ) from error


@contextmanager
def talking() -> Iterator[None]:
    """Turn what a server refuses, or does not answer, or that ours does not start, into one line and exit code 1."""
    from stopping.adapters.llamacpp import ServerFailed
    from stopping.adapters.server.capabilities import Unsupported
    from stopping.adapters.server.client import UpstreamError

    try:
        yield
    except (UpstreamError, Unsupported, ServerFailed) as error:
        raise NotAchievedError(str(error)) from error
