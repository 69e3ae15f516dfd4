"""Stop when the leading answer is right with high probability, or waiting is unlikely to help, given votes and lengths.

The policy carries a table of problems: `effects` J of how long a problem's traces are (log tokens), `chances` P of a
right answer, and the probability of each pair before anything is seen. Given the pair (effect e, chance p), log-lengths
are normal about e for right traces and about e + shift for wrong ones, as in `stopping.models.LengthCorrectness`. The
hypothesis h says which of the answers seen is the right one, if any; a of n ended traces gave it, and r traces run, all
for t tokens. Its weight is

    V(h)  sum over e and p of  prior(e, p)  p^a (1 - p)^(n - a)  (p S1(t) + (1 - p) S0(t))^r
                               product of f1(length) over its a traces  and of f0(length) over the others

with f1, f0 the densities of length, S1, S0 the chances still to run, and V(h) the Ewens-Pitman probability of the
partition of the wrong answers, in which the block of h is left out: from its Gibbs form, two look-ups. The chance that the
next trace is right is p S1(t) / (p S1(t) + (1 - p) S0(t)) where one runs, and p where the next has not started
(`theory_notes/04_posterior_vote.md`).
"""

from typing import Any, NamedTuple

import numpy as np

from stopping.policies.actions import Action, Kind
from stopping.policies.checks import INT32_MAX, whole_number
from stopping.policies.normal_tail import MOST, normal_tail
from stopping.policies.protocol import policy, table

SMALLEST = 1e-35  # of a probability whose logarithm is taken


class VoteState(NamedTuple):
    """What is known of the traces that have ended; labels are one more than there can be answers.

    Attributes:
        count: votes by label; int32 `[..., labels]`.
        first_seen: how many other labels had been seen before this one; int32 `[..., labels]`, `labels` if not seen.
        log_ratio: of each label's traces, log-likelihood of their lengths if right less that if wrong, by the
            problem's effect; float `[..., labels, effects]`.
        log_wrong: log-likelihood of all lengths if all are wrong; float `[..., effects]`.
        num_ended: int32 `[...]`.
        wave_start: tokens on the clock when the traces that run were started; int32 `[...]`.
    """

    count: Any
    first_seen: Any
    log_ratio: Any
    log_wrong: Any
    num_ended: Any
    wave_start: Any


