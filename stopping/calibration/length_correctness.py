"""The fit of `LengthCorrectness`: chances, lengths and answers have separate likelihoods, and are fitted separately."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import expit

from stopping.calibration.answer_distribution import AnswersFit, fit_answers
from stopping.calibration.diagnostics import diagnose
from stopping.calibration.fitting import Fit, fit_all, require_judged
from stopping.calibration.length_likelihood import share_wrong
from stopping.calibration.lengths import LengthFit, fit_lengths
from stopping.calibration.success import SuccessFit, fit_success
from stopping.calibration.sufficient_statistics import Statistics, cap_of, stack, statistics
from stopping.models import LengthCorrectness
from stopping.traces import TraceLog


class Estimates(NamedTuple):
    """The three parts of the fit, each with a leading axis over data sets."""

    success: SuccessFit
    lengths: LengthFit
    answers: AnswersFit


@jax.jit
def estimate(data: Statistics) -> Estimates:
    """Return the fits of several data sets, which are on a leading axis of all statistics."""
    return jax.vmap(lambda one: Estimates(fit_success(one), fit_lengths(one), fit_answers(one)))(data)


@fit_all.register
def _(model: LengthCorrectness, logs: Sequence[TraceLog], *, pooled: bool = False, float64: bool = False) -> list[Fit]:
    require_judged(logs)
    parts = [statistics(log, pooled=pooled) for log in logs]
    with jax.enable_x64(True) if float64 else nullcontext():
        data = jax.tree.map(lambda array: jnp.asarray(array, float), stack(parts))
        estimates = jax.device_get(estimate(data))
        return [
            _assemble(jax.tree.map(lambda values: values[i], estimates), part, log)  # noqa: B023
            for i, (part, log) in enumerate(zip(parts, logs, strict=True))
        ]


def _assemble(estimates: Estimates, part: Statistics, log: TraceLog) -> Fit:
    success, lengths, answers = estimates
    num_problems = part.num_right.shape[0]
    num_not_right = part.num_wrong + part.num_censored.sum(axis=1)
    num_wrong = max(float(part.num_wrong.sum()), 1.0)
    silent = float(part.num_silent) / num_wrong
    towards_half = (silent * num_wrong + 0.5) / (num_wrong + 1)  # without this, none in a few would have error 0
    shared = lengths.shared

    def build(alpha: Array, beta: Array, effect: Array, effect_scale: Array) -> LengthCorrectness:
        return LengthCorrectness(
            alpha, beta, effect, effect_scale,
            shift=shared.shift,
            scale_right=float(np.exp(shared.log_scale_right)),
            scale_wrong=float(np.exp(shared.log_scale_wrong)),
            loop_prob=float(expit(shared.logit_loop)) if np.isfinite(cap_of(log)) else 0.0,  # without censored traces, none loops
            no_answer_prob=silent,
            cap_tokens=cap_of(log),
            answers=answers.answers,
        )  # fmt: skip

    model = build(
        success.alpha + part.num_right, success.beta + num_not_right,
        lengths.effect[:num_problems], lengths.effect_scale[:num_problems],
    )  # fmt: skip
    errors = {
        "shift": lengths.shared_error.shift,
        "scale_right": lengths.shared_error.log_scale_right * model.scale_right,
        "scale_wrong": lengths.shared_error.log_scale_wrong * model.scale_wrong,
        "logit_loop_prob": lengths.shared_error.logit_loop,
        "centre": lengths.shared_error.centre,
        "slope": lengths.shared_error.slope,
        "spread": lengths.shared_error.log_spread * np.exp(shared.log_spread),
        "logit_mean_chance": success.logit_mean_error,
        "log_concentration_chance": success.log_concentration_error,
        "no_answer_prob": np.sqrt(towards_half * (1 - towards_half) / num_wrong),
        "discount_answers": answers.discount_error,
        "log_concentration_answers": answers.log_concentration_error,
    }
    share = np.asarray(share_wrong(part))
    centre = shared.centre + shared.slope * share.mean()
    spread = np.sqrt(np.exp(2 * shared.log_spread) + shared.slope**2 * share.var())
    unjudged = int((log.present & ~log.correct_known).sum())
    return Fit(
        model=model,
        population=build(success.alpha, success.beta, centre, spread),
        standard_errors={name: float(error) for name, error in errors.items()},
        diagnostics=diagnose(model, log),
        num_problems=log.num_problems,
        num_traces=log.num_traces - unjudged,
        num_unjudged=unjudged,
        num_steps=int(lengths.num_steps),
        converged=bool(lengths.converged & success.converged & answers.converged),
    )
