"""A few of every policy, the last of each at ordinary parameters: what tests and benchmarks run on."""

import numpy as np

from stopping.policies.first_finish import FirstFinish
from stopping.policies.fixed_samples import FixedSamples
from stopping.policies.margin import Margin
from stopping.policies.policy import INT32_MAX
from stopping.policies.token_budget import TokenBudget
from stopping.policies.unanimous_window import UnanimousWindow
from stopping.policies.vote_table import VoteTable

EXAMPLES = (
    FirstFinish(),
    FirstFinish(3),
    FixedSamples(1),
    FixedSamples(16),
    Margin(1),
    Margin(3),
    TokenBudget(1),
    TokenBudget(INT32_MAX),
    TokenBudget(4096),
    UnanimousWindow(1),
    UnanimousWindow(3),
    VoteTable(np.array([2])),
    VoteTable.cannot_be_caught(9),
    VoteTable.adaptive_consistency(0.95, 40),
)
