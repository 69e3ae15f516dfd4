"""Native settings: what an engine already reads, in the place of a policy.

Engines have a budget of thinking tokens and a number of samples, and nothing that adapts: of our policies, these settings express
`TokenBudget` on one chain of thought and `FixedSamples`. `native_rule` returns that rule, or None for a thinking policy that has
to be replaced by a budget first; `settings` writes it for one engine. `stopping export` computes the loss of a replacement.

Names are those of llama.cpp (xllamacpp 2026.10.11549, run), vLLM 0.32 and SGLang 0.5.23 (their sources, not run) and
transformers 5.23.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from stopping.artifacts.loading import Artifact
from stopping.policies import FixedSamples, Policy, ThinkingObservation, TokenBudget

Target = Literal["llamacpp", "vllm", "sglang", "transformers"]
TARGETS: tuple[Target, ...] = get_args(Target)

_VOTE = "The client gets n answers and takes the most frequent one: no engine votes."
_EMPTY = "If what comes after the forced close is no answer, none is given: an engine does not think on."


@dataclass(frozen=True)
class LlamaCpp:
    """Settings of llama-server; a field that is None (or empty) is left as it is there.

    Attributes:
        thinking_budget_tokens: after so many tokens of thought the message and the closing tag are forced.
        reasoning_budget_message: said before the tag.
        n: answers to one request, each in a separate slot.
    """

    thinking_budget_tokens: int | None = None
    reasoning_budget_message: str = ""
    n: int | None = None

    fields_file: ClassVar[str] = "request.json"

    def arguments(self) -> tuple[str, ...]:
        """Return what goes on the server's command line: the budget of requests that name none."""
        given = {
            "--reasoning-budget": self.thinking_budget_tokens,
            "--reasoning-budget-message": self.reasoning_budget_message,
            "--parallel": self.n,  # fewer slots than answers are refused
        }
        return tuple(str(part) for pair in _given(given).items() for part in pair)

    def fields(self) -> dict[str, Any]:
        """Return what goes into a request, to `/v1/chat/completions`."""
        return _given(vars(self))

    def notes(self) -> tuple[str, ...]:
        """Return what to know before using them."""
        if self.n:
            return (_VOTE,)
        template = (
            "llama-server must take the chat template for one that thinks: it has to render `reasoning_content` of earlier "
            "answers between the tags."
        )
        return "The command line or the request's fields: either is enough.", template, _EMPTY


@dataclass(frozen=True)
class Vllm:
    """Settings of vLLM; a field that is None (or empty) is left as it is there.

    Attributes:
        thinking_token_budget: after so many tokens of thought the message and the closing tag are forced.
        reasoning_start_str, reasoning_end_str: the tags.
        message: said before the closing tag, as part of what vLLM calls `reasoning_end_str`.
        n: answers to one request.
    """

    thinking_token_budget: int | None = None
    reasoning_start_str: str = ""
    reasoning_end_str: str = ""
    message: str = ""
    n: int | None = None

    fields_file: ClassVar[str] = "request.json"

    def arguments(self) -> tuple[str, ...]:
        """Return what goes on the server's command line."""
        if self.thinking_token_budget is None:
            return ()
        end = self.message + self.reasoning_end_str
        tags = {"reasoning_start_str": self.reasoning_start_str, "reasoning_end_str": end}
        return "--reasoning-config", json.dumps(tags, ensure_ascii=False)

    def fields(self) -> dict[str, Any]:
        """Return what goes into every request, to `/v1/chat/completions`."""
        return _given({"thinking_token_budget": self.thinking_token_budget, "n": self.n})

    def notes(self) -> tuple[str, ...]:
        """Return what to know before using them."""
        if self.n:
            return (_VOTE,)
        both = "Both are needed, and the `--reasoning-parser` of your model: the budget goes into every request."
        closes = (
            "A thought that closes itself by the bare tag is not seen where a message is before it: the budget then cuts "
            "into the answer (vllm-project/vllm#53572)."
        )
        return (both, *((closes,) if self.message else ()), _EMPTY)


