"""Goodness of fit of lengths: each complete trace's rank in the distribution predicted by the others of its problem."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr, roots_hermitenorm
from scipy.stats import kstest

from stopping.models import LengthCorrectness
from stopping.models.normal_tails import upper_tail
from stopping.traces import TraceLog

NUM_EFFECT_NODES = 16


class Diagnostics(NamedTuple):
    """Probability integral transforms, which are uniform on [0, 1] if the model is right, and tests of uniformity.

    Attributes:
        pit_right, pit_wrong: one value for each complete trace.
        ks_right, ks_wrong: the Kolmogorov-Smirnov statistic.
        p_value_right, p_value_wrong: its p-value, NaN if the class is empty. It assumes independent traces and known
            parameters, so that it is a guide and not an exact test.
    """

    pit_right: np.ndarray
    pit_wrong: np.ndarray
    ks_right: float
    ks_wrong: float
    p_value_right: float
    p_value_wrong: float


def diagnose(model: LengthCorrectness, log: TraceLog) -> Diagnostics:
    """Return the rank of each complete trace of the log in the distribution that the other traces of its problem predict.

    The distribution of the effect given the other traces is found by one Newton step that removes the trace's gradient and
    precision; without a cap this is exact. Wrong traces are ranked given that they end below the cap, because only those
    are complete; right traces in their distribution truncated at the cap.
    """
    judged = log.present & log.correct_known
    right = judged & log.correct
    wrong = judged & ~right & ~log.censored
    log_cap = np.log(float(model.cap_tokens))
    below = upper_tail((model.effect - log_cap) / model.scale_right)  # by problem: logs of one size share one program
    effect, effect_scale, hazard, bend = (
        np.broadcast_to(np.asarray(values, float)[:, None], log.present.shape)
        for values in (model.effect, model.effect_scale, below.hazard, below.bend)
    )
    log_length = np.log(np.maximum(log.length_tokens, 1))

    def others(mask: np.ndarray, pull: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        precision = effect_scale[mask] ** -2.0
        rest = np.maximum(precision - own, 1e-6 * precision)
        return effect[mask] - pull / rest, rest**-0.5

    scale, y = float(model.scale_right), log_length[right]
    pull = (y - effect[right]) / scale**2 + hazard[right] / scale
    centre, spread = others(right, pull, (1 - bend[right]) / scale**2)
    z, weight = roots_hermitenorm(NUM_EFFECT_NODES)
    at = centre[:, None] + spread[:, None] * z
    rank = np.exp(log_ndtr((y[:, None] - at) / scale) - log_ndtr((log_cap - at) / scale))
    pit_right = np.clip(rank, 0, 1) @ (weight / weight.sum())

    scale, y = float(model.scale_wrong), log_length[wrong] - float(model.shift)
    centre, spread = others(wrong, (y - effect[wrong]) / scale**2, np.full(y.shape, scale**-2.0))
    width = np.hypot(spread, scale)
    cap = ndtr((log_cap - float(model.shift) - centre) / width)
    pit_wrong = np.clip(ndtr((y - centre) / width) / np.maximum(cap, 1e-12), 0, 1)
    tests = [kstest(values, "uniform") if values.size else (np.nan, np.nan) for values in (pit_right, pit_wrong)]
    (ks_right, p_value_right), (ks_wrong, p_value_wrong) = ((float(ks), float(p)) for ks, p in tests)
    return Diagnostics(pit_right, pit_wrong, ks_right, ks_wrong, p_value_right, p_value_wrong)
