"""What a policy may ask for at a decision point."""

from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    """What kind of action is asked for. Each problem lists the kinds that are legal in it."""

    CONTINUE = 0
    STOP = 1
    LAUNCH = 2
    PROBE = 3
    PRUNE = 4
    RESTART = 5
    ABSTAIN = 6
    SWITCH = 7


class Return(IntEnum):
    """Which answer a group of traces gives when it is stopped: the amount of a `STOP` in a sampling problem."""

    LEADER = 0  # the answer with most votes; of equals, the one seen first
    LATEST = 1  # the answer that has just come


# The same as plain integers: what array code compares and chooses between.
CONTINUE, STOP, LAUNCH, PROBE = int(Kind.CONTINUE), int(Kind.STOP), int(Kind.LAUNCH), int(Kind.PROBE)
LATEST = int(Return.LATEST)


class Action(NamedTuple):
    """An action for each row.

    Attributes:
        kind: a `Kind`; int8 `[...]`. `CONTINUE` is 0 and `STOP` is 1, so a boolean "stop" is a kind already.
        amount: samples to launch, tokens to draft, or a mode such as `Return`; int32 `[...]`, 0 where unused.
    """

    kind: Any
    amount: Any
