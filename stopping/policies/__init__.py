"""Policies: when to stop, as a server runs it. Array code for any backend; nothing here needs JAX."""

from stopping.policies.actions import Action, Kind, Return
from stopping.policies.answer_agreement import AnswerAgreement
from stopping.policies.binding import Bound, bind
from stopping.policies.candidate_stop import CandidateStop
from stopping.policies.close_token_threshold import CloseTokenThreshold
from stopping.policies.confidence_exit import ConfidenceExit
from stopping.policies.decisions import (
    NO_ANSWER,
    SAMPLING,
    THINKING,
    Decision,
    SamplingObservation,
    ThinkingObservation,
    decision_of,
)
from stopping.policies.entropy_slope import EntropySlope
from stopping.policies.exit_value import ExitValue, ProbedExitValue
from stopping.policies.first_finish import FirstFinish
from stopping.policies.fixed_samples import FixedSamples
from stopping.policies.margin import Margin
from stopping.policies.posterior_vote import PosteriorVote
from stopping.policies.protocol import Policy, parameters, policy, registered
from stopping.policies.token_budget import TokenBudget
from stopping.policies.unanimous_window import UnanimousWindow
from stopping.policies.vote_table import VoteTable
from stopping.policies.windowed_confidence import WindowedConfidence

__all__ = [
    "NO_ANSWER",
    "SAMPLING",
    "THINKING",
    "Action",
    "AnswerAgreement",
    "Bound",
    "CandidateStop",
    "CloseTokenThreshold",
    "ConfidenceExit",
    "Decision",
    "EntropySlope",
    "ExitValue",
    "FirstFinish",
    "FixedSamples",
    "Kind",
    "Margin",
    "Policy",
    "PosteriorVote",
    "ProbedExitValue",
    "Return",
    "SamplingObservation",
    "ThinkingObservation",
    "TokenBudget",
    "UnanimousWindow",
    "VoteTable",
    "WindowedConfidence",
    "bind",
    "decision_of",
    "parameters",
    "policy",
    "registered",
]
