"""`stopping serve`: a policy in front of a running model; without a server, the shipped reasoner on llama.cpp's own."""

import asyncio
import functools
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stopping.cli.exits import NotAchievedError
from stopping.cli.options import ImportOptions
from stopping.cli.upstream import MarkupOptions, ServerOptions, talking

if TYPE_CHECKING:
    from stopping.adapters.proxy import ProxyConfig
    from stopping.adapters.proxy.accounts import Accounts
    from stopping.adapters.proxy.watch import Watch
    from stopping.artifacts import Artifact

SHIPPED = "shipped"
BACKLOG = 2048  # connections that wait to be taken
CAP_TOKENS = 480  # of the shipped reasoner, as its log was recorded and its policy tuned
_proxy = functools.partial(typer.Option, rich_help_panel="Proxy")


@dataclass(frozen=True)
class ProxyOptions:
    """What the proxy does with requests."""

    host: Annotated[str, _proxy(help="Where to listen.")] = "127.0.0.1"
    port: Annotated[int, _proxy(min=0, max=65535, help="0 for a free one.")] = 8300
    shadow: Annotated[bool, _proxy("--shadow", help="Change nothing; note where the policy would have stopped.")] = (
        False
    )
    holdout: Annotated[
        float,
        _proxy(min=0.0, max=1.0, help="The share of requests that is never policed, to measure drift and loss."),
    ] = 0.02
    policy_for: Annotated[
        list[str], _proxy(metavar="MODEL=DIR", help="Another policy for a model; may be given again.")
    ] = field(default_factory=list)
    every_tokens: Annotated[
        int | None, _proxy(metavar="N", min=1, help="Between decision points; by default as the policy says.")
    ] = None
    drift_alpha: Annotated[
        float,
        _proxy(
            min=0.0, max=0.5,
            help="The chance of ever a false alarm that requests are no longer like the policy's log, as those tell that are "
            "never policed; after an alarm the policy is not asked any more. 0 for not looking.",
        ),
    ] = 0.01  # fmt: skip
    drift_state: Annotated[
        Path | None, _proxy(metavar="DIR", help="What was seen of drift is kept here from one start to the next.")
    ] = None
    accounts: Annotated[
        Path | None, _proxy(metavar="FILE", help="Add a line on each request: a log, .jsonl, that every command reads.")
    ] = None
    proxy_key: Annotated[
        str | None, _proxy(metavar="VARIABLE", help="The environment variable with the key that clients must send.")
    ] = None
    max_tokens: Annotated[
        int | None, _proxy(metavar="N", min=1, help="The cap of requests that name none; by default the server's own.")
    ] = None
    max_streams: Annotated[int, _proxy(metavar="N", min=1, help="Requests at once; more are refused.")] = 1024
    body_seconds: Annotated[
        float, _proxy(min=0.001, help="For a client to send the whole body of a request; later it is refused.")
    ] = 60.0
    stall_seconds: Annotated[
        float, _proxy(min=0.001, help="For a client to read its answer on; later its connection is cut.")
    ] = 60.0
    slots: Annotated[int, _proxy(metavar="N", min=1, help="Of the shipped reasoner's server: requests at once.")] = 4

    @contextmanager
    def listeners(self) -> "Iterator[list[socket.socket]]":
        """Listen on every address of the host.

        Raises:
            NotAchievedError: if the port is taken, may not be listened on, or the host is none of this machine's.
        """
        found: list[socket.socket] = []
        try:
            try:
                for family, _, _, _, address in _addresses(self.host, self.port):
                    if found:  # the port of the first address, if it was chosen there
                        address = (address[0], found[0].getsockname()[1], *address[2:])
                    found.append(_listener(family, address))
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise NotAchievedError(
                    f"--host, --port: cannot listen on {self.host}:{self.port}: {why[:1].lower()}{why[1:]}"
                ) from error
            yield found
        finally:
            for each in found:
                each.close()

    def open_accounts(self) -> "Accounts | None":
        """Open the file of accounts, None if none is wanted.

        Raises:
            ValueError: if it cannot be opened.
        """
        from stopping.adapters.proxy.accounts import Accounts

        if self.accounts is None:
            return None
        try:
            return Accounts(self.accounts)
        except OSError as error:
            raise ValueError(f"--accounts: cannot write to {self.accounts}: {error.strerror or error}") from error

    def watch(self, artifact: "Artifact") -> "Watch | None":
        """Return the test for drift; None where the policy has no reference sample, or the test is switched off.

        Raises:
            ValueError: if the state is of another reference sample.
        """
        from stopping.adapters.proxy.watch import Watch

        if not self.drift_alpha or artifact.document.traffic is None:
            return None
        path = None
        if self.drift_state is not None:
            self.drift_state.mkdir(parents=True, exist_ok=True)
            path = self.drift_state / f"{artifact.digest[:12]}.json"
        return Watch(artifact, self.drift_alpha, path)


