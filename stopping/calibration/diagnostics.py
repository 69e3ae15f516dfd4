"""Does the model describe the lengths? Each complete trace's rank in the law that the others of its problem predict."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr, roots_hermitenorm
from scipy.stats import kstest

from stopping.models import LengthCorrectness
from stopping.models.normal_tails import upper_tail
from stopping.traces import TraceLog

NUM_EFFECT_NODES = 16


class Diagnostics(NamedTuple):
    """Probability integral transforms, uniform on [0, 1] if the model is right, and Kolmogorov-Smirnov tests of that.

    Attributes:
        pit_right, pit_wrong: one value a complete trace.
        ks_right, ks_wrong: the statistic; its p-value assumes independent traces and known parameters, so it is a
            guide, not a test at its level.
        p_value_right, p_value_wrong: NaN where the class is empty.
    """

    pit_right: np.ndarray
    pit_wrong: np.ndarray
    ks_right: float
    ks_wrong: float
    p_value_right: float
    p_value_wrong: float


def diagnose(model: LengthCorrectness, log: TraceLog) -> Diagnostics:
    """Rank each complete trace of the log under the model of its own problem without it.

    The effect's law given the other traces follows by taking the trace's own pull and precision out, one Newton step;
    without a cap this is exact. Wrong traces are ranked below the cap, where alone they can be complete; right ones in
    their law truncated there.
    """
    judged = log.present & log.correct_known
    right = judged & log.correct
    wrong = judged & ~right & ~log.censored
    log_cap = np.log(float(model.cap_tokens))
    below = upper_tail((model.effect - log_cap) / model.scale_right)  # by problem: logs of one size share its programs
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
