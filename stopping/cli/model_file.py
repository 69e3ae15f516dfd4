"""Conversion between a model and its parameters in plain numbers."""

import math
from typing import Any

import numpy as np

from stopping.cli.output import ModelParameters, WrongAnswers
from stopping.models import Answers, LengthCorrectness

_PER_PROBLEM = ("alpha", "beta", "effect", "effect_scale")
_SHARED = ("shift", "scale_right", "scale_wrong", "loop_prob", "no_answer_prob")


def to_parameters(model: LengthCorrectness) -> ModelParameters:
    """Return a model's parameters; a float32 or float64 comes back as it was."""
    cap = float(model.cap_tokens)
    values: dict[str, Any] = {name: np.asarray(getattr(model, name)).tolist() for name in (*_PER_PROBLEM, *_SHARED)}
    answers = WrongAnswers(discount=float(model.answers.discount), concentration=float(model.answers.concentration))
    return ModelParameters(**values, cap_tokens=cap if math.isfinite(cap) else None, answers=answers)


def to_model(parameters: ModelParameters) -> LengthCorrectness:
    """Return the model, in JAX's precision of the moment."""
    values: dict[str, Any] = {name: np.array(getattr(parameters, name)) for name in (*_PER_PROBLEM, *_SHARED)}
    cap = math.inf if parameters.cap_tokens is None else parameters.cap_tokens
    answers = parameters.answers
    return LengthCorrectness(**values, cap_tokens=cap, answers=Answers(answers.discount, answers.concentration))
