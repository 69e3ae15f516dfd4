"""The log that comes with the package: what it promises to hold, and that it is the shipped model's."""

import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from stopping.reasoner import Plan, load_model, load_shipped_log
from stopping.reasoner.countdown import Problem, is_held_out, is_right, vote_key
from stopping.reasoner.names import SHIPPED
from stopping.reasoner.recording import LOG, TOKEN_SIGNALS, card, prompt_tokens
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, PAD, decode
from stopping.traces import split

PLAN = Plan()


@pytest.fixture(scope="module")
def log():
    return load_shipped_log()


def problem_of(name):
    numbers, target = name.split(">")
    return Problem(tuple(map(int, numbers.split())), int(target))


def test_its_size_and_what_is_known(log):
    assert (log.num_problems, log.num_samples, log.num_traces) == (4000, 16, 64_000)
    assert (log.cap_tokens, str(log.reference)) == (480, "majority@16")
    assert log.present.all() and log.correct_known.all() and log.censored_known.all() and not log.set_aside


def test_its_problems_were_never_trained_on_and_are_distinct(log):
    problems = [problem_of(name) for name in log.problem_ids]
    assert all(is_held_out(problem.numbers) for problem in problems)
    assert len({(tuple(sorted(problem.numbers)), problem.target) for problem in problems}) == 4000
    assert [str(len(problem.numbers)) for problem in problems] == log.groups["numbers"].tolist()


def test_its_parts(log):
    sizes = {"fit": 1200, "certify": 2000, "test": 800}
    for name, part in zip(sizes, split(log, (0.3, 0.5, 0.2), seed=0), strict=True):
        assert part.num_problems == sizes[name] and set(part.groups["split"]) == {name}


def test_checkpoints_and_signals(log):
    probes, detail = log.checkpoints, log.groups["detail"]
    assert probes.grid == "token" and set(probes.position_tokens % 32) == {0} and probes.correct_known.all()
    assert (np.unique(probes.problem_index) == np.flatnonzero(detail != "traces")).all()
    assert np.count_nonzero(detail != "traces") == 1000 and np.count_nonzero(detail == "tokens") == 200
    assert set(log.token_signals.names) == set(TOKEN_SIGNALS)


def test_tokens_give_answers_and_lengths(log):
    for row in np.flatnonzero(log.groups["detail"] == "tokens"):
        problem = problem_of(log.problem_ids[row])
        for column in range(16):
            ids = log.token_signal("token_id", row, column).astype(int).tolist()
            assert len(ids) == log.length_tokens[row, column] and (EOS not in ids) == log.censored[row, column]
            thought = ids.index(CLOSE_THINK) if CLOSE_THINK in ids else -1
            answer = decode(ids[thought + 1 : -1]) if thought >= 0 and ids[-1] == EOS else ""
            assert log.thought_tokens[row, column] == thought
            assert log.answer_text[row, column] == vote_key(answer)
            assert log.correct[row, column] == is_right(problem, answer)


def test_it_is_the_shipped_model_s(log):
    """Its logged log-probabilities are those of the shipped weights, to the three digits of a half."""
    tokens, logged = np.full((32, 512), PAD, np.int32), []
    for row in range(32):
        ids, prompt = log.token_signal("token_id", row, 0), prompt_tokens(problem_of(log.problem_ids[row]))
        tokens[row, : len(prompt) + len(ids)] = [*prompt, *ids.astype(int)]
        logged.append((len(prompt), log.token_signal("log_prob", row, 0).astype(float)))
    log_probs = jax.jit(lambda model, tokens: jax.nn.log_softmax(model(tokens)))(load_model("target"), tokens)
    for row, (start, found) in enumerate(logged):
        places = np.arange(start, start + len(found))
        expected = np.asarray(log_probs)[row, places - 1, tokens[row, places]]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_it_has_what_stopping_rules_live_on(log):
    """The ranges wished for; `stopping study reasoner` has the figures."""
    by_problem = log.correct.mean(axis=1)
    assert 0.3 < by_problem.mean() < 0.8
    assert np.quantile(by_problem, 0.1) < 0.1 and np.quantile(by_problem, 0.9) > 0.8
    assert log.length_tokens.std() / log.length_tokens.mean() > 0.4
    wrong = [len(set(row[(row >= 0) & ~right].tolist())) for row, right in zip(log.answer, log.correct, strict=True)]
    assert np.mean(wrong) > 3
    rows = np.flatnonzero(log.groups["detail"] == "tokens")
    words = [decode(log.token_signal("token_id", row, 0).astype(int).tolist()) for row in rows]
    assert np.mean([" yes\nwait" in text for text in words]) > 0.1  # thinks on after a first success


def test_the_card_is_this_log_s(log):
    assert (LOG.parent / "README.md").read_text(encoding="utf-8") == card(log, PLAN)


def test_what_is_shipped_is_small_and_whole_in_the_wheel():
    files = {path for path in SHIPPED.rglob("*") if path.is_file()}
    assert LOG in files and sum(path.stat().st_size for path in files) <= 20e6
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["stopping"]
    assert files <= {path for pattern in patterns for path in (root / "stopping").glob(pattern)}
