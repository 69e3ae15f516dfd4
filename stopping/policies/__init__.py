"""Policies: when to stop, as a server runs it. Array code for any backend; nothing here needs JAX."""

from stopping.policies.actions import Action, Kind, Return
from stopping.policies.binding import Bound, bind
from stopping.policies.first_finish import FirstFinish
from stopping.policies.fixed_samples import FixedSamples
from stopping.policies.margin import Margin
from stopping.policies.policy import Policy, parameters, policy, registered
from stopping.policies.posterior_vote import PosteriorVote
from stopping.policies.signals import NO_ANSWER, SamplingObservation
from stopping.policies.token_budget import TokenBudget
from stopping.policies.unanimous_window import UnanimousWindow
from stopping.policies.vote_table import VoteTable

__all__ = [
    "NO_ANSWER",
    "Action",
    "Bound",
    "FirstFinish",
    "FixedSamples",
    "Kind",
    "Margin",
    "Policy",
    "PosteriorVote",
    "Return",
    "SamplingObservation",
    "TokenBudget",
    "UnanimousWindow",
    "VoteTable",
    "bind",
    "parameters",
    "policy",
    "registered",
]
