"""Settled votes: rules that stop only when no later vote can change the answer."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from stopping.policies import Kind, Return, bind


def never_changes_the_vote(policy: Any, num_traces: int) -> bool:
    """Return whether a rule always returns the answer that has most votes when all `num_traces` have ended.

    Ties go to the answer seen first. With votes a of the leader and b of the runner-up, at most n - a - b more come. They
    can change the answer if one comes at all and

        b >= 1 and n - a >= a    the runner-up draws level, and may have been seen first
        b = 0  and n - a > a     a new answer needs one vote more than the leader

    Traces without an answer only leave fewer votes to come. A rule without memory that reads a and b alone is asked at every
    possible pair; for any other rule the result is False.
    """
    kinds, signals = {Kind.CONTINUE, Kind.STOP}, {"leader_votes", "runner_up_votes"}
    if not (set(policy.kinds) <= kinds and set(policy.signals) <= signals):
        return False
    bound = bind(policy, "numpy")
    leader, runner_up = np.indices((num_traces + 1, num_traces // 2 + 1), dtype=np.int32).reshape(2, -1)
    there = (leader >= np.maximum(runner_up, 1)) & (leader + runner_up <= num_traces)
    leader, runner_up = leader[there], runner_up[there]
    state = bound.init(leader.shape)
    if state != ():
        return False
    left = num_traces - leader - runner_up
    open_still = (left > 0) & (num_traces - leader >= leader + (runner_up == 0))
    _, action = bound.step(state, SimpleNamespace(leader_votes=leader, runner_up_votes=runner_up))
    kind, amount = (np.broadcast_to(part, leader.shape) for part in action)
    stops = kind == Kind.STOP.value
    return not (stops & (open_still | (amount != Return.LEADER.value))).any()
