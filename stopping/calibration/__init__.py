"""A model from a log: likelihoods, the search for their maximum, and diagnostics; and certificates for rules."""

import stopping.calibration.length_correctness  # noqa: F401  (registers its fit)
from stopping.calibration.betting import problems_floor
from stopping.calibration.certification import Certificate, Certification, Grade, certify, order_by_risk
from stopping.calibration.diagnostics import Diagnostics, diagnose
from stopping.calibration.fit import Fit, fit, fit_all
from stopping.calibration.placebo import placebo
from stopping.calibration.planning import Plan, plan
from stopping.calibration.savings import Measured, Prediction, predict
from stopping.calibration.simplification import Simplification, simplify
from stopping.calibration.traffic import traffic
from stopping.calibration.tuning import Tested, Tuning, tune

__all__ = [
    "Certificate",
    "Certification",
    "Diagnostics",
    "Fit",
    "Grade",
    "Measured",
    "Plan",
    "Prediction",
    "Simplification",
    "Tested",
    "Tuning",
    "certify",
    "diagnose",
    "fit",
    "fit_all",
    "order_by_risk",
    "placebo",
    "plan",
    "predict",
    "problems_floor",
    "simplify",
    "traffic",
    "tune",
]
