"""Certificates: what is lost, in which order rules are tested, and what is refused."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import sims
import stopping
from stopping.models import Answers, LengthCorrectness
from stopping.policies import FirstFinish, FixedSamples, Margin, TokenBudget, VoteTable
from stopping.problems import Sampling, Thinking
from stopping.solvers import Member
from stopping.traces import LiveColumns, Log, TraceLog, from_columns, with_checkpoints
from stopping.tuning import Grade, order_by_risk
from stopping.tuning.betting import p_values, upper_bounds
from stopping.tuning.certification import losses_on

MODEL = LengthCorrectness(
    np.linspace(1, 6, 40), 1.5, np.linspace(7, 8, 40), shift=0.3, no_answer_prob=0.05, answers=Answers(0.1, 1.0)
)
SOURCE = Sampling(8, model=MODEL)
PROBLEM = Sampling(8)
PROVEN = VoteTable.cannot_be_caught(8)
RULES = [PROVEN, Margin(3), Margin(2), FixedSamples(1), FixedSamples(4)]


@pytest.fixture(scope="module")
def log():
    return SOURCE.log(sims.draw(jax.random.key(1), SOURCE, 500))


@pytest.fixture(scope="module")
def certification(log):
    return stopping.certify(PROBLEM, RULES, log, max_loss=0.03, confidence=0.95)


def unlabelled(log):
    return dataclasses.replace(log, correct=np.zeros_like(log.correct), correct_known=np.zeros_like(log.correct_known))


def test_losses_are_those_of_paired_replays(log, certification):
    base = sims.replay(PROBLEM, FixedSamples(8), log)
    assert [one.policy for one in certification.certificates] == RULES
    for one in certification.certificates:
        assert one.reference == FixedSamples(8) and one.risk == "accuracy" and one.num_problems == 500
        expected = sims.difference(base, sims.replay(PROBLEM, one.policy, log))["correct"]
        np.testing.assert_allclose(one.mean_loss.mean, expected.mean, atol=1e-12)
        np.testing.assert_allclose(one.mean_loss.standard_error, expected.standard_error, rtol=1e-9)


def test_the_grades_are_those_of_the_fixed_sequence(log, certification):
    grades = [one.grade for one in certification.certificates]
    assert grades == [Grade.PROOF, Grade.DATA, Grade.DATA, Grade.NONE, Grade.NONE]
    assert [one.reached for one in certification.certificates] == [True, True, True, True, False]
    assert certification.certified == certification.certificates[:3]
    assert certification.policy == Margin(2)
    losses = losses_on(PROBLEM, RULES, log, FixedSamples(8))
    for one, values in zip(certification.certificates[1:], losses[1:], strict=True):
        assert one.p_value == p_values(values, 0.03) and one.loss_bound == upper_bounds(values, 0.95)
    proof = certification.certificates[0]
    assert (proof.p_value, proof.loss_bound) == (None, 0.0) and proof.mean_loss == sims.Estimate(0.0, 0.0, 500)


def test_a_failure_ends_the_sequence_whatever_comes_after(log):
    """The same rules, a hopeless one first: nothing but the proof is left, and passes are not counted."""
    found = stopping.certify(PROBLEM, [FixedSamples(1), Margin(3), PROVEN], log, max_loss=0.03)
    assert [one.grade for one in found.certificates] == [Grade.NONE, Grade.NONE, Grade.PROOF]
    assert found.certificates[1].p_value <= 0.05
    assert found.certificates[1].statement.endswith("a rule before it failed")
    assert found.policy == PROVEN
    alone = stopping.certify(PROBLEM, [FixedSamples(1)], log, max_loss=0.03)
    assert alone.policy == FixedSamples(8) and alone.certificate is None and alone.summary()["figures"] == {}


def test_the_reference_loses_nothing_by_proof(log):
    found = stopping.certify(PROBLEM, [FixedSamples(4)], log, max_loss=0.02, reference=FixedSamples(4))
    assert found.certificates[0].grade is Grade.PROOF
    # a rule that is proven against the vote of all is not against another reference
    other = stopping.certify(PROBLEM, [PROVEN], log, max_loss=0.02, reference=FixedSamples(4))
    assert other.certificates[0].grade is not Grade.PROOF


def test_problems_needed_are_those_that_would_do():
    """Losses repeated that often are certified; nothing is promised where the loss is above the limit."""
    losses = np.tile([1.0] + [0.0] * 99, 2)
    needed = certificate_of(losses, 0.02).num_needed
    assert needed > 200
    whole = math.ceil(needed / 100) * 100  # the losses, over and over
    assert p_values(np.resize(losses, whole), 0.02) <= 0.05 < p_values(np.resize(losses, whole - 200), 0.02)
    hopeless = certificate_of(np.tile([1.0, 0.0], 50), 0.02)
    assert hopeless.num_needed is None and "no number of problems" in hopeless.statement


def test_few_problems_without_a_loss_need_more_than_the_floor():
    one = certificate_of(np.zeros(60), 0.02)
    assert one.grade is Grade.NONE and one.mean_loss.mean == 0 and one.num_needed == 163


def log_of_losses(losses):
    """Problems of two traces: the first, always right, ends last; the second, shorter, is right where nothing is lost."""
    num_problems = len(losses)
    return from_columns(
        {
            "problem": np.repeat(np.arange(num_problems), 2),
            "sample": np.tile([0, 1], num_problems),
            "length_tokens": np.tile([20, 10], num_problems),
            "correct": np.stack([np.ones(num_problems, bool), losses == 0], axis=1).reshape(-1),
            "answer": [text for lost in losses for text in ("a", "b" if lost else "a")],
        }
    )


def certificate_of(losses, limit):
    found = stopping.certify(
        Sampling(2), [FirstFinish(1)], log_of_losses(losses), max_loss=limit, reference=FixedSamples(1)
    )
    assert found.certificates[0].mean_loss.mean == pytest.approx(losses.mean())
    return found.certificates[0]


def test_without_labels_it_is_disagreement(log, certification):
    hidden = unlabelled(log)
    found = stopping.certify(PROBLEM, RULES, hidden, max_loss=0.03)
    answers = sims.play_rules(PROBLEM, [FixedSamples(8), *RULES], PROBLEM.worlds(log), ("answer",))["answer"][..., 0]
    for one, labelled, answer in zip(found.certificates, certification.certificates, answers[1:], strict=True):
        assert one.risk == "disagreement" and one.summary()["risk"] == "disagreement"
        assert one.mean_loss.mean == pytest.approx((answer != answers[0]).mean())
        assert one.mean_loss.mean >= labelled.mean_loss.mean
        assert "agreement" in one.statement or one.grade is Grade.PROOF
    assert found.certificates[-1].mean_loss.mean > 0.05
    with pytest.raises(ValueError, match="expected known correctness"):
        PROBLEM.worlds(hidden)


def test_what_the_log_does_not_hold_is_lost(log):
    """A rule of 8 on a log of 4 samples: no answer, hence the reference's accuracy is lost, and all agreement."""
    problem, short = Sampling(8), log.take(range(50))
    short = problem.log(jax.tree.map(lambda leaf: leaf[:, 0], Sampling(4).worlds(short)))
    for part, lost in ((short, sims.replay(problem, FixedSamples(4), short).correct.mean), (unlabelled(short), 1.0)):
        found = stopping.certify(problem, [FixedSamples(8)], part, max_loss=0.5, reference=FixedSamples(4))
        assert found.certificates[0].mean_loss.mean == pytest.approx(lost)
        with pytest.raises(ValueError, match=r"reference .* expected a log that holds what it asks for, got 50"):
            stopping.certify(problem, [FixedSamples(4)], part, max_loss=0.5, reference=FixedSamples(8))


