"""Decision problems. A problem draws worlds, plays policies through them, and bounds the utility of any policy."""

from stopping.problems.admission import PolicyMismatch, admit, as_pytree, stack
from stopping.problems.problem import Component, Problem, Replayable
from stopping.problems.sampling import Sampling, SamplingOutcome, SamplingWorld
from stopping.problems.thinking import Thinking, ThinkingOutcome, ThinkingWorld

__all__ = [
    "Component",
    "PolicyMismatch",
    "Problem",
    "Replayable",
    "Sampling",
    "SamplingOutcome",
    "SamplingWorld",
    "Thinking",
    "ThinkingOutcome",
    "ThinkingWorld",
    "admit",
    "as_pytree",
    "stack",
]
