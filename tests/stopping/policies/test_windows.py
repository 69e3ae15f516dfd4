"""Observations of a running thought are those that a log keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.policies import (
    NO_ANSWER,
    AnswerAgreement,
    CandidateStop,
    Kind,
    Margin,
    ThinkingObservation,
    TokenBudget,
    WindowedConfidence,
)
from stopping.policies.decisions import THINKING, MissingSignal, require_signals
from stopping.policies.windows import ThoughtWindows, row_of, short
from stopping.reasoner import load_shipped_log
from stopping.reasoner.vocabulary import YES
from tests.test_imports import BLOCK_JAX, run


def test_a_shipped_trace_is_observed_as_its_log_says():
    log, compared = load_shipped_log().take(range(2)), 0
    points = log.checkpoints
    for problem in range(2):
        for sample in range(8):
            mine = np.flatnonzero(
                (points.problem_index == problem) & (points.sample_index == sample) & (points.position_tokens > 0)
            )
            drawn = [log.token_signal(name, problem, sample) for name in ("token_id", "log_prob", "entropy")]
            close = log.token_signal("log_close_prob", problem, sample)
            windows, at = ThoughtWindows(ThinkingObservation._fields, candidate_ids={YES}), 0
            for point in mine[np.argsort(points.position_tokens[mine])]:
                position = int(points.position_tokens[point])
                windows.add(*(values[at:position] for values in drawn))
                at = position
                seen = row_of(windows.observe(close[position]), 0)
                assert seen.elapsed_tokens == position
                assert seen.log_close_prob == points.signals["log_close_prob"][point]
                assert seen.num_candidates == points.signals["num_candidates"][point]
                for name in ("mean_log_prob", "mean_entropy"):  # of values that are themselves kept to three digits
                    assert getattr(seen, name) == pytest.approx(points.signals[name][point], rel=1e-3, abs=1e-4)
                compared += 1
    assert compared > 20


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-9, 0), st.floats(0, 3)), min_size=1, max_size=40), st.data())
def test_how_tokens_come_changes_nothing(tokens, data):
    """One by one, in blocks, or beside other rows."""
    ids, log_probs, entropies = (np.array(values) for values in zip(*tokens, strict=True))
    cut = data.draw(st.integers(0, len(tokens)))
    alone = ThoughtWindows(ThinkingObservation._fields, candidate_ids={3})
    for token in tokens:
        alone.add(*token)
    beside = ThoughtWindows(ThinkingObservation._fields, 3, candidate_ids={3})
    for part in (slice(0, cut), slice(cut, None)):
        beside.add(ids[part], log_probs[part], entropies[part], rows=[1])
        beside.add(np.array([[3], [4]]), [-1.0, -2.0], [0.5, 0.5], rows=[0, 2])
    seen, expected = row_of(beside.observe([-3.0], rows=[1]), 0), row_of(alone.observe(-3.0), 0)
    for name, value in expected._asdict().items():  # sums in another order may round to the next number
        assert getattr(seen, name) == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert expected.elapsed_tokens == len(tokens)
    assert expected.num_candidates == np.count_nonzero(ids == 3)
    assert expected.mean_log_prob == pytest.approx(np.mean(log_probs), rel=5e-4, abs=1e-6)
    others = beside.observe([-1.0, -1.0], rows=[0, 2])
    np.testing.assert_array_equal(others.num_candidates, [2, 0])
    np.testing.assert_array_equal(others.mean_log_prob, [-1, -2])


def test_a_window_begins_at_each_decision_point():
    windows = ThoughtWindows(ThinkingObservation._fields, candidate_ids={1})
    windows.add([1, 1], [-1.0, -3.0], [0.0, 1.0])
    assert windows.observe(-4.0).mean_log_prob == -2
    windows.add(1, -5.0, 2.0)
    seen = row_of(windows.observe(-0.5), 0)
    assert seen == (3, -0.5, -5.0, 2.0, 3, False, NO_ANSWER, 0.0, 0.0)


def test_fields_have_the_types_of_observations():
    windows = ThoughtWindows((), 2)
    windows.add([5, 5])
    seen = windows.observe()
    for observation in (seen, windows.probed(seen, ["a", None])):
        for name, values in observation._asdict().items():
            assert values.dtype == THINKING.dtype_of(name) and values.shape == (2,), name


def test_equal_answers_of_a_row_share_a_label():
    windows, labels = ThoughtWindows(("probed_answer",), 2), []
    for answers in (["x", "x"], ["y", None], ["x", "z"]):
        labels.append(windows.probed(windows.observe(), answers).probed_answer.tolist())
    assert labels == [[0, 0], [1, NO_ANSWER], [0, 1]]
    only = windows.probed(windows.observe(rows=[1]), ["z"], rows=[1])
    assert only.probed.all() and only.probed_answer == [1]


def test_three_digits_and_nothing_infinite():
    assert short([-np.inf, np.inf, -1e9]).tolist() == [-65504, 65504, -65504]
    assert short(-0.12345) == np.float32(np.float16(-0.12345))


def test_a_signal_that_stops_coming_is_named():
    windows = ThoughtWindows(("mean_log_prob",))
    windows.add(4, -1.0)
    windows.add(4)
    with pytest.raises(MissingSignal, match="mean_log_prob: expected a value for every token"):
        windows.observe()
    windows = ThoughtWindows(("log_close_prob",))
    with pytest.raises(MissingSignal, match="log_close_prob"):
        windows.observe()
    windows = ThoughtWindows(("answer_mean_log_prob",))
    with pytest.raises(MissingSignal, match="answer_mean_log_prob"):
        windows.probed(windows.observe(), ["x"])
    with pytest.raises(MissingSignal, match="candidate_ids"):
        ThoughtWindows(CandidateStop.signals)


def test_what_cannot_be_run_is_refused():
    def try_(policy, signals=ThinkingObservation._fields):
        require_signals(THINKING, policy, signals, (Kind.CONTINUE, Kind.STOP))

    try_(TokenBudget(5), ["elapsed_tokens"])
    with pytest.raises(
        MissingSignal, match="WindowedConfidence reads mean_log_prob; what can be had here is elapsed_tok"
    ):
        try_(WindowedConfidence(-1.0, 0), ["elapsed_tokens"])
    with pytest.raises(MissingSignal, match="Margin reads leader_votes, runner_up_votes"):
        try_(Margin(2))
    with pytest.raises(ValueError, match="AnswerAgreement may ask for PROBE; expected CONTINUE, STOP alone"):
        try_(AnswerAgreement(2, 32))


def test_adapters_need_neither_jax_nor_torch():
    code = BLOCK_JAX.replace("'jax',", "'jax', 'torch', 'transformers',") + (
        "import stopping.policies.windows as observations\n"
        "print(observations.ThoughtWindows(()).observe().elapsed_tokens)"
    )
    assert run(code).strip() == "[0]"
