"""Models: what is random in a trace."""

from stopping.models.answers import Answers
from stopping.models.length_correctness import LengthCorrectness, Traces

__all__ = ["Answers", "LengthCorrectness", "Traces"]
