"""The proxy on its own port, in a thread of this process."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from stopping.adapters.proxy import ProxyConfig, build
from stopping.adapters.proxy.accounts import Accounts
from stopping.adapters.server.client import Upstream
from stopping.artifacts import load_policy
from tests.stopping.adapters.live import CAP_TOKENS, EVERY_TOKENS, capabilities_of, marks_of


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    config: ProxyConfig
    http: httpx.Client
    _stop: Callable[[], None] = field(repr=False)

    def client(self, **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", **{"api_key": "x", "max_retries": 0, "timeout": 60.0} | settings
        )

    def counts(self, name: str) -> dict[str, float]:
        """Return the nonzero values of a counter by its only label."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        samples = [
            sample for family in families for sample in family.samples if sample.name == f"stopping_{name}_total"
        ]
        return {next(iter(sample.labels.values())): sample.value for sample in samples if sample.value}

    def stop(self) -> None:
        """Shut the proxy down, and wait until it has ended."""
        self._stop()


@contextmanager
def proxied(
    url: str,
    policies: Mapping[str, Path],
    *,
    accounts: Path | None = None,
    marks_from: str = "",
    timeout_seconds: float = 30.0,
    every_tokens: int = EVERY_TOKENS,
    marks: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Proxy]:
    """Run a proxy for a server; the first of the policies is the default.

    `marks_from` is another address of the same server, at which it is examined.
    """
    found: dict[str, Any] = {}
    is_up, failure = threading.Event(), []

    async def main() -> None:
        async with Upstream(marks_from or url) as upstream:
            capabilities = await capabilities_of(upstream)
            markup = await marks_of(upstream, capabilities, **(marks or {}))
        async with Upstream(url, capabilities.model, timeout_seconds=timeout_seconds) as upstream:
            given = {"holdout": 0.0, "cap_tokens": CAP_TOKENS, "default": next(iter(policies), "")} | settings
            config = ProxyConfig(upstream, capabilities, markup, **given)
            for name, path in policies.items():
                config.add(name, load_policy(path), every_tokens=every_tokens)
            app = build(config, None if accounts is None else Accounts(accounts))
            server = uvicorn.Server(
                uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=60)
            )
            task = asyncio.create_task(server.serve())
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            found.update(url=f"http://127.0.0.1:{port}", config=config, server=server)
            is_up.set()
            await task

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
            raise
        finally:
            is_up.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    is_up.wait()
    if failure:
        raise failure[0]

    def stop() -> None:
        found["server"].should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the proxy did not end"

    with httpx.Client(base_url=found["url"], timeout=60.0) as http:
        try:
            yield Proxy(found["url"], found["config"], http, stop)
        finally:
            stop()
