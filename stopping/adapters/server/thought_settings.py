"""The settings that all thoughts under one policy on one server share."""

from dataclasses import dataclass
from typing import Any

from stopping.adapters.server.capabilities import Capabilities
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.signals import require

NO_CAP = 2**31 - 1  # tokens: the server's context ends a trace before


@dataclass(frozen=True)
class ThoughtSettings:
    """A policy for the thoughts of one server.

    Attributes:
        upstream: the server's client.
        markup: the model's markup.
        policy: a policy that reads `ThinkingObservation`; None to let every thought end by itself.
        every_tokens: the number of tokens between decision points.
        cap_tokens: the maximum length of a trace.
        num_top: how many top log-probabilities to request with each token where the policy needs them; None to request no
            log-probabilities at all, for servers that refuse them.
        tokenizer: the server's tokeniser, as in `Capabilities`.
    """

    upstream: Upstream
    markup: Markup
    policy: Any
    every_tokens: int
    cap_tokens: int
    num_top: int | None = 20
    tokenizer: str = "llama.cpp"

    @classmethod
    def of(
        cls,
        upstream: Upstream,
        capabilities: Capabilities,
        markup: Markup,
        policy: Any,
        *,
        every_tokens: int | None,
        cap_tokens: int = NO_CAP,
    ) -> "ThoughtSettings":
        """Return the settings of a policy, after checking that the server provides what it needs.

        Raises:
            MissingSignal, Unsupported: naming what the policy needs and the server lacks.
            ValueError: if the policy is not for thinking, or `every_tokens` is None.
        """
        require(policy, capabilities, markup)
        if every_tokens is None:
            raise ValueError(
                f"every_tokens: {type(policy).__name__} does not say how many tokens lie between decision points; "
                "expected a number"
            )
        num_top = capabilities.num_top if capabilities.log_probs else None
        return cls(upstream, markup, policy, every_tokens, cap_tokens, num_top, capabilities.tokenizer)

    @property
    def peeks(self) -> bool:
        """Whether the policy reads the distribution of the next token."""
        return self.policy is not None and "log_close_prob" in self.policy.signals

    @property
    def asked_top(self) -> int | None:
        """How many top log-probabilities are requested with each token: 0 if the policy does not need them."""
        reads_top = self.peeks or (self.policy is not None and "mean_entropy" in self.policy.signals)
        return self.num_top if reads_top or self.num_top is None else 0
