"""Models: the distributions of lengths, correctness and answers."""

from stopping.models.answer_chain import AnswerChain
from stopping.models.answers import Answers
from stopping.models.length_correctness import LengthCorrectness, Traces

__all__ = ["AnswerChain", "Answers", "LengthCorrectness", "Traces"]
