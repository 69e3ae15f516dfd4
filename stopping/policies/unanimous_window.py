"""Early-stopping self-consistency."""

from typing import Any, NamedTuple

from stopping.policies.actions import LATEST, Action, Kind
from stopping.policies.policy import at_least, policy


class WindowState(NamedTuple):
    """The window being filled: answers in it, its first answer, and whether all agree so far; `[...]` each."""

    num_answers: Any
    first_answer: Any
    unanimous: Any


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
        return WindowState(xp.full(batch_shape, 0), xp.full(batch_shape, -1), xp.full(batch_shape, True))

    def step(self, xp: Any, state: WindowState, observation: Any) -> tuple[WindowState, Action]:
        """Add an answer that has come to the window, and look at the window when it is full."""
        came = observation.answer >= 0
        opens = xp.logical_and(came, state.num_answers == 0)
        first_answer = xp.where(opens, observation.answer, state.first_answer)
        agrees = xp.logical_or(xp.logical_not(came), observation.answer == first_answer)
        unanimous = xp.logical_and(agrees, xp.logical_or(opens, state.unanimous))
        num_answers = xp.where(came, state.num_answers + 1, state.num_answers)
        full = num_answers >= self.window_size
        stop = xp.logical_and(full, unanimous)
        state = WindowState(xp.where(full, 0, num_answers), first_answer, unanimous)
        return state, Action(stop, xp.where(stop, LATEST, 0))
