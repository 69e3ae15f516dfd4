"""The reasoner under a policy's eyes: what happens live is what a replay of its log says."""

import jax
import numpy as np
import pytest

import sims
from stopping.policies import AnswerAgreement, CandidateStop, CloseTokenThreshold, ConfidenceExit, TokenBudget
from stopping.problems import Thinking
from stopping.reasoner import Plan, load_model, load_shipped_log, run_live
from stopping.reasoner.recording import draw_distinct
from tests.helpers import sized

NUM_PROBLEMS = sized(32, 64)


@pytest.fixture(scope="module")
def worlds():
    """The first trace of the first problems of the shipped log."""
    log = load_shipped_log().take(range(NUM_PROBLEMS))
    return jax.tree.map(lambda leaf: leaf[:, :1], Thinking().worlds(log))


@pytest.fixture(scope="module")
def problems():
    return draw_distinct(Plan())[:NUM_PROBLEMS]


@pytest.mark.parametrize(
    "policy",
    [
        TokenBudget(100),
        ConfidenceExit(-0.1, 64),
        AnswerAgreement(2, 32),
        CloseTokenThreshold(-1.0, -12.0, 128),
        CandidateStop(1),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_live_run_is_the_replay_of_its_log(policy, problems, worlds):
    """Trace by trace, but where a near tie is rounded otherwise in a batch of another size."""
    reports = []
    live = run_live(jax.random.key(Plan().seed), load_model("target"), problems, policy, report=reports.append)
    assert sum(reports) == NUM_PROBLEMS
    replayed = sims.replay_worlds(Thinking(), policy, worlds).values
    same = np.all(
        [getattr(live, name) == replayed[name] for name in ("total_tokens", "probe_tokens", "correct", "stopped")],
        axis=0,
    )
    assert same.mean() >= 0.95
    assert 0.1 < live.stopped.mean() <= 1


def test_without_a_policy_it_is_the_log(problems, worlds):
    live = run_live(jax.random.key(Plan().seed), load_model("target"), problems)
    assert np.mean(live.total_tokens == worlds.length_tokens[:, 0]) >= 0.95
    assert np.mean(live.correct == worlds.right[:, 0]) >= 0.95
    assert not live.stopped.any() and not live.probe_tokens.any()
