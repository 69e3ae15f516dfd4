"""A tally of votes on any array backend: of answers with equally many votes, the one seen first leads."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Votes(NamedTuple):
    """The tally of a group's answers.

    Attributes:
        count: votes by label; int32 `[..., labels]`.
        first_seen: how many other labels had been seen before this one; int32 `[..., labels]`, `labels` if not seen.
        num_answers: int32 `[...]`.
    """

    count: Any
    first_seen: Any
    num_answers: Any


class Leader(NamedTuple):
    """The leading answer's label (0 before any answer), its votes and those of the runner-up; int32 `[...]`."""

    label: Any
    votes: Any
    runner_up_votes: Any


@dataclass(frozen=True)
class VoteTally:
    """Counts answers as they come, on any array backend.

    Attributes:
        labels: 0, 1, ..., one for each distinct answer; an integer array of the backend `[labels]`.
    """

    labels: Any

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> Votes:
        """Return an empty tally."""
        num_labels = self.labels.shape[0]
        shape = (*batch_shape, num_labels)
        return Votes(xp.full(shape, 0), xp.full(shape, num_labels), xp.full(batch_shape, 0))

    def step(self, xp: Any, votes: Votes, label: Any, answered: Any) -> tuple[Votes, Leader]:
        """Count an answer where `answered`; `label` int32 `[...]`, `answered` bool `[...]`."""
        num_labels = self.labels.shape[0]
        here = xp.logical_and(self.labels == label[..., None], answered[..., None])
        unseen = votes.first_seen == num_labels
        num_seen = xp.max(xp.where(unseen, 0, votes.first_seen + 1))
        count = xp.where(here, votes.count + 1, votes.count)
        first_seen = xp.where(xp.logical_and(here, unseen), num_seen[..., None], votes.first_seen)
        leader = xp.argmax(count * (num_labels + 1) - first_seen)  # first_seen <= num_labels: it only breaks ties
        others = xp.where(self.labels == leader[..., None], 0, count)
        votes = Votes(count, first_seen, xp.where(answered, votes.num_answers + 1, votes.num_answers))
        return votes, Leader(leader, xp.max(count), xp.max(others))
