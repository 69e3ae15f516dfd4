"""What a proxy serves, and which requests it forwards unchanged."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stopping.adapters.proxy.watch import Watch
from stopping.adapters.server.capabilities import Capabilities
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_settings import NO_CAP, ThoughtSettings
from stopping.artifacts import Artifact
from stopping.artifacts.loading import policy_and_interval
from stopping.policies import Kind

# Sampling parameters, sent with each piece of a thought; with `model`, as the server may have several.
SAMPLING_PARAMETERS = {
    "model", "seed", "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "repeat_penalty", "repeat_last_n",
    "repetition_penalty", "ignore_eos", "cache_prompt",
}  # fmt: skip
# Fields that do not concern the sampling.
FORM = {
    "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "user", "metadata", "store",
    "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
}  # fmt: skip
# Fields that a thought in pieces does not support, with their values that request nothing.
UNPOLICED = {
    "tools": (None, []), "functions": (None, []), "tool_choice": (None, "none"), "response_format": (None, {"type": "text"}),
    "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "suffix": (None, ""), "stop": (None, [], ""),
    "logprobs": (None, False), "top_logprobs": (None,), "frequency_penalty": (None, 0), "presence_penalty": (None, 0),
    "logit_bias": (None, {}, []), "grammar": (None, ""), "json_schema": (None,), "audio": (None,),
    "modalities": (None, ["text"]), "prediction": (None,), "reasoning_effort": (None,), "reasoning_control": (None, False),
    "thinking_budget_tokens": (None, -1), "enable_thinking": (None, True), "chat_template_kwargs": (None, {}),
}  # fmt: skip
# Those of them that a server handles itself while an order closes the thought (a client's own grammar may not allow the tag).
BY_ORDER = {
    "tools", "tool_choice", "response_format", "json_schema", "stop", "logprobs", "top_logprobs", "frequency_penalty",
    "presence_penalty",
}  # fmt: skip

OTHER = "other"  # an unknown field, which the server may know
HEADER = "x-stopping-policy"  # the name of a policy, or `none`


@dataclass(frozen=True)
class ServedPolicy:
    """A policy that a proxy serves.

    Attributes:
        name: its name in requests.
        artifact: its artifact.
        settings: the settings of its thoughts.
        watch: the drift test of its traffic; None without a test.
    """

    name: str
    artifact: Artifact
    settings: ThoughtSettings
    watch: Watch | None = None

    def expected_saving(self, result: ThoughtResult) -> float | None:
        """Return the expected net number of tokens saved by a stop, from the log that the policy was calibrated on.

        It is the mean length of the longer traces in the log, less the tokens of this one. It is None if this one was not
        stopped, if the policy has no lengths of traces, or if none was longer.
        """
        lengths = (self.artifact.document.traffic or {}).get("length_tokens")
        if not result.stopped or lengths is None:
            return None
        longer = (values := lengths.array())[values > result.thought_tokens]
        return float(longer.mean()) - result.total_tokens if len(longer) else None

    @property
    def reads_log_probs(self) -> bool:
        """Whether the policy reads more than the number of tokens."""
        return not {"elapsed_tokens"}.issuperset(self.artifact.policy.signals)

    @property
    def identity(self) -> str:
        """The name and the beginning of the digest, as in logs."""
        return f"{self.name}@{self.artifact.digest[:12]}"


@dataclass
class ProxyConfig:
    """The configuration of a proxy.

    Attributes:
        upstream: the server.
        capabilities: its capabilities.
        markup: its model's markup.
        policies: the policies, by name.
        default: the name of the policy for requests that name none, if their model has none; empty for none.
        models: names of policies by the name of a model. All models must have the tokens and the template of the one examined.
        shadow: whether to note what the policy would do without doing it.
        holdout: the share of requests that are never stopped.
        api_key: the key that clients must send; empty for none.
        cap_tokens: the cap on a trace if the request has none; None leaves it to the server.
        reasoning_field: the field of a message that holds the thought.
        max_body_bytes, max_streams: limits.
        answer_seconds: how long to wait for a forwarded answer that is not streamed; the default is that of the official client.
        body_seconds: the time limit for the body of a request.
        stall_seconds: how long to wait for a client that does not read its answer.
        rng: draws the holdout.
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
        """Check the holdout and the time limits.

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
        """Add a policy, which is used until its drift test raises an alarm.

        Raises:
            MissingSignal, Unsupported, ValueError: if the server does not provide what the policy needs.
        """
        policy, every_tokens = policy_and_interval(artifact, every_tokens)
        limits: dict[str, Any] = {"every_tokens": every_tokens, "cap_tokens": self.cap_tokens or NO_CAP}
        settings = ThoughtSettings.of(self.upstream, self.capabilities, self.markup, policy, **limits)
        self.policies[name] = ServedPolicy(name, artifact, settings, watch)

    def choose(self, body: Mapping[str, Any], named: str | None) -> tuple[ServedPolicy | None, str, bool]:
        """Return the policy of a request, or None with the reason, and whether its thought is closed by an order.

        There is no policy after a drift alarm. Orders are used only for requests that pieces do not support, if they are
        streamed, the server accepts orders, and the policy does not probe.

        Args:
            body: the body of the request.
            named: the policy's name in the header.

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
        """Return the maximum length of a trace that the request allows and the server has room for.

        A prompt that leaves no room is left for the server to refuse.

        Raises:
            ValueError: if the request's limit is not a whole number >= 1.
        """
        most, context = cap_of(body, self.cap_tokens), self.capabilities.context_tokens
        room = 0 if context is None else context - len(prompt)
        return min(most, room) if room > 0 else most

    def _takes_orders(self, served: ServedPolicy, body: Mapping[str, Any], beyond: list[str]) -> bool:
        """Whether the thought of a request with such fields can be closed by an order."""
        is_followed = (
            body.get("stream") is True and "messages" in body and Kind.PROBE not in served.artifact.policy.kinds
        )
        return self.capabilities.control and BY_ORDER.issuperset(beyond) and is_followed


def sampling_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters of a request."""
    return {name: value for name, value in body.items() if name in SAMPLING_PARAMETERS and value is not None}


def _beyond(body: Mapping[str, Any]) -> list[str]:
    """The fields of a request that a thought in pieces does not support."""
    beyond = [
        name
        for name, nothing in UNPOLICED.items()
        if name in body and not any(body[name] == value for value in nothing)
    ]
    if body.keys() - UNPOLICED.keys() - SAMPLING_PARAMETERS - FORM:
        beyond.append(OTHER)
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        beyond.append("content")  # images, audio
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        beyond.append("prefill")
    return sorted(beyond, key=BY_ORDER.__contains__)  # first those that orders do not support either


def cap_of(body: Mapping[str, Any], most: int | None) -> int:
    """Return the maximum length of a trace in a request; without one, `most`, or no cap.

    Raises:
        ValueError: if it is not a whole number >= 1.
    """
    said = body.get("max_completion_tokens")
    said = body.get("max_tokens") if said is None else said
    if said is None or said == -1:
        return most or NO_CAP
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        raise ValueError(f"max_tokens: expected a whole number >= 1, got {said!r}")
    return said
