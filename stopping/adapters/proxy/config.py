"""What a proxy serves, and which requests it leaves alone."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stopping.adapters.proxy.watch import Watch
from stopping.adapters.server.capabilities import Capabilities
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.signals import require
from stopping.adapters.server.thinking import Thinker
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.artifacts import Artifact
from stopping.policies import Kind

# Settings of the sampling, which each piece of a thought is asked for with; `model` too, as the server may have several.
SETTINGS = {
    "model", "seed", "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "repeat_penalty", "repeat_last_n",
    "repetition_penalty", "ignore_eos", "cache_prompt",
}  # fmt: skip
# What says nothing about the sampling.
FORM = {
    "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "user", "metadata", "store",
    "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
}  # fmt: skip
# What a policed thought cannot keep to, with the values that ask for nothing.
UNPOLICED = {
    "tools": (None, []), "functions": (None, []), "tool_choice": (None, "none"), "response_format": (None, {"type": "text"}),
    "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "suffix": (None, ""), "stop": (None, [], ""),
    "logprobs": (None, False), "top_logprobs": (None,), "frequency_penalty": (None, 0), "presence_penalty": (None, 0),
    "logit_bias": (None, {}, []), "grammar": (None, ""), "json_schema": (None,), "audio": (None,),
    "modalities": (None, ["text"]), "prediction": (None,), "reasoning_effort": (None,), "reasoning_control": (None, False),
    "thinking_budget_tokens": (None, -1), "enable_thinking": (None, True), "chat_template_kwargs": (None, {}),
}  # fmt: skip
# Of these, what a server keeps to by itself while an order closes the thought (a client's own grammar may not allow the tag).
BY_ORDER = {
    "tools", "tool_choice", "response_format", "json_schema", "stop", "logprobs", "top_logprobs", "frequency_penalty",
    "presence_penalty",
}  # fmt: skip
NO_CAP = 2**31 - 1  # tokens: the server's context ends a trace before
OTHER = "other"  # a field that is not known here: whatever it asks for, the server may know
HEADER = "x-stopping-policy"  # a policy by its name, or `none`


@dataclass(frozen=True)
class ServedPolicy:
    """A policy that is served.

    Attributes:
        name: by which a request may ask for it.
        artifact: as loaded.
        every_tokens: between decision points.
        thinker: the policy on the server.
        watch: whether requests are still like its log; None where nobody looks.
    """

    name: str
    artifact: Artifact
    every_tokens: int
    thinker: Thinker
    watch: Watch | None = None

    def expected_saving(self, result: ThoughtResult) -> float | None:
        """Return how many tokens a stop saved, net, as the log has it that the policy was calibrated on.

        Of the traces there that were longer, the mean less what this one took; None where it was not stopped, or the policy does
        not say how long traces were, or none was longer.
        """
        lengths = (self.artifact.document.traffic or {}).get("length_tokens")
        if not result.stopped or lengths is None:
            return None
        longer = (values := lengths.array())[values > result.thought_tokens]
        return float(longer.mean()) - result.total_tokens if len(longer) else None

    @property
    def reads_log_probs(self) -> bool:
        """Whether the policy needs more of the tokens than their number."""
        return not {"elapsed_tokens"}.issuperset(self.artifact.policy.signals)

    @property
    def identity(self) -> str:
        """A name and the beginning of the digest: what logs say."""
        return f"{self.name}@{self.artifact.digest[:12]}"


@dataclass
class ProxyConfig:
    """All that a proxy needs.

    Attributes:
        upstream: the server.
        capabilities: of it.
        markup: of its model.
        policies: by name.
        default: the name of the policy for requests that name none, of models that have none of their own; empty for none.
        models: a policy's name for a model's. All models of the server must have the tokens and the template of the one that was
            examined.
        shadow: note what the policy would do, and do nothing.
        holdout: the share of requests that are never policed.
        api_key: that clients must send; empty for none.
        cap_tokens: of a trace whose request names none; None leaves its length to the server.
        reasoning_field: of a message, in which the server puts the thought.
        max_body_bytes, max_streams: limits.
        answer_seconds: to wait for an answer that is handed on and not streamed; the default is the official client's own.
        body_seconds: to wait for the whole body of a request, which is refused then.
        stall_seconds: to wait for a client that does not read its answer; its connection is cut then.
        rng: drawn for the holdout.
    """

    upstream: Upstream
    capabilities: Capabilities
    markup: Markup
    policies: dict[str, ServedPolicy] = field(default_factory=dict)
    default: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    shadow: bool = False
    holdout: float = 0.02
    api_key: str = ""
    cap_tokens: int | None = None
    reasoning_field: str = "reasoning_content"
    max_body_bytes: int = 8 * 2**20
    max_streams: int = 1024
    answer_seconds: float = 600.0
    body_seconds: float = 60.0
    stall_seconds: float = 60.0
    rng: random.Random = field(default_factory=random.SystemRandom)

    def __post_init__(self) -> None:
        """Check the share and the time limits.

        Raises:
            ValueError: unless `holdout` is in [0, 1] and the limits are above 0.
        """
        if not 0 <= self.holdout <= 1:
            raise ValueError(f"holdout: expected a share from 0 to 1, got {self.holdout}")
        for name in ("answer_seconds", "body_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a time above 0, got {getattr(self, name)}")

    def add(
        self, name: str, artifact: Artifact, *, every_tokens: int | None = None, watch: Watch | None = None
    ) -> None:
        """Serve a policy too, until its watch raises an alarm.

        Raises:
            MissingSignal, Unsupported, ValueError: if the server cannot give what it needs; nothing has been served then.
        """
        policy, said = artifact.policy, artifact.document.decision_points.interval_tokens
        require(policy, self.capabilities, self.markup)
        if (every := every_tokens or said) is None:
            raise ValueError(f"{name}: the policy does not say how many tokens lie between decision points; give it")
        thinker = Thinker(
            self.upstream, self.markup, policy, every_tokens=every, cap_tokens=self.cap_tokens or NO_CAP,
            num_top=self.capabilities.num_top if self.capabilities.log_probs else None,
            tokenizer=self.capabilities.tokenizer,
        )  # fmt: skip
        self.policies[name] = ServedPolicy(name, artifact, every, thinker, watch)

    def choose(self, body: Mapping[str, Any], named: str | None) -> tuple[ServedPolicy | None, str, bool]:
        """Return the policy of a request, or None and why there is none; and whether its thought is closed by order.

        Args:
            body: of the request.
            named: the policy that its header names.

        Returns:
            After an alarm of drift there is none: the thought then ends by itself. By order only what a thought in pieces cannot
            keep to, streamed, on a server with that hook, by a policy that does not probe; the rest of it is left alone.

        Raises:
            KeyError: if there is no policy of that name.
        """
        if named == "none":
            return None, "asked", False
        name = named or self.models.get(str(body.get("model")), self.default)
        served = self.policies[name] if name else None
        beyond = _beyond(body)
        by_order = bool(beyond) and served is not None and self._takes_orders(served, body, beyond)
        if served is None or (beyond and not by_order):
            return None, [*beyond, "no policy"][0], False
        if served.watch and served.watch.alarm:
            return None, "drift", False
        if not self.shadow and self.rng.random() < self.holdout:
            return served, "holdout", by_order
        return served, "", by_order

    def cap(self, body: Mapping[str, Any], prompt: list[int]) -> int:
        """Return the most tokens that a request allows and the server has room for.

        A prompt that leaves no room is the server's to refuse.

        Raises:
            ValueError: if what the request says is not a whole number from 1 on.
        """
        most, context = cap_of(body, self.cap_tokens), self.capabilities.context_tokens
        room = 0 if context is None else context - len(prompt)
        return min(most, room) if room > 0 else most

    def _takes_orders(self, served: ServedPolicy, body: Mapping[str, Any], beyond: list[str]) -> bool:
        """Whether the thought of a request that asks for such things can be closed by order."""
        is_followed = (
            body.get("stream") is True and "messages" in body and Kind.PROBE not in served.artifact.policy.kinds
        )
        return self.capabilities.control and BY_ORDER.issuperset(beyond) and is_followed


def settings_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the sampling in a request."""
    return {name: value for name, value in body.items() if name in SETTINGS and value is not None}


def _beyond(body: Mapping[str, Any]) -> list[str]:
    """What of a request a thought in pieces cannot keep to."""
    beyond = [
        name
        for name, nothing in UNPOLICED.items()
        if name in body and not any(body[name] == value for value in nothing)
    ]
    if body.keys() - UNPOLICED.keys() - SETTINGS - FORM:
        beyond.append(OTHER)
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        beyond.append("content")  # pictures, sound: more than tokens
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        beyond.append("prefill")
    return sorted(beyond, key=BY_ORDER.__contains__)  # first what not even an order helps


def cap_of(body: Mapping[str, Any], most: int | None) -> int:
    """Return the most tokens that a request allows; of one that names none, `most`, or as many as the server gives.

    Raises:
        ValueError: if what it says is not a whole number from 1 on.
    """
    said = body.get("max_completion_tokens")
    said = body.get("max_tokens") if said is None else said
    if said is None or said == -1:
        return most or NO_CAP
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise ValueError(f"max_tokens: expected a whole number >= 1, got {said!r}")
    return said
