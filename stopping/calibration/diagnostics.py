"""Does the model describe the lengths? Each complete trace's rank in the law that the others of its problem predict."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import kstest

from stopping.models import LengthCorrectness
from stopping.traces import TraceLog


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

    The effect's law given the other traces follows by taking the trace's own precision out; without censoring this is
    exact. Wrong traces are ranked below the cap, where alone they can be complete; so are right ones.
    """
    judged = log.present & log.correct_known
    right = judged & log.correct
    wrong = judged & ~right & ~log.censored
    effect, effect_scale = (
        np.broadcast_to(np.asarray(values, float)[:, None], log.present.shape)
        for values in (model.effect, model.effect_scale)
    )
    pit = {}
    for name, mask, shift, scale in (
        ("right", right, 0.0, model.scale_right),
        ("wrong", wrong, model.shift, model.scale_wrong),
    ):
        y, width = np.log(np.maximum(log.length_tokens[mask], 1)), float(scale)
        precision, own = effect_scale[mask] ** -2.0, width**-2.0
        rest = np.maximum(precision - own, 1e-6 * precision)
        centre = (precision * effect[mask] - own * (y - float(shift))) / rest
        spread = np.sqrt(1 / rest + width**2)
        cap = ndtr((np.log(float(model.cap_tokens)) - centre - float(shift)) / spread)
        pit[name] = np.clip(ndtr((y - centre - float(shift)) / spread) / np.maximum(cap, 1e-12), 0, 1)
    tests = {name: kstest(values, "uniform") if values.size else (np.nan, np.nan) for name, values in pit.items()}
    return Diagnostics(
        pit["right"], pit["wrong"], *(float(tests[n][0]) for n in pit), *(float(tests[n][1]) for n in pit)
    )  # fmt: skip
