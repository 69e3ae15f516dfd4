"""Problems: what is decided. A problem draws worlds, plays policies through them, and bounds what can be reached."""

from stopping.problems.admission import PolicyMismatch, admit, as_pytree, stack
from stopping.problems.sampling import Sampling, SamplingOutcome, SamplingWorld

__all__ = ["PolicyMismatch", "Sampling", "SamplingOutcome", "SamplingWorld", "admit", "as_pytree", "stack"]
