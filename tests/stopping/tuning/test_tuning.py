"""Tuning: what it chooses on drawn logs whose truth is known, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

import sims
import stopping
from sims import Estimate
from stopping.models import AnswerChain, LengthCorrectness
from stopping.policies import (
    CandidateStop,
    ConfidenceExit,
    ExitValue,
    FirstFinish,
    FixedSamples,
    Margin,
    TokenBudget,
    VoteTable,
)
from stopping.problems import Sampling, Thinking
from stopping.reasoner import load_shipped_log
from stopping.solvers import exit_values
from stopping.traces import LogError, split
from stopping.tuning import Grade, placebo
from stopping.tuning.measurement import measure
from stopping.tuning.played import play
from stopping.tuning.tuning import _advice, _choose

TELLING = AnswerChain(
    0.2, 0.35, 0.01, 0.05, right_log_prob=-0.2, wrong_log_prob=-1.2, log_prob_scale=0.3, num_points=12
)


def drawn(chain, num_problems, key=0):
    problem = Thinking(model=chain)
    return problem.log(sims.draw(jax.random.key(key), problem, num_problems))


@pytest.fixture(scope="module")
def telling():
    return stopping.tune(Thinking(), drawn(TELLING, 1200), max_loss=0.02)


def test_signals_that_tell_are_used(telling):
    chosen = telling.chosen
    assert isinstance(chosen.policy, ConfidenceExit) and chosen.certificate.grade is Grade.DATA
    assert chosen.measured.saving_share.mean > 0.2
    assert chosen.measured.accuracy_change.mean > -0.05
    assert telling.advice.startswith("Use ConfidenceExit(")
    assert telling.num_problems == (360, 600, 240)


def test_what_was_promised_holds_on_fresh_worlds(telling):
    """The test part's figures against 20,000 new worlds, within their errors."""
    fresh = sims.draw(jax.random.key(9), Thinking(model=TELLING), 20_000)
    worlds = jax.tree.map(lambda leaf: leaf[:, None], fresh)
    _, truth = measure(play(Thinking(), telling.reference, [telling.chosen.policy], worlds))
    for name in ("accuracy_change", "saving_tokens", "saving_share", "accuracy"):
        told, true = getattr(telling.chosen.measured, name), getattr(truth, name)
        assert abs(told.mean - true.mean) < 4.5 * np.hypot(told.standard_error, true.standard_error)
    assert truth.accuracy_change.mean > -0.02  # the certificate keeps its word
    assert 0 < truth.clairvoyant_share < 1


