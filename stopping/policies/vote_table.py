"""Votes the leader needs, tabulated by the votes of the runner-up."""

from math import comb
from typing import Any, Self

import numpy as np

from stopping.policies.actions import Action, Kind
from stopping.policies.checks import whole_number
from stopping.policies.protocol import policy, short_name, table

CONFIDENCES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of Adaptive-Consistency's tables that are searched and named
MOST_NAMED = 64  # traces; finding the name of a longer table takes seconds


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class VoteTable:
    """Stop when the leader has at least `required_by_runner_up[b]` votes, b the votes of the runner-up.

    Attributes:
        required_by_runner_up: votes, int32 `[runner-up votes]`; a runner-up beyond the table never stops.
    """

    required_by_runner_up: np.ndarray

    def __post_init__(self) -> None:
        required = table(self, "required_by_runner_up", np.int32)
        if (required <= np.arange(required.size)).any():
            raise ValueError(
                "VoteTable.required_by_runner_up: expected more votes than the runner-up's in every entry, "
                f"got {required.tolist()}"
            )

    @classmethod
    def adaptive_consistency(cls, confidence: float = 0.95, max_samples: int = 40) -> Self:
        """Stop when P(theta > 1/2) >= confidence, theta ~ Beta(a + 1, b + 1), for a leader's and b runner-up's votes.

        P = 2^-(n+1) sum_{i<=a} C(n+1, i) with n = a + b, compared here in exact integers. The rule looks after every
        sample at one fixed level: `confidence` is not the confidence of the whole path.

        Reference: Aggarwal et al., Let's Sample Step by Step: Adaptive-Consistency (EMNLP 2023).

        Counts of more than `max_samples` answers, which never come, are entered as `max_samples + 1`.

        Raises:
            ValueError: if `confidence` is not in [1/2, 1), or `max_samples` not a whole number >= 1.
        """
        max_samples = whole_number("max_samples", max_samples, 1)
        if not 0.5 <= confidence < 1:
            raise ValueError(f"confidence: expected a number in [0.5, 1), got {confidence!r}")
        required, leader = [], 1
        for runner_up in range(max_samples // 2 + 1):
            leader = max(leader, runner_up + 1)
            while leader + runner_up <= max_samples and not _is_sure(leader, runner_up, confidence):
                leader += 1
            required.append(leader if leader + runner_up <= max_samples else max_samples + 1)
        return cls(np.array(required))

    @classmethod
    def cannot_be_caught(cls, num_traces: int) -> Self:
        """Stop when more than half of all `num_traces` agree: no later vote can change the answer.

        The answer is that of `FixedSamples(num_traces)`, always, whatever the rule for ties. (With the first seen
        winning ties, an even number and no runner-up, half would do.)
        """
        majority = whole_number("num_traces", num_traces, 1) // 2 + 1
        return cls(np.full(majority, majority))

    def __str__(self) -> str:
        """Return how it is made, `VoteTable.adaptive_consistency(0.95, 8)`, where it is one of those searched."""
        most = 2 * (len(self.required_by_runner_up) - 1)
        for num_traces in range(max(most, 1), most + 2):
            if self == VoteTable.cannot_be_caught(num_traces):
                return f"VoteTable.cannot_be_caught({num_traces})"
            for confidence in CONFIDENCES if num_traces <= MOST_NAMED else ():
                if self == VoteTable.adaptive_consistency(confidence, num_traces):
                    return f"VoteTable.adaptive_consistency({confidence}, {num_traces})"
        return short_name(self)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Look the leader's votes up against the runner-up's."""
        runner_up = xp.minimum(observation.runner_up_votes, len(self.required_by_runner_up) - 1)
        enough = observation.leader_votes >= xp.take(self.required_by_runner_up, runner_up)
        stop = xp.logical_and(enough, runner_up == observation.runner_up_votes)
        return state, Action(stop, 0)


def _is_sure(leader: int, runner_up: int, confidence: float) -> bool:
    num_trials = leader + runner_up + 1
    numerator, denominator = confidence.as_integer_ratio()
    return sum(comb(num_trials, i) for i in range(leader + 1)) * denominator >= numerator << num_trials
