"""A user's own rule, as in a file of theirs."""

from typing import Any

from stopping.policies import Action, Kind, policy


@policy(signals=("num_answers", "leader_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class CliShare:
    """Stop once so many answers have come and the leader has a share of them."""

    least: int
    share: float = 0.5

    @classmethod
    def strict(cls, least: int) -> "CliShare":
        return cls(least, 0.9)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        enough = observation.num_answers >= self.least
        stop = xp.logical_and(enough, observation.leader_votes >= self.share * observation.num_answers)
        return state, Action(stop, 0)


NOT_A_RULE = dict
