"""A small log drawn from a model, as a file, and a way to run commands on it."""

from pathlib import Path

import jax

import sims
from stopping.models import Answers, LengthCorrectness
from stopping.problems import Sampling
from stopping.traces import save_log

NUM_PROBLEMS, NUM_SAMPLES = 120, 4
MODEL = dict(effect=7.5, effect_scale=0.4, shift=0.3, scale_right=0.3, scale_wrong=0.4, no_answer_prob=0.05)


def drawn_log(path: Path, num_problems: int = NUM_PROBLEMS) -> Path:
    """Write a log of this many problems, by our own names of columns."""
    model = LengthCorrectness(alpha=1.5, beta=1.0, cap_tokens=20_000, answers=Answers(0.1, 1.0), **MODEL)
    problem = Sampling(NUM_SAMPLES, model=model)
    save_log(problem.log(sims.draw(jax.random.key(3), problem, num_problems)), path)
    return path