@policy(
    signals=("num_launched", "num_running", "answer", "elapsed_tokens"),
    kinds=(Kind.CONTINUE, Kind.STOP),
)
class PosteriorVote:
    """Stop when the leading answer is right with probability `threshold`, or there is too little hope of a better one.

    Hope is P(the leading answer is wrong, and the next trace gives the right one). Both probabilities are given the votes
    of all answers, the lengths of the traces that have ended and the ages of those that run.

    It must be asked at the ends of traces alone. Traces that run must have been started together, when nothing ran: all at
    once, or in waves, as `CONTINUE` starts them. After a wave that has not settled the vote it continues, and the next one
    starts. `stopping.solvers.posterior_vote` makes one from a model, for a number of traces; more traces count as that many.

    Attributes:
        threshold: of P(the leading answer is right), in [0, 1].
        least_hope: in [0, 1]; 0 never gives up.
        effects: log tokens, float32 `[effects]`.
        chances: of a right answer, float32 `[chances]`.
        log_prior: log-probability of each effect and chance; float32 `[effects, chances]`.
        right_below_cap: P(a length drawn for a right trace is below the cap), by effect; float32 `[effects]`.
        log_right_to_wrong: the part of log f1 - log f0 that does not depend on the length, by effect; float32 `[effects]`.
        shift, scale_right, scale_wrong, loop_prob: as in the model.
        cap_tokens: traces are cut here.
        log_kinds, log_wrong_answers, log_copies: the factors of the partition's probability, by the number of kinds of
            wrong answer, that of wrong answers and that of copies of one; float32 `[traces + 1]` each.
    """

    threshold: float
    least_hope: float
    effects: np.ndarray
    chances: np.ndarray
    log_prior: np.ndarray
    right_below_cap: np.ndarray
    log_right_to_wrong: np.ndarray
    shift: float
    scale_right: float
    scale_wrong: float
    loop_prob: float
    cap_tokens: int
    log_kinds: np.ndarray
    log_wrong_answers: np.ndarray
    log_copies: np.ndarray

    def __post_init__(self) -> None:
        for name in ("threshold", "least_hope"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"PosteriorVote.{name}: expected a number in [0, 1], got {getattr(self, name)!r}")
        whole_number("PosteriorVote.cap_tokens", self.cap_tokens, 1, INT32_MAX)
        of_effects = ("effects", "right_below_cap", "log_right_to_wrong")
        sizes = [table(self, name, np.float32).size for name in of_effects]
        of_traces = ("log_kinds", "log_wrong_answers", "log_copies")
        lengths = [table(self, name, np.float32).size for name in of_traces]
        prior = table(self, "log_prior", np.float32, num_axes=2)
        shape = (sizes[0], table(self, "chances", np.float32).size)
        if len({*sizes}) > 1 or len({*lengths}) > 1 or prior.shape != shape:
            raise ValueError(
                f"PosteriorVote: expected one size of {', '.join(of_effects)}, one of {', '.join(of_traces)}, and "
                f"log_prior of shape {shape}; got {sizes}, {lengths} and {prior.shape}"
            )
        positive = np.hstack([self.chances, 1 - self.chances, self.right_below_cap, self.scale_right, self.scale_wrong])
        if not (positive > 0).all() or not 0 <= self.loop_prob <= 1:
            raise ValueError(
                "PosteriorVote: expected chances between 0 and 1, right_below_cap and scales above 0 and a probability "
                f"loop_prob, got {self.chances}, {self.right_below_cap}, {self.scale_right}, {self.scale_wrong} and "
                f"{self.loop_prob}"
            )

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> VoteState:
        """Return the state before the first trace."""
        num_labels, num_effects = len(self.log_copies), len(self.effects)
        by_label = (*batch_shape, num_labels)
        return VoteState(
            count=xp.full(by_label, 0),
            first_seen=xp.full(by_label, num_labels),
            log_ratio=xp.full((*by_label, num_effects), 0.0),
            log_wrong=xp.full((*batch_shape, num_effects), 0.0),
            num_ended=xp.full(batch_shape, 0),
            wave_start=xp.full(batch_shape, 0),
        )

    def step(self, xp: Any, state: VoteState, observation: Any) -> tuple[VoteState, Action]:
        """Take in the trace that has ended, if one has, and weigh the answers."""
        state, margin = self._weigh(xp, state, observation)
        return state, Action(margin >= 0, 0)

    def score(self, xp: Any, state: VoteState, observation: Any) -> Any:
        """Return the larger of P(the leading answer is right) minus the threshold, and the least hope minus the hope."""
        return self._weigh(xp, state, observation)[1]

    def _weigh(self, xp: Any, state: VoteState, observation: Any) -> tuple[VoteState, Any]:
        """Return the next state and the score; float `[...]`."""
        num_labels = len(self.log_copies)
        age = xp.maximum(observation.elapsed_tokens - state.wave_start, 1)
        right, wrong = self._lengths(xp, age)
        still_wrong = xp.log(xp.maximum(wrong.still_runs, SMALLEST))

        came = observation.answer >= 0
        silent = xp.logical_and(
            observation.num_launched - observation.num_running > state.num_ended, observation.answer < 0
        )
        cut = (age >= self.cap_tokens)[..., None]
        ends_wrong = xp.where(came[..., None], wrong.log_density, xp.where(cut, still_wrong, wrong.log_density))
        ended = xp.logical_or(came, silent)
        label = xp.maximum(xp.minimum(observation.answer, num_labels - 2), 0)
        here = xp.put(0 * state.count, label, came)
        first = xp.logical_and(here > 0, state.count == 0)
        num_seen = xp.max(xp.where(state.count > 0, state.first_seen + 1, 0))
        ratio = self.log_right_to_wrong + right.log_density - wrong.log_density
        state = VoteState(
            count=state.count + here,
            first_seen=xp.where(first, num_seen[..., None], state.first_seen),
            log_ratio=state.log_ratio + here[..., None] * ratio[..., None, :],
            log_wrong=state.log_wrong + ended[..., None] * ends_wrong,
            num_ended=state.num_ended + ended,
            wave_start=xp.where(observation.num_running > 0, state.wave_start, observation.elapsed_tokens),
        )
        prob, hope = self._beliefs(xp, state, observation.num_running, right.still_runs, wrong.still_runs)
        give_up = xp.where(self.least_hope > 0, self.least_hope - hope, -1.0)  # 0 is far from a tie
        return state, xp.maximum(prob - self.threshold, give_up)

    def _beliefs(
        self, xp: Any, state: VoteState, num_running: Any, right_runs: Any, wrong_runs: Any
    ) -> tuple[Any, Any]:
        """Return P(the leading answer is right) and the hope, 0 and 1 before any answer; float `[...]` each.

        `right_runs` and `wrong_runs` are the chances of a right trace and a wrong one to run on, by effect.
        """
        most = len(self.log_copies) - 1
        num_running = xp.minimum(num_running, most)[..., None, None]
        right_and_runs = self.chances * right_runs[..., None]
        runs = xp.maximum(right_and_runs + (1 - self.chances) * wrong_runs[..., None], SMALLEST)
        next_right = xp.where(num_running > 0, right_and_runs / runs, self.chances)  # [effects, chances]
        by_pair = self.log_prior + num_running * xp.log(runs) + state.log_wrong[..., None]  # [effects, chances]
        votes = xp.minimum(state.count, most)
        wrong = xp.maximum(state.num_ended[..., None] - state.count, 0)
        by_votes = (  # [labels, chances]
            votes[..., None] * xp.log(self.chances) + xp.minimum(wrong, most)[..., None] * xp.log1p(-self.chances)
        )
        most_pair, most_votes = xp.max(by_pair), xp.max(by_votes)  # sums of products are taken relative to these
        by_pair = xp.exp(by_pair - most_pair[..., None])
        by_votes = xp.exp(by_votes - most_votes[..., None])
        over_chances = _over_chances(by_votes, by_pair)
        next_over_chances = _over_chances(by_votes, by_pair * next_right)
        by_effect = state.log_ratio + most_pair[..., None, :]
        most_effect = xp.max(by_effect)
        by_effect = xp.exp(by_effect - most_effect[..., None])
        over_effects = xp.maximum(xp.sum(by_effect * over_chances), SMALLEST)
        next_right_prob = xp.sum(by_effect * next_over_chances) / over_effects  # given each hypothesis

        seen = state.count > 0
        one_if_seen = 1 * seen  # torch subtracts no booleans
        num_answers, num_kinds = xp.sum(votes)[..., None], xp.sum(one_if_seen)[..., None]
        log_weight = (
            xp.log(over_effects) + most_effect + most_votes
            + xp.take(self.log_kinds, xp.minimum(num_kinds - one_if_seen, most))
            + xp.take(self.log_wrong_answers, xp.minimum(num_answers - votes, most))
            - xp.take(self.log_copies, votes)
        )  # fmt: skip
        # every label not seen means "none of those seen is right", so they share its weight
        share = xp.where(seen, 1.0, 1.0 / (len(self.log_copies) - num_kinds))
        weight = share * xp.exp(log_weight - xp.max(log_weight)[..., None])
        leader = xp.argmax(state.count * (len(self.log_copies) + 1) - state.first_seen)
        total, answered = xp.sum(weight), xp.max(state.count) > 0
        others = xp.put(weight, leader, 0.0)
        prob = xp.where(answered, xp.take(weight, leader) / total, 0.0)
        return prob, xp.where(answered, xp.sum(others * next_right_prob) / total, 1.0)

    def _lengths(self, xp: Any, age: Any) -> tuple["_Lengths", "_Lengths"]:
        """Return the length terms of right traces and of wrong ones at this age, by effect."""
        away = xp.log(age)[..., None] - self.effects
        score, tail = _standard(xp, away / self.scale_right)
        above = self.right_below_cap - 1  # minus the part of the distribution that is cut off
        ran = xp.where(score > 0, tail + above, self.right_below_cap - tail) / self.right_below_cap
        right = _Lengths(-0.5 * score * score, xp.minimum(xp.maximum(ran, 0.0), 1.0))
        score, tail = _standard(xp, (away - self.shift) / self.scale_wrong)
        ends = 1 - self.loop_prob
        return right, _Lengths(-0.5 * score * score, self.loop_prob + ends * xp.where(score > 0, tail, 1 - tail))


def _over_chances(by_votes: Any, by_pair: Any) -> Any:
    """Sum products over the last axis; float `[..., labels, effects]`.

    A sum of few terms, and not `matmul`, which some devices round to ten bits.
    """
    return sum(by_votes[..., k, None] * by_pair[..., None, :, k] for k in range(by_pair.shape[-1]))


class _Lengths(NamedTuple):
    """Of one kind of trace, by effect; float `[..., effects]`: the log-density but for a constant, the chance to run on."""

    log_density: Any
    still_runs: Any


def _standard(xp: Any, score: Any) -> tuple[Any, Any]:
    """Return a standard score within bounds, and the tail beyond its distance from 0."""
    score = xp.maximum(xp.minimum(score, MOST), -MOST)
    return score, normal_tail(xp, xp.maximum(score, -score))
