"""Early-stopping self-consistency."""

from typing import Any, NamedTuple

from stopping.policies.actions import Action, Kind
from stopping.policies.decisions import NO_ANSWER
from stopping.policies.protocol import at_least, policy


class WindowState(NamedTuple):
    """The window being filled.

    Attributes:
        num_agreeing: answers in it, all the same; once two differ, minus those still to come in it; int32 `[...]`.
        first_answer: its first one, as long as all are the same; int32 `[...]`.
    """

    num_agreeing: Any
    first_answer: Any


@policy(signals=("answer",), kinds=(Kind.CONTINUE, Kind.STOP))
class UnanimousWindow:
    """Take answers in windows of `window_size`; stop when all of one window agree and return that answer.

    Without such a window the answer is the one with most votes. The window's answer can differ from that.

    Reference: Li et al., Escape Sky-high Cost: Early-stopping Self-Consistency (ICLR 2024).
    """

    window_size: int

    def __post_init__(self) -> None:
        at_least(self, "window_size", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> WindowState:
        """Return the empty window."""
        return WindowState(xp.full(batch_shape, 0), xp.full(batch_shape, NO_ANSWER))

    def step(self, xp: Any, state: WindowState, observation: Any) -> tuple[WindowState, Action]:
        """Add an answer that has come to the window; the first that differs ends the counting until the next window."""
        answer = observation.answer
        came = answer >= 0
        first_answer = xp.where(state.num_agreeing > 0, state.first_answer, answer)
        differs = came * (answer != first_answer)
        num_agreeing = state.num_agreeing + came - differs * self.window_size
        stop = num_agreeing >= self.window_size
        return WindowState(num_agreeing, first_answer), Action(stop, stop)  # the amount: `LATEST` is 1
