"""A few examples of every policy, for tests and benchmarks; the last of each has ordinary parameters."""

import numpy as np

from stopping.policies.answer_agreement import AnswerAgreement
from stopping.policies.candidate_stop import CandidateStop
from stopping.policies.checks import INT32_MAX
from stopping.policies.close_token_threshold import CloseTokenThreshold
from stopping.policies.confidence_exit import ConfidenceExit
from stopping.policies.entropy_slope import EntropySlope
from stopping.policies.exit_value import ExitValue, ProbedExitValue
from stopping.policies.first_finish import FirstFinish
from stopping.policies.fixed_samples import FixedSamples
from stopping.policies.margin import Margin
from stopping.policies.posterior_vote import PosteriorVote
from stopping.policies.token_budget import TokenBudget
from stopping.policies.unanimous_window import UnanimousWindow
from stopping.policies.vote_table import VoteTable
from stopping.policies.windowed_confidence import WindowedConfidence

_COUNTS = np.arange(17)
_LOG_FACTORIALS = np.cumsum(np.log(np.maximum(_COUNTS, 1)))


def _posterior_vote(threshold: float, least_hope: float) -> PosteriorVote:
    """Return a rule for 16 traces; wrong answers agree by the Ewens distribution, concentration 1."""
    return PosteriorVote(
        threshold=threshold,
        least_hope=least_hope,
        effects=np.array([7.5, 8.0, 8.5]),
        chances=np.array([0.2, 0.8]),
        log_prior=np.log([[0.1, 0.2], [0.2, 0.2], [0.2, 0.1]]),
        right_below_cap=np.array([1.0, 0.99, 0.9]),
        log_right_to_wrong=np.array([0.5, 0.51, 0.6]),
        shift=0.3,
        scale_right=0.4,
        scale_wrong=0.6,
        loop_prob=0.1,
        cap_tokens=8192,
        log_kinds=0.0 * _COUNTS,
        log_wrong_answers=-_LOG_FACTORIALS,
        log_copies=_LOG_FACTORIALS[np.maximum(_COUNTS - 1, 0)],
    )


def _exit_value(first: float) -> ExitValue:
    """Return a rule for thoughts of some 200 tokens: stop early where the model is surprised, late where it is nearly done."""
    quadratic = np.triu(np.linspace(-0.1, 0.1, 36).reshape(6, 6))
    quadratic[0, 0] = first
    return ExitValue(0.001, np.array([160.0, -15.0, -0.2, 0.2, 0.3]), np.array([90.0, 4.0, 0.1, 0.05, 0.6]), quadratic)


def _probed_exit_value(interval_tokens: int) -> ProbedExitValue:
    """Return the same rule with two features of the probes, which have no products with the others."""
    free = _exit_value(-0.05)
    quadratic = np.zeros((8, 8))
    quadratic[:6, :6], quadratic[0, 6], quadratic[6, 6], quadratic[0, 7] = free.quadratic, 0.2, 0.03, 0.1
    centre, scale = np.append(free.centre, [-0.2, 1.5]), np.append(free.scale, [0.1, 1.0])
    return ProbedExitValue(0.001, interval_tokens, centre, scale, quadratic)


EXAMPLES = (
    AnswerAgreement(1, 1),
    AnswerAgreement(3, 64),
    CandidateStop(1),
    CandidateStop(3),
    CloseTokenThreshold(-0.5, -9.0, 256),
    ConfidenceExit(-0.5, 1),
    ConfidenceExit(-0.05, 64),
    EntropySlope(0.25, 1, 1),
    EntropySlope(0.01, 2, 64),
    _exit_value(0.0),
    _exit_value(-0.05),
    FirstFinish(),
    FirstFinish(3),
    FixedSamples(1),
    FixedSamples(16),
    Margin(1),
    Margin(3),
    _posterior_vote(1.0, 0.05),
    _posterior_vote(0.9, 0.0),
    _probed_exit_value(1),
    _probed_exit_value(64),
    TokenBudget(1),
    TokenBudget(INT32_MAX),
    TokenBudget(4096),
    UnanimousWindow(1),
    UnanimousWindow(3),
    VoteTable(np.array([2])),
    VoteTable.cannot_be_caught(9),
    VoteTable.adaptive_consistency(0.95, 40),
    WindowedConfidence(-1.5, 0),
    WindowedConfidence(-0.75, 128),
)
