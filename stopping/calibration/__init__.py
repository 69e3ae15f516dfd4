"""Models fitted to logs: likelihoods, their maximisation, and diagnostics."""

import stopping.calibration.length_correctness  # noqa: F401  (registers its fit)
from stopping.calibration.diagnostics import Diagnostics, diagnose
from stopping.calibration.fitting import Fit, fit, fit_all

__all__ = ["Diagnostics", "Fit", "diagnose", "fit", "fit_all"]