def test_orders_are_averaged_by_problem(log):
    few, rule = log.take(range(40)), FixedSamples(2)
    losses = losses_on(PROBLEM, [rule], few, FixedSamples(8), num_orders=6, seed=3)
    base, own = (sims.replay(PROBLEM, policy, few, num_orders=6, seed=3) for policy in (FixedSamples(8), rule))
    expected = base.values["correct"] - own.values["correct"]
    np.testing.assert_allclose(np.sort(losses[0]), np.sort(expected), atol=1e-12)
    assert set(np.round(losses[0] * 6, 9)) > {0.0, 1.0}


def test_the_order_of_rows_does_not_matter_and_that_of_problems_hangs_on_the_seed(log):
    part = log.take(range(200))
    turned = part.take(np.arange(200)[::-1])
    first, again, other = (
        losses_on(PROBLEM, [FixedSamples(2)], logged, FixedSamples(8), seed=seed)
        for logged, seed in ((part, 0), (turned, 0), (part, 1))
    )
    assert (first == again).all() and (first != other).any() and first.sum() == other.sum()


def test_the_order_by_risk_is_that_of_the_bounds(log):
    part = log.take(range(300))
    order = order_by_risk(PROBLEM, [FixedSamples(1), Margin(2), FirstFinish(1), PROVEN, FixedSamples(4)], part)
    assert order[0] == PROVEN
    bounds = upper_bounds(losses_on(PROBLEM, order[1:], part, FixedSamples(8)), 0.95)
    assert (np.diff(bounds) >= 0).all() and order[-1] == FixedSamples(1)


