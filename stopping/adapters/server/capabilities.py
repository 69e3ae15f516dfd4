"""What a server can do for a policy."""

from dataclasses import dataclass
from typing import Any

from stopping.adapters.server.client import Upstream

MISSING_MASS = 1e-4  # of a distribution, that its most likely tokens may lack and still count as all of it

# What provides a capability that a server lacks.
WHAT_GIVES = {
    "log_probs": "logprobs, which llama.cpp and vLLM send by default, but not llama.cpp with a draft model",
    "num_top": "top log-probabilities; vLLM: --max-logprobs 20",
    "full_distribution": "the log-probabilities of all tokens: --top-log-probs of the vocabulary's size; vLLM: --max-logprobs -1",
    "token_ids": "ids of generated tokens; llama.cpp sends them with logprobs, vLLM by return_token_ids in its newer versions",
    "prompt_ids": "prompts of token ids at /v1/completions, as llama.cpp and vLLM take them",
    "tokenizer": "/tokenize, as llama.cpp and vLLM have it",
    "prefix_cache": "a cache of prompts; llama.cpp: --cache-prompt; vLLM: --enable-prefix-caching",
    "num_choices": "n in a request, as llama.cpp and vLLM take it",
    "control": "/v1/chat/completions/control; llama.cpp: --jinja, and a chat template that it knows to think",
    "usage": "stream_options.include_usage, as llama.cpp and vLLM take it",
    "idle_seconds": "llama.cpp: --slots or --metrics; vLLM: /metrics",
}


class Unsupported(RuntimeError):
    """The server lacks what the policy needs."""


@dataclass(frozen=True)
class Capabilities:
    """What a server can do.

    Attributes:
        model: the model's name on the server.
        log_probs: whether a stream has the log-probability of each sampled token.
        num_top: how many top log-probabilities it has for each token, of the `asked_top` requested; 0 for none.
        asked_top: how many were requested.
        full_distribution: whether these cover the whole vocabulary, so that the distribution's entropy is known.
        token_ids: whether a stream has the ids of generated tokens.
        prompt_ids: whether prompts may be token ids.
        tokenizer: `llama.cpp` or `vllm`, by the form of its `/tokenize`; empty if a conversation cannot be turned into ids.
        prefix_cache: whether a prompt prefix that was read before is cached.
        num_choices: whether `n` works.
        control: whether a thought can be closed by an order (`/v1/chat/completions/control`).
        usage: whether a stream ends with counts of tokens.
        num_slots: how many requests run at once, while others wait; None if the server does not say (llama.cpp does).
        context_tokens: the maximum length of a prompt and its answer together; None if the server does not say (llama.cpp and
            vLLM do).
        idle_seconds: the time from closing a stream until the server was idle; None if it does not show that, or was not.
        tokens_per_second: the speed of one stream without log-probabilities.
        log_probs_share, top_share: the fraction of that speed with log-probabilities of sampled tokens, and with the top ones;
            None if there are none.
        control_seconds, control_lag_tokens: the time from the order to close a thought to the reply, and the number of
            thought tokens after it; None without `control`.
    """

    model: str
    log_probs: bool = False
    num_top: int = 0
    asked_top: int = 0
    full_distribution: bool = False
    token_ids: bool = False
    prompt_ids: bool = False
    tokenizer: str = ""
    prefix_cache: bool = False
    num_choices: bool = False
    control: bool = False
    usage: bool = False
    num_slots: int | None = None
    context_tokens: int | None = None
    idle_seconds: float | None = None
    tokens_per_second: float | None = None
    log_probs_share: float | None = None
    top_share: float | None = None
    control_seconds: float | None = None
    control_lag_tokens: int | None = None

    @property
    def continues(self) -> bool:
        """Whether a thought can be continued from its token ids, so that answers can be forced."""
        return self.token_ids and self.prompt_ids and bool(self.tokenizer)


def require_continuation(capabilities: Capabilities, otherwise: str) -> None:
    """Check that a thought can be continued from its token ids; `otherwise` says what is impossible if not.

    Raises:
        Unsupported: naming what the server lacks, and what would provide it.
    """
    lacks = [name for name in ("token_ids", "prompt_ids", "tokenizer") if not getattr(capabilities, name)]
    if lacks:
        given = "; ".join(WHAT_GIVES[name] for name in lacks)
        raise Unsupported(f"{capabilities.model}: {otherwise}; the server lacks {given}")


async def tokens_of_text(upstream: Upstream, text: str, tokenizer: str, *, start: bool = True) -> list[int]:
    """Return the token ids of a text; with `start`, including the tokens that the model expects first.

    Raises:
        UpstreamError: if the server has no such tokeniser.
    """
    if tokenizer == "llama.cpp":
        body: dict[str, Any] = {"content": text, "add_special": start, "parse_special": True}
    else:
        body = {"model": upstream.model, "prompt": text, "add_special_tokens": start}
    found = await upstream.post("/tokenize", body)
    return [int(number) for number in found["tokens"]]


async def tokens_of_chat(upstream: Upstream, messages: list[dict[str, Any]], tokenizer: str) -> list[int]:
    """Return the token ids of a conversation, up to the model's answer.

    Raises:
        UpstreamError: if the server has no such tokeniser, or refuses the conversation.
    """
    if tokenizer == "llama.cpp":
        prompt = (await upstream.post("/apply-template", {"messages": messages}))["prompt"]
        return await tokens_of_text(upstream, prompt, tokenizer)
    body = {"model": upstream.model, "messages": messages, "add_generation_prompt": True}
    return [int(number) for number in (await upstream.post("/tokenize", body))["tokens"]]
