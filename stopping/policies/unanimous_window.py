"""Early-stopping self-consistency."""

from typing import Any, NamedTuple

from stopping.policies.actions import Action, Kind
from stopping.policies.policy import at_least, policy


class WindowState(NamedTuple):
    """The window being filled: answers in it, how many of them equal its first one, and that one; `[...]` each."""

    num_answers: Any
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
        return WindowState(xp.full(batch_shape, 0), xp.full(batch_shape, 0), xp.full(batch_shape, -1))

    def step(self, xp: Any, state: WindowState, observation: Any) -> tuple[WindowState, Action]:
        """Add an answer that has come to the window, and look at the window when it is full."""
        answer = observation.answer
        came = answer >= 0
        first_answer = xp.where(state.num_answers > 0, state.first_answer, answer)
        num_answers = state.num_answers + came
        num_agreeing = state.num_agreeing + came * (answer == first_answer)
        stop = num_agreeing >= self.window_size
        not_full = num_answers < self.window_size
        state = WindowState(num_answers * not_full, num_agreeing * not_full, first_answer)
        return state, Action(stop, stop)  # the amount: `LATEST` is 1