def test_a_family_is_put_in_order_by_the_model(log):
    one = sims.Estimate(0.0, 0.0, 1)
    rules = {"FixedSamples": FixedSamples(1), "Margin": Margin(2), "FirstFinish": FirstFinish(1), "VoteTable": PROVEN}
    family = {name: Member(rule, one, one) for name, rule in rules.items()}
    found = stopping.certify(SOURCE, family, log, max_loss=0.05)
    assert [certificate.policy for certificate in found.certificates][:2] == [PROVEN, Margin(2)]
    assert found.certificates[-1].policy == FixedSamples(1)
    with pytest.raises(ValueError, match="a family is sorted by the problem's model"):
        stopping.certify(PROBLEM, family, log, max_loss=0.05)


def test_a_certificate_goes_into_the_artifact(log, certification, tmp_path):
    from stopping.artifacts import load_policy

    chosen = certification.certificate
    stopping.save_policy(
        certification.policy, tmp_path / "policy", evidence=[certification], certificate=chosen.summary()
    )
    document = load_policy(tmp_path / "policy").document
    assert document.certificate.grade == "data" and document.certificate.max_accuracy_drop == 0.03
    assert document.evidence[0].figures["accuracy_loss"].mean == pytest.approx(chosen.mean_loss.mean)
    assert "3 of 5 rules certified" in repr(certification) and len(repr(certification).splitlines()) == 6


def probed(log, grid):
    ids = log.problem_ids
    columns = {"problem": ids, "sample": [0] * len(ids), "position_tokens": [1] * len(ids), "answer": ["a"] * len(ids)}
    return with_checkpoints(log, columns, grid=grid, protocol="made up")


@dataclasses.dataclass(frozen=True)
class OnlyALog:
    """A log of another type: it shows what `Log` asks for, and nothing else."""

    inner: TraceLog
    problem_ids = property(lambda self: self.inner.problem_ids)
    num_problems = property(lambda self: self.inner.num_problems)
    num_samples = property(lambda self: self.inner.num_samples)
    reference = property(lambda self: self.inner.reference)
    all_judged = property(lambda self: self.inner.all_judged)
    informative_censoring = property(lambda self: self.inner.informative_censoring)

    def take(self, problem_indices):
        return OnlyALog(self.inner.take(problem_indices))

    def take_samples(self, sample_indices):
        return OnlyALog(self.inner.take_samples(sample_indices))


class ReadsOnlyALog(Sampling):
    """The problem that reads such logs."""

    def worlds(self, log, **orders):
        return super().worlds(log.inner, **orders)

    def reference_rule(self, log):
        return super().reference_rule(log.inner)


def test_a_log_of_another_type_is_certified_as_the_problem_reads_it(log, certification):
    other = OnlyALog(log)
    assert isinstance(other, Log) and isinstance(log, Log)
    found = stopping.certify(ReadsOnlyALog(8), RULES, other, max_loss=0.03, confidence=0.95)
    assert [one.loss_bound for one in found.certificates] == [one.loss_bound for one in certification.certificates]
    assert [part.num_problems for part in stopping.split(other, (0.3, 0.5, 0.2))] == [150, 250, 100]


def test_logs_from_which_nothing_can_be_told_are_refused(log):
    few = log.take(range(20))
    ahead = probed(few, "fraction_of_final")
    with pytest.raises(ValueError, match="fractions of the final length"):
        stopping.certify(Thinking(), [TokenBudget(1)], ahead, max_loss=0.5)
    with pytest.raises(ValueError, match="fractions of the final length"):
        order_by_risk(Thinking(), [TokenBudget(1)], ahead)
    stopping.certify(PROBLEM, [Margin(2)], ahead, max_loss=0.5)  # its checkpoints are not looked at

    shape = few.present.shape
    stop = np.full(shape, -1, np.int32)
    stop[3, 2] = few.length_tokens[3, 2] - 1  # in the shadow: it ran on
    shadow = LiveColumns(np.full(shape, None), stop, np.full(shape, np.nan))
    stopping.certify(PROBLEM, [Margin(2)], dataclasses.replace(few, live=shadow), max_loss=0.5)
    cut = LiveColumns(np.full(shape, None), stop + (stop >= 0), np.full(shape, np.nan))
    with pytest.raises(ValueError, match="got 1 that end where a live policy stopped them"):
        stopping.certify(PROBLEM, [Margin(2)], dataclasses.replace(few, live=cut), max_loss=0.5)


def test_what_cannot_be_is_refused(log):
    few = log.take(range(20))
    with pytest.raises(ValueError, match="policies: expected at least one"):
        stopping.certify(PROBLEM, [], few, max_loss=0.1)
    for drop in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="max_loss: expected"):
            stopping.certify(PROBLEM, [Margin(2)], few, max_loss=drop)
    with pytest.raises(ValueError, match="confidence"):
        stopping.certify(PROBLEM, [Margin(2)], few, max_loss=0.1, confidence=95)
