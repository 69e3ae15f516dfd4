"""What tests of a running model share: its problems, its markup, and policies that stop some thoughts but not all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from stopping.adapters.server.capabilities import Capabilities, tokens_of_text
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.examination import examine, is_idle
from stopping.adapters.server.markup import Markup, read_markup
from stopping.adapters.server.thought_settings import ThoughtSettings
from stopping.policies import (
    AnswerAgreement,
    CandidateStop,
    CloseTokenThreshold,
    ConfidenceExit,
    ExitValue,
    TokenBudget,
)
from stopping.policies.examples import EXAMPLES
from stopping.reasoner.countdown import vote_key
from stopping.reasoner.recording import Plan, draw_distinct

EVERY_TOKENS, CAP_TOKENS = 32, 480
NEVER = TokenBudget(10**6)
POLICIES = (
    TokenBudget(96),
    ConfidenceExit(-0.1, 64),
    AnswerAgreement(2, 32),
    CloseTokenThreshold(-1.0, -12.0, 128),
    CandidateStop(1),
    next(policy for policy in reversed(EXAMPLES) if isinstance(policy, ExitValue)),
)


def questions(number: int) -> list[str]:
    """Return held-out problems, as the model reads them."""
    return [problem.prompt for problem in draw_distinct(replace(Plan(), num_problems=number))]


async def capabilities_of(upstream: Upstream) -> Capabilities:
    return await examine(upstream, num_top=32, measure=False)


async def marks_of(upstream: Upstream, capabilities: Capabilities, **others: Any) -> Markup:
    marks = {"candidates": [" yes"], "answer_tokens": 20, "answer_of": vote_key} | others
    return await read_markup(upstream, capabilities, **marks)


@asynccontextmanager
async def settings_of(
    url: str,
    policy: Any,
    *,
    every_tokens: int = EVERY_TOKENS,
    cap_tokens: int = CAP_TOKENS,
    **marks: Any,
) -> AsyncIterator[ThoughtSettings]:
    async with Upstream(url) as upstream:
        found = Capabilities(upstream.model, tokenizer="llama.cpp", token_ids=True, prompt_ids=True, num_top=32)
        markup = await marks_of(upstream, found, **marks)
        yield ThoughtSettings(upstream, markup, policy, every_tokens, cap_tokens, num_top=32)


async def prompt_of(settings: ThoughtSettings, text: str) -> list[int]:
    """Return the token ids of a problem followed by the opening tag, or of a text that already has a tag."""
    text = text if "<" in text else text + "<think>"
    return await tokens_of_text(settings.upstream, text, "llama.cpp")


def with_settings(url: str, policy: Any, ask: Callable[[ThoughtSettings], Awaitable[Any]], **options: Any) -> Any:
    """Return what `ask` returns for the settings of a policy."""

    async def run() -> Any:
        async with settings_of(url, policy, **options) as settings:
            return await ask(settings)

    return asyncio.run(run())


async def wait_until_idle(upstream: Upstream, seconds: float = 5.0) -> None:
    """Raise unless the server is soon idle."""
    async with asyncio.timeout(seconds):
        while not await is_idle(upstream):
            await asyncio.sleep(0.005)


def counter(url: str, name: str) -> float:
    """Return one of the server's own counters."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"llamacpp:{name} "))
