"""The kinds of decision: what each shows a policy, lets it do, and when it is asked."""

from stopping.policies.decisions.decision import (
    NO_ANSWER,
    Decision,
    MissingSignal,
    decision_of,
    decision_with,
    register,
    registered_decisions,
    require_signals,
)
from stopping.policies.decisions.sampling import SAMPLING, SamplingObservation
from stopping.policies.decisions.thinking import PROBED_SIGNALS, THINKING, ThinkingObservation

__all__ = [
    "NO_ANSWER",
    "PROBED_SIGNALS",
    "SAMPLING",
    "THINKING",
    "Decision",
    "MissingSignal",
    "SamplingObservation",
    "ThinkingObservation",
    "decision_of",
    "decision_with",
    "register",
    "registered_decisions",
    "require_signals",
]
