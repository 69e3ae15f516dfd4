"""Rules that cannot change the vote: against every order of votes there is, and in play."""

import itertools

import jax
import numpy as np
import pytest

import sims
from stopping.models import Answers, LengthCorrectness
from stopping.policies import Action, FirstFinish, FixedSamples, Margin, Return, UnanimousWindow, VoteTable, policy
from stopping.policies.actions import LATEST, STOP, Kind
from stopping.problems import Sampling
from stopping.problems.settled_votes import never_changes_the_vote


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class LatestOfMajority:
    """Stop with more than half of the votes, but return the answer that came last."""

    votes: int

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(observation.leader_votes >= self.votes, LATEST)


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class LookTwice:
    """Stop at the second look: the votes alone do not say what it does."""

    def init(self, xp, batch_shape):
        return (xp.full(batch_shape, 0),)

    def step(self, xp, state, observation):
        return (state[0] + 1,), Action(state[0] >= 1, 0)


def changes_some_vote(rule, num_traces):
    """Whether in some order of answers (-1: none) the rule stops with another leader than all of them have."""
    bound, stops = rule.step, {}

    def leading(votes):
        seen = list(dict.fromkeys(vote for vote in votes if vote >= 0))
        counts = sorted(((votes.count(answer), -place) for place, answer in enumerate(seen)), reverse=True)
        if not counts:
            return None, 0, 0
        return seen[-counts[0][1]], counts[0][0], counts[1][0] if len(counts) > 1 else 0

    for answers in itertools.product(range(-1, 3), repeat=num_traces):
        for num_seen in range(1, num_traces + 1):
            answer, leader, runner_up = leading(answers[:num_seen])
            if answer is None:
                continue
            if (leader, runner_up) not in stops:
                seen = type("Seen", (), {"leader_votes": np.int32(leader), "runner_up_votes": np.int32(runner_up)})
                stops[leader, runner_up] = bound(np, (), seen)[1].kind == STOP
            if stops[leader, runner_up]:
                if answer != leading(answers)[0]:
                    return True
                break
    return False


@pytest.mark.parametrize("num_traces", [1, 2, 3, 4, 5, 6])
def test_the_rule_agrees_with_all_orders_of_votes(num_traces):
    tables = [VoteTable(np.array(t)) for t in itertools.product(range(1, 6), range(2, 6), range(3, 6))]
    rules = [*tables, *(Margin(votes) for votes in range(1, num_traces + 2))]
    found = {never_changes_the_vote(rule, num_traces) for rule in rules}
    for rule in rules:
        assert never_changes_the_vote(rule, num_traces) == (not changes_some_vote(rule, num_traces)), rule
    assert found == {True, False} or num_traces <= 2


@pytest.mark.parametrize("num_traces", [1, 2, 7, 8, 40])
def test_cannot_be_caught_is_proven_from_its_table(num_traces):
    table = VoteTable.cannot_be_caught(num_traces)
    assert never_changes_the_vote(VoteTable(table.required_by_runner_up), num_traces)
    assert not never_changes_the_vote(table, num_traces + 2)


def test_what_is_more_than_votes_is_not_proven():
    assert never_changes_the_vote(VoteTable.adaptive_consistency(0.95, 8), 8)
    for rule in (LatestOfMajority(5), LookTwice(), FirstFinish(8), UnanimousWindow(8), FixedSamples(8)):
        assert not never_changes_the_vote(rule, 8)
    assert Return.LATEST.value == LATEST


def test_the_reference_is_the_vote_of_all_traces():
    problem, table = Sampling(8), VoteTable.cannot_be_caught(8)
    assert problem.lossless(table, FixedSamples(8))
    assert not problem.lossless(table, FixedSamples(7))
    assert not problem.lossless(table, FirstFinish(8))


def test_proven_rules_give_the_same_answer_in_play():
    model = LengthCorrectness(1.0, 1.0, shift=0.3, no_answer_prob=0.2, answers=Answers(0.3, 1.0))
    problem = Sampling(4, model=model, wave_size=3, lag_tokens=20)
    proven = [VoteTable.cannot_be_caught(4), VoteTable(np.array([2, 3])), Margin(2)]
    assert all(problem.lossless(rule, FixedSamples(4)) for rule in proven)
    worlds = jax.tree.map(lambda leaf: leaf[:, None], sims.draw(jax.random.key(0), problem, 1000))
    answers = sims.play_rules(problem, [FixedSamples(4), *proven, Margin(1)], worlds, ("answer",))["answer"]
    assert (answers[1:-1] == answers[0]).all()
    assert (answers[-1] != answers[0]).any()
