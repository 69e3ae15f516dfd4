"""Certified rules from a log: certificates, choice, measurement, planning, and substitution by a fixed rule."""

from stopping.tuning.betting import mean_interval, problems_floor
from stopping.tuning.certification import Certificate, Certification, Grade, certify, order_by_risk
from stopping.tuning.measurement import Measured, Prediction, predict
from stopping.tuning.permutation import placebo
from stopping.tuning.planning import Plan, plan
from stopping.tuning.played import Played, play
from stopping.tuning.substitution import Substitution, substitute
from stopping.tuning.traffic_sample import traffic
from stopping.tuning.tuning import Tested, Tuning, tune

__all__ = [
    "Certificate",
    "Certification",
    "Grade",
    "Measured",
    "Plan",
    "Played",
    "Prediction",
    "Substitution",
    "Tested",
    "Tuning",
    "certify",
    "mean_interval",
    "order_by_risk",
    "placebo",
    "plan",
    "play",
    "predict",
    "problems_floor",
    "substitute",
    "traffic",
    "tune",
]
