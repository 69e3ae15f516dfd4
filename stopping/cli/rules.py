"""Rules by name: `Margin(3)`, `VoteTable.adaptive_consistency(0.95, 8)`, a policy's directory, `module:Class(args)`."""

from pathlib import Path
from typing import Any

from stopping import policies
from stopping.cli.named import find
from stopping.policies import Policy
from stopping.traces import Reference

FORMS = "Margin(3), VoteTable.adaptive_consistency(0.95, 8), a policy's directory, or module:Class(args)"
LIBRARY = {
    name: value
    for name, value in vars(policies).items()
    if isinstance(value, type) and hasattr(value, "signals") and hasattr(value, "step")
}


def parse(text: str) -> Any:
    """Return the policy that a text names.

    Raises:
        ValueError: quoting the text and saying what is wrong with it; `ArtifactError` for a directory.
    """
    text = text.strip()
    if text and Path(text).is_dir():
        from stopping.artifacts import load_policy

        return load_policy(text).policy
    named = find(text, "rule", LIBRARY, FORMS)
    policy = named.make()
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise ValueError(
            f"{named.place}: expected a policy, got {type(policy).__name__}; decorate its class with policies.policy"
        )
    return policy


def reference_of(policy: Any) -> Reference:
    """Return a reference rule as logs and saved policies name it; `logged` for one that has no name there."""
    if isinstance(policy, policies.FixedSamples):
        return Reference.vote(policy.num_samples)
    return Reference("budget", policy.max_tokens) if isinstance(policy, policies.TokenBudget) else Reference("logged")
