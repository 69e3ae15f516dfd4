"""What is no parameter of a model is refused where it is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stopping.models import Answers, LengthCorrectness


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": [1.0, 0.0]}, "alpha: expected a positive number, got 0"),
        ({"beta": np.nan}, "beta: expected a positive number, got nan"),
        ({"effect": np.inf}, "effect: expected a number, got inf"),
        ({"effect_scale": -0.1}, "effect_scale: expected 0 or more, got -0.1"),
        ({"scale_right": -1.0}, "scale_right: expected a positive number, got -1"),
        ({"loop_prob": 2.0}, "loop_prob: expected a probability, got 2"),
        ({"no_answer_prob": np.nan}, "no_answer_prob: expected a probability, got nan"),
        ({"cap_tokens": 0.0}, "cap_tokens: expected 1 token or more, infinity for no cap, got 0"),
    ],
)
def test_parameters_out_of_range(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LengthCorrectness(**parameters)


@pytest.mark.parametrize("parameters", [(1.5, -3.0), (1.0, 1.0), (0.2, -0.2), (-1.0, 2.5), (-1.0, 0.0), (np.nan, 1.0)])
def test_parameters_of_answers_that_are_refused(parameters: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"discount, concentration: expected discount in .0, 1. and .*, got"):
        Answers(*parameters)


@pytest.mark.parametrize("parameters", [(0.0, 1.0), (0.9, -0.8), (0.3, 50.0), (-1.0, 3.0), (-0.37, 0.37), (-4.2, 50.4)])
def test_parameters_of_answers(parameters: tuple[float, float]) -> None:
    answers = Answers(*parameters)
    np.testing.assert_allclose([answers.discount, answers.concentration], parameters, rtol=1e-6)


def test_inside_a_compiled_function_values_are_not_known() -> None:
    scale = jax.jit(lambda scale: LengthCorrectness(scale_right=scale).scale_right)(jnp.float32(-1.0))
    assert scale == -1
