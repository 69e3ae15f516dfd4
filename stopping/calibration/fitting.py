"""Fitting a model to a log: the entry points, and the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from sims import Estimate
from sims.plotted import Plotted
from stopping.calibration.diagnostics import Diagnostics
from stopping.traces import TraceLog


@dataclass(frozen=True, repr=False)
class Fit(Plotted):
    """A fitted model.

    Attributes:
        model: the model of the problems in the log, with one entry for each.
        population: the model of a new problem from the same population, with a single entry.
        standard_errors: of the parameters that problems share: `shift`, `scale_right`, `scale_wrong`, `logit_loop_prob`; of
            the distribution of effects, `centre`, `slope` (by share of wrong traces) and `spread`; of the distribution of
            chances, `logit_mean_chance` and `log_concentration_chance`; `no_answer_prob`; and of the distribution of wrong
            answers, `discount_answers` and `log_concentration_answers`.
        diagnostics: goodness of fit of the lengths.
        num_problems, num_traces: the size of the data that were fitted.
        num_unjudged: number of traces of unknown correctness, which were left out.
        num_steps: Newton steps of the fit of lengths.
        converged: False if the last step of a search, for lengths, chances or answers, was still large. The fit is then not
            reliable.
    """

    model: Any
    population: Any
    standard_errors: dict[str, float]
    diagnostics: Diagnostics
    num_problems: int
    num_traces: int
    num_unjudged: int
    num_steps: int
    converged: bool

    def __repr__(self) -> str:
        shown = [
            f"{name} {Estimate(float(getattr(self.model, name)), error, self.num_problems)}"
            for name, error in self.standard_errors.items()
            if hasattr(self.model, name)
        ]
        state = "converged" if self.converged else "NOT converged"
        return (
            f"Fit of {type(self.model).__name__} to {self.num_traces:,} traces of {self.num_problems:,} problems, {state} "
            f"in {self.num_steps} steps:\n  {', '.join(shown)}"
        )


def fit(model: Any, log: TraceLog, *, pooled: bool = False, float64: bool = False) -> Fit:
    """Fit a model of this kind to a log.

    Args:
        model: a model of the kind to fit: `LengthCorrectness()`.
        log: lengths and correctness; traces of unknown correctness are counted and left out.
        pooled: treat all traces as those of one problem, for comparison. Such a fit mistakes differences in difficulty
            between problems for a signal in the length of a trace.
        float64: fit in double precision.

    Raises:
        TypeError: for a model that has no fit.
        ValueError: if the log has no trace of known correctness.
    """
    return fit_all(model, [log], pooled=pooled, float64=float64)[0]


@singledispatch
def fit_all(model: Any, logs: Sequence[TraceLog], *, pooled: bool = False, float64: bool = False) -> list[Fit]:
    """Fit a model to each of several logs by one compiled program. Arguments and errors as in `fit`."""
    known = ", ".join(sorted(kind.__name__ for kind in fit_all.registry if kind is not object))
    raise TypeError(f"model: expected one of {known}, got {type(model).__name__}")


def require_judged(logs: Sequence[TraceLog]) -> None:
    """Refuse logs without a trace of known correctness."""
    for index, log in enumerate(logs):
        if not np.any(log.present & log.correct_known):
            raise ValueError(f"log {index}: expected traces of known correctness, got none; see stopping.check(log)")
