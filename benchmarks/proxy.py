"""The proxy against a plain pass-through, before a fake server whose own time is negligible; then before llama.cpp.

Server, proxies and client are separate processes on all cores. They compete for cores, so the ratios hold for a machine with
some to spare. Tokens of the fake server contain the time at which they were sent.
"""

import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import Report, Row

LATENCY_TOKENS, LATENCY_SECONDS_PER_TOKEN = 512, 0.004
STREAM_TOKENS, STREAMS = 256, (64, 256)
REPEATS = 5
EVERY_TOKENS = 64
NUM_PROBLEMS = 64
BODY = {"model": "fake", "messages": [{"role": "user", "content": "any"}], "stream": True, "temperature": 0}
ALL_CORES = range(os.cpu_count() or 1)


def run() -> Report:
    """Latency and throughput before the fake server, cancelling and savings before llama.cpp."""
    rows: list[Row] = []
    reached: list[tuple[str, str, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        policies = _save_policies(Path(folder))
        with (
            _process(_fake) as fake,
            _process(_plain, fake) as plain,
            _process(_proxy, fake, policies["never"]) as ours,
        ):
            addresses = {"no proxy": fake, "plain pass-through": plain, "stopping": ours}
            added = _latency(addresses, rows)
            reached.append(("at most .3 ms more a token at one stream, median", f"{added:.3f} ms", added <= 0.3))
            for streams in STREAMS:
                share = _throughput(addresses, streams, rows)
                reached.append(
                    (f"at least .8 of the pass-through's at {streams} streams", f"{share:.2f}", share >= 0.8)
                )
        checks = _on_llama_cpp(Path(folder), policies, rows)
    return Report(
        title="The proxy",
        goal="at most .3 ms a token added at one stream, at least .8 of a plain pass-through's throughput at 64 and 256",
        unit="as each row says",
        rows=rows,
        reached=reached,
        checks=checks,
        notes=[
            f"A policy that never stops is asked every {EVERY_TOKENS} tokens; the fake server sends log-probabilities.",
            "Tokens and seconds on llama.cpp are of the shipped reasoner at temperature 1, one request a slot under way.",
        ],
    )


def _latency(addresses: dict[str, str], rows: list[Row]) -> float:
    """Milliseconds from the server's sending of a token to the client's having it; what ours adds to no proxy, by medians."""
    seen: dict[str, list[float]] = {name: [] for name in addresses}
    for _ in range(REPEATS):
        for name, address in addresses.items():
            seen[name] += asyncio.run(_delays(address))
    medians = {name: statistics.median(values) for name, values in seen.items()}
    for name, values in seen.items():
        rows.append(Row(f"{name}: milliseconds from sending a token to having it", min(values), medians[name]))
    return medians["stopping"] - medians["no proxy"]


async def _delays(address: str) -> list[float]:
    body = {**BODY, "max_tokens": LATENCY_TOKENS, "seed": round(LATENCY_SECONDS_PER_TOKEN * 1e6)}
    found = []
    async with (
        httpx.AsyncClient(base_url=address, timeout=60) as client,
        client.stream("POST", PATH, json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                now = time.monotonic_ns()
                delta = (json.loads(line[6:])["choices"] or [{}])[0].get("delta") or {}
                if text := delta.get("reasoning_content"):
                    found.append((now - int(text)) / 1e6)
    return found


def _throughput(addresses: dict[str, str], streams: int, rows: list[Row]) -> float:
    """Tokens a second that come through; what share of the pass-through's ours has, by the best of rounds taken in turn."""
    best: dict[str, list[float]] = {name: [] for name in addresses}
    for _ in range(REPEATS):
        for name, address in addresses.items():
            best[name].append(asyncio.run(_tokens_per_second(address, streams)))
    for name, values in best.items():
        micros = sorted(1e6 / value for value in values)
        rows.append(Row(f"{name}: microseconds a token, {streams} streams", micros[0], statistics.median(micros)))
    return max(best["stopping"]) / max(best["plain pass-through"])


async def _tokens_per_second(address: str, streams: int) -> float:
    body = {**BODY, "max_tokens": STREAM_TOKENS, "seed": 0}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)

    async def one(client: httpx.AsyncClient) -> int:
        async with client.stream("POST", PATH, json=body) as answer:
            return b"".join([part async for part in answer.aiter_raw()]).count(b'"reasoning_content"')

    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        start = time.perf_counter()
        came = await asyncio.gather(*(one(client) for _ in range(streams)))
        passed = time.perf_counter() - start
    assert sum(came) == streams * STREAM_TOKENS, f"expected {streams * STREAM_TOKENS} tokens, got {sum(came)}"
    return sum(came) / passed


def _on_llama_cpp(folder: Path, policies: dict[str, Path], rows: list[Row]) -> dict[str, float]:
    from stopping.adapters.llamacpp import LlamaServer
    from stopping.reasoner.gguf import save_gguf
    from stopping.reasoner.recording import Plan, draw_distinct

    save_gguf("target", path := folder / "reasoner.gguf")
    texts = [problem.prompt for problem in draw_distinct(Plan())[:NUM_PROBLEMS]]
    checks: dict[str, float] = {}
    for slots in (1, 4, 8):
        with LlamaServer(path, num_slots=slots, num_threads=1, temperature=1.0) as server:
            with _process(_proxy, server.url, *policies.values(), llama=True) as ours:
                asks = {
                    "direct": (server.url, {}, {}),
                    "direct, log-probabilities": (server.url, {"logprobs": True, "top_logprobs": 20}, {}),
                    **{name: (ours, {}, {"x-stopping-policy": name}) for name in policies},
                }
                for name, asked in asks.items():
                    seconds, tokens = asyncio.run(_answers(texts, slots, *asked))
                    rows.append(Row(f"llama.cpp, {slots} slots, {name}: milliseconds an answer", *[1e3 * seconds] * 2))
                    rows.append(Row(f"llama.cpp, {slots} slots, {name}: tokens an answer", tokens, tokens))
                if slots == 4:
                    for name, address in {"no proxy": server.url, "stopping": ours}.items():
                        idle = sorted(asyncio.run(_idle_milliseconds(address, server.url)) for _ in range(20))
                        rows.append(
                            Row(f"{name}: milliseconds from leaving to an idle slot", idle[0], statistics.median(idle))
                        )
                        checks[f"{name}: slots still busy a second after the last was left"] = float(idle[-1] > 1000)
    return checks


async def _answers(texts: list[str], slots: int, address: str, more: dict[str, Any], headers: dict[str, str]) -> Any:
    """Seconds and tokens an answer, so many requests under way at a time."""
    room = asyncio.Semaphore(slots)

    async def one(client: httpx.AsyncClient, index: int) -> int:
        messages = [{"role": "user", "content": texts[index]}]
        body = {"model": "reasoner", "messages": messages, "temperature": 1.0, "seed": index, "max_tokens": 480, **more}
        async with room:
            answer = (await client.post(PATH, json=body, headers=headers)).json()
        return int(answer["usage"]["completion_tokens"])

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        start = time.perf_counter()
        tokens = await asyncio.gather(*(one(client, index) for index in range(len(texts))))
        return (time.perf_counter() - start) / len(texts), sum(tokens) / len(texts)


async def _idle_milliseconds(address: str, server: str) -> float:
    body = {
        "model": "reasoner",
        "messages": [{"role": "user", "content": "2 3 4>24"}],
        "stream": True,
        "ignore_eos": True,
    }
    async with httpx.AsyncClient(timeout=60) as client:
        async with client.stream("POST", address + PATH, json={**body, "max_tokens": 480}) as answer:
            await anext(aiter(answer.aiter_raw()))
        start = time.perf_counter()
        while any(slot["is_processing"] for slot in (await client.get(f"{server}/slots")).json()):
            await asyncio.sleep(0)
        return 1e3 * (time.perf_counter() - start)


def _save_policies(folder: Path) -> dict[str, Path]:
    from stopping.artifacts import save_policy
    from stopping.policies import CloseTokenThreshold, TokenBudget

    made = {
        "never": TokenBudget(10**6),
        "budget of 96": TokenBudget(96),
        "closing tag": CloseTokenThreshold(-1.0, -12.0, 128),
    }
    return {name: save_policy(policy, folder / name) for name, policy in made.items()}


PATH = "/v1/chat/completions"


@contextmanager
def _process(target: Any, *arguments: Any, **named: Any) -> Iterator[str]:
    """A process on all cores that says where it listens, and ends with this block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_on_all_cores, args=(target, there, arguments, named), daemon=True)
    process.start()
    if not here.poll(60):
        raise RuntimeError(f"{target.__name__} did not start")
    yield here.recv()
    process.terminate()
    process.join()


def _on_all_cores(target: Any, there: Connection, arguments: Any, named: Any) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, ALL_CORES)
    asyncio.run(target(there, *arguments, **named))


async def _serve(app: Any, there: Connection) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    there.send(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    await task


async def _fake(there: Connection) -> None:
    """A server whose tokens cost it next to nothing; `seed` says how many microseconds each takes, and moves on with pieces."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    top = ",".join(f'{{"id":{7 + place},"token":"x","logprob":-{place}.5}}' for place in range(1))
    entry = f'{{"id":7,"token":"%s","bytes":[120],"logprob":-0.25,"top_logprobs":[{top}]}}'
    texts = f'{{"index":0,"text":"%s","logprobs":{{"content":[{entry}]}},"finish_reason":null}}'
    deltas = (
        f'{{"index":0,"delta":{{"reasoning_content":"%s"}},"logprobs":{{"content":[{entry}]}},"finish_reason":null}}'
    )
    head = 'data: {"id":"x","object":"chunk","created":0,"model":"fake","choices":[%s]}\n\n'

    async def complete(request: Request) -> StreamingResponse:
        body = await request.json()
        is_chat, number = request.url.path == PATH, int(body.get("max_tokens", 16))
        passed = len(body.get("prompt", ())) - 1
        seconds = max(int(body.get("seed") or 0) - (0 if is_chat else passed), 0) / 1e6
        chunk = head % (deltas if is_chat else texts)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(number):
                await asyncio.sleep(seconds)
                stamp = str(time.monotonic_ns()) if seconds else "x"
                yield (chunk % (stamp, stamp)).encode()
            end = head % '{"index":0,"delta":{},"text":"","finish_reason":"length"}'
            usage = f'{{"completion_tokens":{number},"prompt_tokens":{passed + 1}}}'
            yield (end + f'data: {{"id":"x","choices":[],"usage":{usage}}}\n\ndata: [DONE]\n\n').encode()

        return StreamingResponse(chunks(), media_type="text/event-stream")

    def document(content: Any) -> Any:
        async def answer(_: Request) -> JSONResponse:
            return JSONResponse(content)

        return answer

    tokens: dict[str, Any] = {"tokens": [3]}

    async def tokenize(request: Request) -> JSONResponse:
        text = (await request.json()).get("content")
        return JSONResponse({"tokens": [4]} if text == "</think>" else tokens)

    routes = [Route(path, complete, methods=["POST"]) for path in (PATH, "/v1/completions")]
    routes += [Route("/v1/models", document({"data": [{"id": "fake"}]}))]
    routes += [Route("/tokenize", tokenize, methods=["POST"])]
    routes += [Route("/apply-template", document({"prompt": "<think>"}), methods=["POST"])]
    await _serve(Starlette(routes=routes), there)


async def _plain(there: Connection, upstream: str) -> None:
    """Hands a request on and the answer back, and looks at neither."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=upstream, timeout=60, limits=limits) as client:

        async def hand_on(request: Request) -> StreamingResponse:
            sent = client.build_request(request.method, request.url.path, content=await request.body())
            answer = await client.send(sent, stream=True)

            async def parts() -> AsyncIterator[bytes]:
                try:
                    async for part in answer.aiter_raw():
                        yield part
                finally:
                    await answer.aclose()

            return StreamingResponse(parts(), answer.status_code, media_type="text/event-stream")

        await _serve(Starlette(routes=[Route("/{path:path}", hand_on, methods=["POST"])]), there)


async def _proxy(there: Connection, upstream: str, *policies: Path, llama: bool = False) -> None:
    """Ours, as `stopping serve` runs it."""
    from stopping.adapters.proxy import ProxyConfig, build
    from stopping.adapters.server.capabilities import Capabilities
    from stopping.adapters.server.client import Upstream
    from stopping.adapters.server.examination import examine
    from stopping.adapters.server.markup import read_markup
    from stopping.artifacts import load_policy

    async with Upstream(upstream) as client:
        can = {"log_probs": True, "num_top": 1, "token_ids": True, "prompt_ids": True, "tokenizer": "llama.cpp"}
        capabilities = await examine(client, measure=False) if llama else Capabilities("fake", **can)  # type: ignore[arg-type]
        serving = ProxyConfig(
            client, capabilities, await read_markup(client, capabilities), holdout=0.0, default=policies[0].name
        )
        for path in policies:
            serving.add(path.name, load_policy(path), every_tokens=32 if llama else EVERY_TOKENS)
        await _serve(build(serving), there)
