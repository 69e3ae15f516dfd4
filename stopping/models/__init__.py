"""Models: what is random in a trace."""

from stopping.models.answers import NO_ANSWER, Answers
from stopping.models.length_correctness import LengthCorrectness, Traces

__all__ = ["NO_ANSWER", "Answers", "LengthCorrectness", "Traces"]