def serve(
    server: ServerOptions,
    markup: MarkupOptions,
    proxy: ProxyOptions,
    imports: ImportOptions,
    policy: Annotated[
        Path | None, typer.Argument(metavar="[POLICY]", help="The policy's directory.", show_default=False)
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A server that speaks the OpenAI protocol; by default the shipped reasoner's."
        ),
    ] = None,
) -> None:
    """Serve a proxy that stops thoughts in time, for clients that notice nothing but the tokens saved.

    Without a server, the shipped reasoner runs behind llama.cpp's own server, and without a policy one tuned on its log. Requests
    that a policy cannot keep to (several choices, ...) are handed on as they are, and counted.
    """
    imports.load()
    logging.basicConfig(handlers=[_json_lines()], level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if upstream is not None and policy is None and not proxy.policy_for:
        raise ValueError("POLICY: expected a directory, got none; the shipped policy is for the shipped reasoner alone")
    if proxy.proxy_key is not None and not os.environ.get(proxy.proxy_key):
        raise ValueError(f"--proxy-key: expected an environment variable that is set, got {proxy.proxy_key!r}")
    accounts = proxy.open_accounts()
    with talking(), _server(upstream, proxy) as (url, is_shipped):
        if is_shipped:
            from stopping.reasoner.vocabulary import TOKENS

            markup = replace(markup, candidate=[*markup.candidate, " yes"], answer_tokens=20)
            server = replace(server, top_log_probs=len(TOKENS))
        asyncio.run(_run(url, is_shipped, policy, server, markup, proxy, accounts))


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _listener(family: int, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _server(upstream: str | None, proxy: ProxyOptions) -> Iterator[tuple[str, bool]]:
    """Yield the server's address, and whether it is that of the shipped reasoner."""
    if upstream is not None:
        yield upstream, False
        return
    from stopping.adapters.llamacpp import LlamaServer
    from stopping.reasoner.gguf import save_gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reasoner.gguf"
        save_gguf("target", path)
        one = {"num_slots": proxy.slots, "num_threads": 1}  # the model is too small for more
        with LlamaServer(path, temperature=1.0, **one) as started:
            yield started.url, True


async def _run(
    url: str,
    is_shipped: bool,
    policy: Path | None,
    server: ServerOptions,
    markup: MarkupOptions,
    proxy: ProxyOptions,
    accounts: "Accounts | None",
) -> None:
    import uvicorn

    from stopping.adapters.proxy import build

    async with server.upstream(url) as upstream:
        serving = await _serving(upstream, is_shipped, policy, server, markup, proxy)
        settings = uvicorn.Config(
            build(serving, accounts), backlog=BACKLOG, log_config=None, access_log=False, timeout_graceful_shutdown=30
        )

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                """Ends in order on a signal, and does not raise it again."""
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
                yield

        with proxy.listeners() as listeners:
            running = Server(settings)
            task = asyncio.create_task(running.serve(listeners))
            while not running.started and not task.done():
                await asyncio.sleep(0.01)
            if running.started:
                host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
                _say(serving, f"http://{host}:{listeners[0].getsockname()[1]}", url)
            await task


async def _serving(
    upstream: Any,
    is_shipped: bool,
    policy: Path | None,
    server: ServerOptions,
    markup: MarkupOptions,
    proxy: ProxyOptions,
) -> "ProxyConfig":
    from stopping.adapters.proxy import ProxyConfig
    from stopping.adapters.server.capabilities import require_continuation
    from stopping.adapters.server.examination import examine
    from stopping.artifacts import load_policy
    from stopping.reasoner.names import SHIPPED as FOLDER

    capabilities = await examine(upstream, num_top=server.top_log_probs, measure=False)
    marks = await markup.markup(upstream, capabilities)
    if marks is None:
        require_continuation(capabilities, "a thought cannot be continued")
        raise ValueError("--close-tag: expected the tag that ends a thought, got none")
    if is_shipped:
        from stopping.reasoner.countdown import vote_key

        marks = replace(marks, answer_of=vote_key)
    serving = ProxyConfig(
        upstream, capabilities, marks,
        shadow=proxy.shadow, holdout=proxy.holdout, max_streams=proxy.max_streams,
        body_seconds=proxy.body_seconds, stall_seconds=proxy.stall_seconds,
        api_key=os.environ[proxy.proxy_key] if proxy.proxy_key else "",
        cap_tokens=CAP_TOKENS if is_shipped else proxy.max_tokens,
    )  # fmt: skip
    directories = {} if policy is None else {policy.resolve().name: policy}
    if policy is None and is_shipped:
        directories = {SHIPPED: FOLDER / "policy"}
    serving.default, models = next(iter(directories), ""), {}
    for text in proxy.policy_for:
        model, equals, given = text.partition("=")
        if not (model and equals and given):
            raise ValueError(f"--policy-for: expected MODEL=DIR, got {text!r}")
        models[model] = name = Path(given).resolve().name
        if directories.setdefault(name, Path(given)).resolve() != Path(given).resolve():
            raise ValueError(f"--policy-for: expected directories of different names, got {name!r} twice")
    for name, folder in directories.items():
        artifact = load_policy(folder)
        serving.add(name, artifact, every_tokens=proxy.every_tokens, watch=proxy.watch(artifact))
    serving.models = models
    return serving


def _say(serving: "ProxyConfig", address: str, url: str) -> None:
    console = Console(highlight=False)
    does = "notes what it would do, and changes nothing" if serving.shadow else "stops thoughts"
    for served in serving.policies.values():
        console.print(f"{served.artifact.policy} ({served.identity}) {does}.", markup=False)
    console.print(
        f"A stop whose answer takes more than {serving.markup.answer_tokens} tokens is put off (--answer-tokens).",
        markup=False,
    )
    console.print(f"Server: {url}. Listening on {address}/v1; counters at {address}/metrics.", markup=False)


def _json_lines() -> logging.Handler:
    """Return a handler that logs to stderr, in lines of JSON."""

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            line = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
            if record.exc_info:
                line["error"] = self.formatException(record.exc_info)
            return json.dumps(line, ensure_ascii=False)

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    return handler