def test_the_parts_are_of_different_problems_and_the_order_was_frozen_before(telling):
    log = drawn(TELLING, 1200)
    fit_part, certify_part, test_part = split(log, (0.3, 0.5, 0.2), seed=0)
    again = stopping.tune(Thinking(), log, max_loss=0.02)
    assert [rule.policy for rule in again.tested] == [rule.policy for rule in telling.tested]
    names = [set(part.problem_ids) for part in (fit_part, certify_part, test_part)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    # what certify_part holds changes certificates, not what is tested nor its order
    shuffled = dataclasses.replace(log, correct=np.where(_is_in(log, certify_part), ~log.correct, log.correct))
    other = stopping.tune(Thinking(), shuffled, max_loss=0.02)
    assert [rule.policy for rule in other.tested] == [rule.policy for rule in telling.tested]


def _is_in(log, part):
    return np.isin(np.array(log.problem_ids), np.array(part.problem_ids))[:, None]


def test_signals_that_tell_nothing_bring_no_adaptive_rule():
    """Placebo: probes whose log-probability has nothing to do with their answer; what budget there is, is kept to."""
    chosen = []
    for key in range(4):
        found = stopping.tune(
            Thinking(), drawn(AnswerChain(0.7, 0.0, 0.0, 0.05, num_points=12), 600, key), max_loss=0.02
        )
        chosen.append(found.chosen and type(found.chosen.policy))
        assert found.chosen is None or found.chosen is found.best_fixed
        assert found.advice.startswith("Do not bother")
    assert TokenBudget in chosen  # an answer that never changes is as good at the first decision point


def test_thinking_that_mends_until_the_end_is_left_alone():
    found = stopping.tune(Thinking(), drawn(AnswerChain(0.05, 0.15, 0.0, 0.0, num_points=12), 600), max_loss=0.02)
    assert found.chosen is None
    assert found.advice.startswith("Do not bother")


def test_too_few_problems_certify_nothing_and_say_how_many_might():
    found = stopping.tune(Thinking(), drawn(TELLING, 200), max_loss=0.02)
    assert found.chosen is None and not found.certification.certified
    needed = next(rule for rule in found.tested if rule.certificate.num_needed)
    whole = 2 * needed.certificate.num_needed  # half of a log certifies
    assert f"A log of about {whole:,} problems might certify {needed.policy}, which saved" in found.advice


def test_sampling_with_short_traces_right_and_a_rule_of_one_s_own():
    problem = Sampling(8, model=LengthCorrectness([3.0], [1.0], shift=0.5))
    log = problem.log(sims.draw(jax.random.key(2), problem, 900))
    found = stopping.tune(Sampling(8), log, max_loss=0.03, rules=[VoteTable.cannot_be_caught(8)])
    assert found.reference == FixedSamples(8)
    proven = [rule for rule in found.tested if rule.certificate.grade is Grade.PROOF]
    assert proven and all(rule.measured.accuracy_change.mean == 0 for rule in proven)
    assert found.chosen.measured.saving_share.mean > 0.2
    prices = stopping.tune(Sampling(8, price_per_second=1e-3), log, max_loss=0.03)
    assert prices.chosen.measured.saving_cost.mean > 0


@pytest.fixture(scope="module", params=[None, 1], ids=["parallel", "sequence"])
def few(request):
    """Sixty problems: no data could certify a drop of .02, whatever a rule does."""
    problem = Sampling(8, model=LengthCorrectness([3.0], [1.0], shift=0.2))
    log = problem.log(sims.draw(jax.random.key(5), problem, 60))
    return log, stopping.tune(Sampling(8, wave_size=request.param), log, max_loss=0.02)


def test_rules_by_proof_are_always_tested_first_and_chosen_where_nothing_bolder_is_certified(few):
    _, found = few
    grades = [rule.certificate.grade for rule in found.tested]
    assert grades == sorted(grades, key=lambda grade: grade is not Grade.PROOF) and Grade.DATA not in grades
    proven = [rule for rule in found.tested if rule.certificate.grade is Grade.PROOF]
    assert {rule.family for rule in proven} >= {"Margin", "VoteTable"}
    assert found.chosen in proven and found.chosen.measured.saving_share.mean > 0.01
    assert found.chosen.measured.saving_share.mean == max(rule.measured.saving_share.mean for rule in proven)
    told = f"Use {found.chosen.policy}: it gives the answer of FixedSamples(8) in every case, by proof, and saves "
    assert found.advice.startswith(told)


def test_problems_may_have_fewer_samples_than_others():
    """What was not logged has no length: no budget is read off it."""
    problem = Sampling(6, model=LengthCorrectness([3.0], [1.0], shift=0.2))
    log = problem.log(sims.draw(jax.random.key(7), problem, 120))
    found = stopping.tune(Sampling(9), log, max_loss=0.1, reference=FixedSamples(6))
    assert found.advice and all(rule.measured.total_tokens.mean > 0 for rule in found.tested)
    with pytest.raises(ValueError, match=r"reference FixedSamples\(9\): expected a log that holds what it asks for"):
        stopping.tune(Sampling(9), log, max_loss=0.1, reference=FixedSamples(9))


def test_losses_and_savings_are_means_over_orders_of_the_samples(few):
    log, found = few
    assert found.num_orders == 16
    test_part = split(log, (0.3, 0.5, 0.2), seed=0)[2]
    rule = found.tested[-1]
    result = sims.replay(found.problem, rule.policy, test_part, num_orders=16, seed=0)
    assert rule.measured.accuracy.mean == pytest.approx(result.correct.mean, abs=1e-12)
    assert rule.measured.total_tokens.mean == pytest.approx(result.total_tokens.mean, rel=1e-6)
    assert "the traces of a problem in 16 random orders, averaged" in rule.certificate.assumptions
    one = stopping.tune(found.problem, log, max_loss=0.02, num_orders=1)
    assert (
        one.num_orders == 1 and "the traces of a problem in the order logged" in one.tested[-1].certificate.assumptions
    )


def test_more_orders_certify_more():
    """One log in sequence has one stopping time a problem; its mean over sixteen orders varies less."""
    problem, rule = Sampling(8, model=LengthCorrectness([3.0, 1.5], [1.0, 1.5]), wave_size=1), Margin(2)
    certified = np.zeros(2, int)
    for key in range(24):
        log = problem.log(sims.draw(jax.random.key(100 + key), problem, 128))
        for column, num_orders in enumerate((1, 16)):
            found = stopping.certify(Sampling(8, wave_size=1), [rule], log, max_loss=0.08, num_orders=num_orders)
            certified[column] += len(found.certified)
    assert certified[1] > certified[0] + 6


def test_a_single_sample_has_one_order(telling):
    assert telling.num_orders == 1


def test_no_interval_of_the_accuracy_change_is_without_width(few, telling):
    for found in (few[1], telling):
        for rule in found.tested:
            low, high = rule.measured.accuracy_interval
            assert low < rule.measured.accuracy_change.mean < high
    unchanged = [rule for rule in few[1].tested if rule.measured.accuracy_change.standard_error == 0]
    assert unchanged and all(rule.measured.accuracy_interval[0] < -0.2 for rule in unchanged)  # of 12 problems


def test_no_rule_saves_more_than_can_be():
    """Cheap rules that are often wrong: they save more than one who is right wherever that is possible."""
    problem = Sampling(8, model=LengthCorrectness([1.0], [1.0], shift=-0.5))
    log = problem.log(sims.draw(jax.random.key(2), problem, 300))
    worlds = problem.worlds(log, num_orders=4)
    rules = [FixedSamples(1), FirstFinish(1), Margin(2), TokenBudget(1), FixedSamples(8)]
    for priced in (problem, Sampling(8, price_per_token=1e-4), Sampling(8, price_per_second=1e-2)):
        shares = [one.clairvoyant_share for one in measure(play(priced, FixedSamples(8), rules, worlds))[1:]]
        assert all(0.5 < share <= 1 for share in shares[:2]) and 0 <= min(shares) and shares[-1] == 0


def test_the_upper_bound_is_that_of_plain_python():
    problem = Sampling(4, model=LengthCorrectness([1.0], [1.0]))
    log = problem.log(sims.draw(jax.random.key(3), problem, 50))
    worlds = problem.worlds(log)
    rule, reference = FixedSamples(1), FixedSamples(4)
    _, found = measure(play(problem, reference, [rule], worlds))
    saved, possible = [], []
    for lengths, rights in zip(log.length_tokens.tolist(), log.correct.tolist(), strict=True):
        least = min(lengths)
        if rights[0]:  # the rule's answer: the clairvoyant must be right here
            least = min(length for length, right in zip(lengths, rights, strict=True) if right)
        saved.append(sum(lengths) - lengths[0])
        possible.append(sum(lengths) - least)
    assert found.clairvoyant_share == pytest.approx(sum(saved) / sum(possible), rel=1e-6)


def test_a_rule_that_saves_nothing_on_the_test_part_is_not_advised(telling):
    loses = dataclasses.replace(
        telling.chosen.measured, saving_cost=Estimate(-1.0, 1.0, 240), saving_share=Estimate(-0.01, 0.01, 240)
    )
    tested = [dataclasses.replace(telling.chosen, measured=loses)]
    worlds = Thinking().worlds(split(drawn(TELLING, 1200), (0.3, 0.5, 0.2), seed=0)[1])
    played = play(Thinking(), telling.reference, [telling.chosen.policy], worlds)
    assert _choose(played, [telling.chosen], "TokenBudget")[1] is telling.chosen
    assert _choose(played, tested, "TokenBudget") == (None, None)
    assert _advice(telling.reference, tested, None, None).startswith(
        "Do not bother: no rule that is certified has a sig"
    )


def test_a_rule_that_saves_time_for_tokens_is_advised_for_what_it_saves(telling):
    """Where seconds have a price and tokens none: all traces at once instead of one after another."""
    figures = dataclasses.replace(
        telling.chosen.measured, saving_cost=Estimate(0.02, 0.01, 240), saving_share=Estimate(-0.05, 0.01, 240)
    )
    chosen = dataclasses.replace(telling.chosen, measured=figures)
    assert "costs 0.020 ± 0.010 of a right answer less, with 5.0 ± 1.0 % more tokens" in _advice(
        FixedSamples(1), [chosen], None, chosen
    )


def test_what_cannot_be_tuned_is_refused(telling):
    log = drawn(TELLING, 100)
    with pytest.raises(LogError, match="leave a part empty"):
        stopping.tune(Thinking(), log.take(range(2)), max_loss=0.02)
    with pytest.raises(ValueError, match="max_loss: expected a number between 0 and 1"):
        stopping.tune(Thinking(), log, max_loss=0.0)
    with pytest.raises(stopping.problems.PolicyMismatch, match="reads num_candidates"):
        stopping.tune(Thinking(), log, max_loss=0.02, rules=[CandidateStop(1)])


@pytest.fixture(scope="module")
def shipped():
    log = load_shipped_log()
    return log.take(log.probed)


def test_the_shipped_log_has_a_rule_worth_it(shipped):
    found = stopping.tune(Thinking(), shipped, max_loss=0.02)
    assert found.chosen is not None and found.chosen is not found.best_fixed
    assert found.chosen.certificate.grade is Grade.DATA
    assert isinstance(found.chosen.policy, ExitValue) and found.chosen.measured.saving_share.mean > 0.25
    shares = [rule.measured.reachable_share for rule in found.tested]
    assert 0.5 < found.chosen.measured.reachable_share < 1.1 and max(shares) < 1.3
    assert 0 < found.chosen.measured.clairvoyant_share < found.chosen.measured.reachable_share


def test_the_reachable_saving_is_measured_where_nothing_was_fitted(shipped, telling):
    """Against the fitted rules played by hand on the test part: it lies between those on both sides of the limit."""
    found = stopping.tune(Thinking(), shipped.take(range(400)), max_loss=0.05)
    one = found.tested[-1].measured
    reachable = one.saving_tokens.mean / one.reachable_share
    fit_part, certify_part, test_part = split(shipped.take(range(400)), (0.3, 0.5, 0.2), seed=0)
    others = np.flatnonzero(~np.isin(shipped.problem_ids[:400], test_part.problem_ids))
    assert len(others) == fit_part.num_problems + certify_part.num_problems
    worlds = Thinking().worlds(shipped.take(others))
    rules = [rule for members in exit_values(Thinking(), worlds, [32, 64, 128]).values() for rule in members]
    chosen_on, tested_on = (
        play(Thinking(), found.reference, rules, each) for each in (worlds, Thinking().worlds(test_part))
    )
    losses = [-one.accuracy_change.mean for one in measure(chosen_on)[1:]]
    saved = [one.saving_tokens.mean for one in measure(tested_on)[1:]]
    safe, beyond = (np.array(saved)[np.array(losses) <= 0.05].max(), max(saved))
    assert 0.9 * safe < reachable < beyond
    assert all(rule.measured.reachable_share is None for rule in telling.tested)  # it lacks the free signals


@pytest.mark.parametrize("seed", range(2))
def test_placebo_signals_permuted_within_positions_bring_no_adaptive_rule(shipped, seed):
    shuffled = placebo(shipped, seed)
    for name, values in shuffled.checkpoints.signals.items():
        own = shipped.checkpoints.signals[name]
        for position in (32, 256):
            there = shipped.checkpoints.position_tokens == position
            assert (np.sort(values[there]) == np.sort(own[there])).all() and (values[there] != own[there]).any()
    found = stopping.tune(Thinking(), shuffled, max_loss=0.02)
    assert found.chosen is found.best_fixed and isinstance(found.chosen.policy, TokenBudget)
    assert found.advice.startswith("Do not bother with an adaptive rule")


def test_where_long_traces_are_right_first_finish_hurts_and_is_not_advised():
    log = load_shipped_log().take(range(1500))
    longest, shortest = (end(log.length_tokens, axis=1, keepdims=True) for end in (np.max, np.min))
    flipped = dataclasses.replace(log, length_tokens=longest + shortest - log.length_tokens)
    table = stopping.compare(Sampling(16), [FirstFinish(1)], flipped, reference=FixedSamples(1))
    change = table.rows[1].against_reference["correct"]
    assert change.mean < -4 * change.standard_error  # worse than a single trace
    found = stopping.tune(Sampling(16), flipped, max_loss=0.02)
    assert found.chosen is None or not isinstance(found.chosen.policy, FirstFinish)
    hurt = [rule for rule in found.tested if rule.policy == FirstFinish(1)]
    assert all(rule.certificate.grade is Grade.NONE for rule in hurt)
