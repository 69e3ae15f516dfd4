"""The log against what it is made from, and against its own tokens."""

import numpy as np
import pytest

from stopping.reasoner import recording
from stopping.reasoner.countdown import Difficulty, is_held_out, is_right, vote_key
from stopping.reasoner.recording import (
    CHECKPOINT_SIGNALS,
    TOKEN_SIGNALS,
    Plan,
    card,
    draw_distinct,
    prompt_tokens,
    record,
)
from stopping.reasoner.sampling import Probes, Samples
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, PAD, decode, encode
from stopping.traces import check, load_log, split
from tests.stopping.reasoner.examples import shipped

# One-digit numbers make prompts of two lengths only, so few programs are compiled.
PLAN = Plan(
    num_problems=24,
    num_samples=3,
    num_probed=10,
    num_with_signals=5,
    cap_tokens=96,
    difficulty=Difficulty(0.6, 9),
    seed=4,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    reports = []
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    record(shipped(), PLAN, path, reports.append)
    assert sum(reports) == 24
    return path


@pytest.fixture(scope="module")
def log(path):
    return load_log(path)


@pytest.fixture(scope="module")
def problems():
    return draw_distinct(PLAN)


def test_what_the_log_is(log, problems):
    assert (log.num_problems, log.num_samples, log.num_traces) == (24, 3, 72)
    assert log.problem_ids == tuple(problem.prompt for problem in problems)
    assert (log.cap_tokens, str(log.reference)) == (96, "majority@3")
    assert (log.sample_ids == [0, 1, 2]).all() and log.correct_known.all() and log.censored_known.all()
    assert log.checkpoints.grid == "token" and set(log.token_signals.names) == set(TOKEN_SIGNALS)
    assert "majority@3" in str(check(log))


def test_groups(log, problems):
    assert log.groups["numbers"].tolist() == [str(len(problem.numbers)) for problem in problems]
    assert log.groups["detail"].tolist() == ["tokens"] * 5 + ["checkpoints"] * 5 + ["traces"] * 14
    for name, part in zip(("fit", "certify", "test"), split(log, (0.3, 0.5, 0.2), seed=0), strict=True):
        assert set(part.groups["split"]) == {name} and part.equals(log.where(split=name))


def test_lengths_and_thoughts(log):
    assert (log.length_tokens[log.censored] == 96).all() and (log.length_tokens <= 96).all()
    assert (log.length_tokens >= 1).all() and 0 < log.censored.sum() < 72
    closed = log.thought_tokens >= 0
    assert (log.thought_tokens[closed] < log.length_tokens[closed]).all()
    assert closed[log.answered].all() and not log.answered[log.censored].any()
    assert 0 < log.answered.sum() < 72 and not log.correct[~log.answered].any()


def test_everything_follows_from_the_tokens(log, problems):
    for row in range(PLAN.num_with_signals):
        for column in range(3):
            ids = log.token_signal("token_id", row, column).astype(int).tolist()
            assert len(ids) == log.length_tokens[row, column]
            assert (EOS not in ids) == log.censored[row, column] and EOS not in ids[:-1] and PAD not in ids
            thought = ids.index(CLOSE_THINK) if CLOSE_THINK in ids else -1
            assert log.thought_tokens[row, column] == thought
            ended = thought >= 0 and ids[-1] == EOS
            answer = decode(ids[thought + 1 : -1]) if ended else ""
            assert log.correct[row, column] == is_right(problems[row], answer)
            assert log.answer_text[row, column] == vote_key(answer)
            assert log.answered[row, column] == (vote_key(answer) is not None)
            for name in TOKEN_SIGNALS[1:]:
                values = log.token_signal(name, row, column)
                assert len(values) == len(ids) and np.isfinite(values).all()
                assert (values >= 0).all() if name == "entropy" else (values <= 0).all()


def test_tokens_are_kept_of_the_first_problems_alone(log):
    with pytest.raises(ValueError, match="nothing was logged for problem 5"):
        log.token_signal("token_id", PLAN.num_with_signals, 0)


def test_checkpoints(log):
    probes = log.checkpoints
    assert set(probes.problem_index) == set(range(PLAN.num_probed))
    assert set(probes.position_tokens) == {0, 32, 64}
    assert list(probes.signals) == list(CHECKPOINT_SIGNALS)
    found = set(zip(probes.problem_index, probes.sample_index, probes.position_tokens, strict=True))
    expected = set()
    for row in range(PLAN.num_probed):
        for column in range(3):
            end = log.thought_tokens[row, column]
            end = log.length_tokens[row, column] - (not log.censored[row, column]) if end < 0 else end
            expected |= {(row, column, position) for position in (0, 32, 64) if position <= end}
    assert found == expected and len(found) == len(probes.position_tokens)
    assert (probes.probe_cost_tokens >= 2).all() and (probes.probe_cost_tokens <= 21).all()
    assert probes.correct_known.all() and (probes.answer >= 0).any() and not probes.correct[probes.answer == -1].any()
    for name in CHECKPOINT_SIGNALS:
        values = probes.signals[name]
        window = name in ("mean_entropy", "mean_log_prob")  # of which there is none before the first token
        absent = (probes.position_tokens == 0) if window else np.zeros(len(values), bool)
        np.testing.assert_array_equal(np.isnan(values), absent)
    assert (probes.signals["answer_least_log_prob"] <= probes.signals["answer_mean_log_prob"]).all()


def test_checkpoint_signals_are_those_of_the_trace(log):
    probes = log.checkpoints
    for index, (row, column, position) in enumerate(
        zip(probes.problem_index, probes.sample_index, probes.position_tokens, strict=True)
    ):
        if row < PLAN.num_with_signals:
            signals = {name: values[index] for name, values in probes.signals.items()}
            text = decode(log.token_signal("token_id", row, column)[:position].astype(int).tolist())
            assert signals["num_candidates"] == text.count(" yes")
            assert signals["log_close_prob"] == log.token_signal("log_close_prob", row, column)[position]
            for name in ("entropy", "log_prob") if position else ():
                window = log.token_signal(name, row, column)[position - 32 : position].astype(float)
                assert signals[f"mean_{name}"] == pytest.approx(window.mean(), rel=2e-3)  # halves have three digits


def test_means_are_of_the_tokens_since_the_last_probe():
    probe = Probes(128, np.array([0]), np.array([0]), np.full((1, 20), EOS, np.int8), np.zeros(1), np.zeros(1))
    signals = (np.arange(160.0).reshape(1, 1, 160),) * 3
    samples = Samples(np.zeros((1, 1, 160), np.int8), *signals, np.array([[160]]), np.array([[True]]), [probe])
    for every, mean in ((32, 111.5), (64, 95.5)):
        (made,) = recording._checkpoints(draw_distinct(Plan(num_problems=1)), samples, every)
        assert made["mean_entropy"] == made["mean_log_prob"] == mean


def test_recorded_again_is_the_same_to_the_byte(path, tmp_path):
    record(shipped(), PLAN, tmp_path / "log.parquet")
    assert (tmp_path / "log.parquet").read_bytes() == path.read_bytes()


def test_the_card_counts_what_is_there(log):
    text = card(log, PLAN)
    assert "24 Countdown problems x 3 traces" in text and f"| {log.correct.mean():.3f}: " in text
    assert f"{len(log.checkpoints.position_tokens)}, every 32 tokens, on 10 problems" in text


def test_problems_are_distinct_and_held_out(problems):
    names = {(tuple(sorted(problem.numbers)), problem.target) for problem in problems}
    assert len(names) == 24 and all(is_held_out(problem.numbers) for problem in problems)
    assert draw_distinct(PLAN) == problems


def test_more_problems_than_there_are_is_refused():
    with pytest.raises(ValueError, match="distinct problems of this difficulty were found, not 10000"):
        draw_distinct(Plan(num_problems=10_000, difficulty=Difficulty(1.0, 6)))


WRITTEN = [  # text, thought tokens, answer by its key, right
    ("4*3=12,12*2=24 yes\n</think>(3*4)*2<eos>", 16, "(*2*3*4)", True),
    ("</think>2+3+4<eos>", 0, "(+2+3+4)", False),
    ("4</think>4*(2*3<eos>", 1, None, False),
    ("4</think><eos>", 1, None, False),
    ("4</think>3*4*2</think><eos>", 1, None, False),
    ("4*3=12<eos>", None, None, False),
    ("4</think>3*4*2", 1, None, False),
    ("stop\nwait\nstop", None, None, False),
]


def test_written_traces_and_answers(monkeypatch, tmp_path):
    """Traces of a model that writes what we say: broken answers, answers cut off, ends without a thought's end."""
    rows = [encode(text) for text, *_ in WRITTEN]
    length = np.array([[len(row) for row in rows]], np.int32)
    tokens = np.full((1, len(rows), 40), PAD, np.int8)
    for column, row in enumerate(rows):
        tokens[0, column, : len(row)] = row
    signal = np.where(tokens == PAD, 0, -1).astype(np.float32)
    answers = np.full((3, 20), PAD, np.int8)
    for row, text in enumerate(("4*3*2<eos>", "9" * 20, "<eos>")):
        answers[row, : len(encode(text))] = encode(text)
    probe = Probes(0, np.zeros(3, int), np.arange(3), answers, np.array([-1, -2, -3.0]), np.array([-1, -4, -3.0]))
    censored = ~np.any(tokens == EOS, axis=-1)
    samples = Samples(tokens, signal, -signal, signal, length, censored, [probe])
    (problem,) = draw_distinct(Plan(num_problems=1, difficulty=Difficulty(1.0)))
    problem = type(problem)((2, 3, 4), 24)
    monkeypatch.setattr(recording, "draw_distinct", lambda plan: [problem])
    monkeypatch.setattr(recording, "split", lambda log, fractions, seed: (log,) * 3)
    monkeypatch.setattr(recording, "sample", lambda *args, **options: samples)
    log = record(shipped(), Plan(1, len(rows), 1, 1, cap_tokens=40), tmp_path / "log.parquet")
    _, thoughts, keys, right = zip(*WRITTEN, strict=True)
    assert log.thought_tokens[0].tolist() == [-1 if thought is None else thought for thought in thoughts]
    assert log.answer_text[0].tolist() == list(keys)
    assert log.correct[0].tolist() == list(right)
    assert log.censored[0].tolist() == [False] * 6 + [True] * 2
    assert log.checkpoints.answer_text.tolist() == ["(*2*3*4)", None, None]
    assert log.checkpoints.correct.tolist() == [True, False, False]
    assert log.checkpoints.probe_cost_tokens.tolist() == [7, 21, 2]
    assert prompt_tokens(problem) == encode("<bos>2 3 4>24<think>")