@dataclass(frozen=True)
class Sglang:
    """Settings of SGLang; a field that is None is left as it is there.

    Attributes:
        thinking_budget: after so many tokens of thought the closing tag is forced.
        n: answers to one request.
    """

    thinking_budget: int | None = None
    n: int | None = None

    fields_file: ClassVar[str] = "request.json"

    def arguments(self) -> tuple[str, ...]:
        """Return what goes on the server's command line."""
        return ("--enable-strict-thinking",) if self.thinking_budget else ()

    def fields(self) -> dict[str, Any]:
        """Return what goes into every request, to `/v1/chat/completions`."""
        custom = {"thinking_budget": self.thinking_budget} if self.thinking_budget else None
        return _given({"custom_params": custom, "n": self.n})

    def notes(self) -> tuple[str, ...]:
        """Return what to know before using them."""
        if self.n:
            return (_VOTE,)
        both = (
            "Both are needed, and the `--reasoning-parser` of your model, from which the tags are taken: the budget goes into "
            "every request, and without the flag is ignored in silence."
        )
        return both, _EMPTY


@dataclass(frozen=True)
class Transformers:
    """Settings of transformers: keys of `generation_config.json`, or arguments of `generate`.

    Attributes:
        num_return_sequences: samples of one prompt.
    """

    num_return_sequences: int

    fields_file: ClassVar[str] = "generation_config.json"

    def arguments(self) -> tuple[str, ...]:
        """Return nothing: there is no server."""
        return ()

    def fields(self) -> dict[str, Any]:
        """Return the keys of the configuration."""
        return {"do_sample": True, "num_return_sequences": self.num_return_sequences}

    def notes(self) -> tuple[str, ...]:
        """Return what to know before using them."""
        return ("Add these keys to the model's own `generation_config.json`.", _VOTE)


Settings = LlamaCpp | Vllm | Sglang | Transformers


def native_rule(artifact: Artifact) -> TokenBudget | FixedSamples | None:
    """Return the rule an engine can follow that decides as the policy does; None for a thinking policy that no engine can.

    A budget is moved to where it takes effect: to the decision point at which the policy would have stopped, and past the lag.

    Raises:
        ValueError: for a policy on samples that is not `FixedSamples`: no engine stops samples by a rule.
    """
    policy, document = artifact.policy, artifact.document
    if isinstance(policy, FixedSamples):
        return policy
    if document.observation != ThinkingObservation.__name__:
        raise ValueError(
            f"{document.kind}: no engine stops samples by a rule; FixedSamples(n) alone has a name there, n. Run the policy with "
            "stopping.adapters.server.sampling.Sampler or stopping.adapters.huggingface.sample, or export the fixed number that "
            "stopping compare puts beside it"
        )
    if not isinstance(policy, TokenBudget):
        return None
    interval = document.decision_points.interval_tokens or 1
    decided = _next_multiple(policy.max_tokens, interval)
    return TokenBudget(_next_multiple(decided + document.lag_tokens, interval))


def settings(
    rule: Policy,
    target: Target,
    *,
    message: str = "",
    open_tag: str = "<think>",
    close_tag: str = "</think>",
) -> Settings:
    """Write a rule for one engine.

    Args:
        rule: what `native_rule` returned, or the fixed rule in the place of a policy.
        target: the engine.
        message: said before a thought is closed; that of the probes, where the log's had one.
        open_tag: before a thought; vLLM needs it.
        close_tag: after it.

    Raises:
        ValueError: for a rule or an engine we do not know, or an engine without what the rule needs: which, and what to use
            instead.
    """
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    if isinstance(rule, FixedSamples):
        if message:
            raise ValueError("message: said before a thought is closed; a number of samples closes none")
        number = rule.num_samples
        if target == "transformers":
            return Transformers(number)
        return {"llamacpp": LlamaCpp, "vllm": Vllm, "sglang": Sglang}[target](n=number)
    if not isinstance(rule, TokenBudget):
        raise ValueError(f"{rule}: engines have a budget of thinking tokens and a number of samples, and no such rule")
    budget = rule.max_tokens
    if target == "llamacpp":
        return LlamaCpp(budget, message)
    if target == "vllm":
        return Vllm(budget, open_tag, close_tag, message)
    if target == "sglang":
        if message:
            raise ValueError(
                "message: SGLang closes a thought by its tag alone; without one, or run stopping serve before it"
            )
        return Sglang(budget)
    raise ValueError(
        "transformers: has no thinking budget (max_new_tokens cuts the answer off); nothing is lost by running the policy "
        "itself, with stopping.adapters.huggingface"
    )


def files(settings: Settings) -> dict[str, str]:
    """Return the text of each file: `arguments.txt`, one shell-quoted line, and the fields as JSON."""
    texts = {"arguments.txt": f"{shlex.join(settings.arguments())}\n"} if settings.arguments() else {}
    return texts | {settings.fields_file: json.dumps(settings.fields(), indent=2, ensure_ascii=False) + "\n"}


def _next_multiple(number: int, interval: int) -> int:
    return -(-number // interval) * interval


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}
