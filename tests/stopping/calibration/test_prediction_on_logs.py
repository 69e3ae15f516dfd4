"""The model earns its place on real logs: fitted on four samples of each problem, it predicts rules on the other four.

Over the 12 logs (6 models x AIME, GPQA) and all 70 ways to halve 8 samples: accuracy of the first finisher of 4, and of the
vote of 4, predicted and observed, averaged over halves. Errors are by bootstrap over problems, and carry what each half of
a real log has by chance: the noise floor is the error of predicting one half by what is observed on the other.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from stopping.calibration import Fit, fit_all
from stopping.makespan import first_finish_curve, majority_curve
from stopping.models import LengthCorrectness
from stopping.traces import TraceLog
from tests.shared import art_of_tts, needs_art_of_tts

HALVES = list(itertools.combinations(range(8), 4))  # the complement of the i-th is the i-th from the end
NUM_RESAMPLES = 2000
RULES = ("first finish@4", "majority@4")


class Row(NamedTuple):
    """One rule on one log; accuracies and their differences, averaged over problems and halves."""

    cell: str
    rule: str
    observed: float
    predicted: float
    pooled: float
    error: float  # of the difference of prediction and observation, by bootstrap over problems
    floor: float  # root mean square over halves of the difference between the two halves' observed accuracies
    miss: float  # the same of prediction and observation
    effect: float  # of the rule, over a single trace
    effect_error: float
    predicted_effect: float

    @property
    def difference(self) -> float:
        return self.predicted - self.observed


def observed(log: TraceLog) -> np.ndarray:
    """Each problem's accuracy under the two rules, ties broken at random; `[problems, 2]`."""
    rows, num_samples = np.arange(log.num_problems), log.num_samples
    first = np.where(log.answered, log.length_tokens, np.iinfo(np.int32).max).argmin(axis=1)
    finished = (log.correct & log.answered)[rows, first]
    votes = (log.answer[:, :, None] == np.arange(num_samples)).sum(axis=1)
    most = votes.max(axis=1)
    right_votes = (log.correct & log.answered).sum(axis=1)
    leads = np.where((right_votes == most) & (most > 0), 1 / (votes == most[:, None]).sum(axis=1), 0.0)
    return np.stack([finished, leads], axis=1)


def predicted(fits: Sequence[Fit]) -> np.ndarray:
    """The same by the model; `[fits, problems, 2]`."""
    curves = [[curve(one.model, (4,)).accuracy[:, 0] for curve in (first_finish_curve, majority_curve)] for one in fits]
    return np.moveaxis(np.array(curves), 1, 2)


def bootstrap_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first axis."""
    resampled = np.random.default_rng(0).integers(0, len(values), (NUM_RESAMPLES, len(values)))
    return values[resampled].mean(axis=1).std(axis=0)


def rows_of(cell: str, log: TraceLog) -> list[Row]:
    halves = [log.take_samples(samples) for samples in HALVES]
    fits = fit_all(LengthCorrectness(), halves)
    # where more than half of the traces are cut, the likelihood has no clear maximum, and the search says so
    assert all(one.converged for one in fits) or log.censored.mean() > 0.5
    by_model = predicted(fits)
    by_pooling = predicted(fit_all(LengthCorrectness(), halves, pooled=True))
    own = np.array([observed(half) for half in halves])
    other, single = own[::-1], np.array([half.correct.mean(axis=1) for half in halves])
    miss = (by_model - other).mean(axis=0)
    effect = (other - single[::-1, :, None]).mean(axis=0)
    root_mean_square = lambda values: np.sqrt((values.mean(axis=1) ** 2).mean(axis=0))  # noqa: E731
    columns = (
        other.mean(axis=(0, 1)), by_model.mean(axis=(0, 1)), by_pooling.mean(axis=(0, 1)), bootstrap_error(miss),
        root_mean_square(own - other), root_mean_square(by_model - other), effect.mean(axis=0), bootstrap_error(effect),
        (by_model - single[:, :, None]).mean(axis=(0, 1)),
    )  # fmt: skip
    return [Row(cell, rule, *(float(column[i]) for column in columns)) for i, rule in enumerate(RULES)]


def table(rows: Sequence[Row]) -> str:
    head = (
        "cell                 rule             obs  pred  pool |   diff  error     z |  miss floor | effect error  pred"
    )
    lines = [
        f"{r.cell:20} {r.rule:14} {r.observed:5.3f} {r.predicted:5.3f} {r.pooled:5.3f} | {r.difference:+6.3f} {r.error:6.3f} "
        f"{r.difference / r.error:+5.2f} | {r.miss:5.3f} {r.floor:5.3f} | {r.effect:+6.3f} {r.effect_error:5.3f} "
        f"{r.predicted_effect:+6.3f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


@needs_art_of_tts
@pytest.mark.slow
def test_predictions_on_held_out_samples() -> None:
    rows = [row for (model, kind), log in art_of_tts().items() for row in rows_of(f"{model} {kind}", log)]
    print("\n" + table(rows))
    squares = []
    for rule in RULES:
        of_rule = [row for row in rows if row.rule == rule]
        error = np.mean([abs(row.difference) for row in of_rule])
        pooled_error = np.mean([abs(row.pooled - row.observed) for row in of_rule])
        square = np.mean([(row.difference / row.error) ** 2 for row in of_rule])
        miss, floor = (np.mean([getattr(row, name) for row in of_rule]) for name in ("miss", "floor"))
        print(
            f"{rule}: mean squared standardised error {square:.2f}; mean absolute error {error:.4f}, "
            f"pooled {pooled_error:.4f}; by halves {miss:.4f}, noise floor {floor:.4f}"
        )
        squares.append(square)
        assert error < pooled_error
    assert np.mean(squares) <= 1.5
    for row in rows:
        if abs(row.effect) > 2 * row.effect_error:
            assert np.sign(row.predicted_effect) == np.sign(row.effect), row
