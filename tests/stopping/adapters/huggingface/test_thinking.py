"""Thoughts in transformers, on the shipped reasoner: decisions, signals, tokens, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stopping.artifacts import save_policy
from stopping.artifacts.loading import policy_and_interval
from stopping.policies import (
    AnswerAgreement,
    CandidateStop,
    CloseTokenThreshold,
    ConfidenceExit,
    EntropySlope,
    Kind,
    Margin,
    ThinkingObservation,
    TokenBudget,
    WindowedConfidence,
)
from stopping.policies.checks import INT32_MAX
from stopping.policies.decisions import MissingSignal
from stopping.policies.windows import ThoughtWindows, row_of
from stopping.reasoner import load_model
from stopping.reasoner.countdown import vote_key
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, NEWLINE, PAD, YES, decode
from tests.helpers import name_of
from tests.stopping.adapters.huggingface.examples import stepped_by_jax
from tests.test_imports import BLOCK_JAX
from tests.test_imports import run as run_code

EVERY_TOKENS, CAP_TOKENS = 32, 160
TIE = 1e-5
NEVER = TokenBudget(INT32_MAX)
POLICIES = [
    TokenBudget(90),
    CandidateStop(1),
    CloseTokenThreshold(-1.0, -12.0, 96),
    WindowedConfidence(-0.3, 64),
    EntropySlope(0.1, 1, 64),
    ConfidenceExit(-0.1, 32),
    AnswerAgreement(2, 32),
]


@pytest.fixture(scope="module")
def thought(huggingface, torch, reasoner):
    """Runs from one seed."""

    def run(policy, **options):
        torch.manual_seed(0)
        given = {"every_tokens": EVERY_TOKENS, "max_new_tokens": CAP_TOKENS, "max_answer_tokens": 20} | options
        return huggingface.think(*reasoner, policy, answer_of=vote_key, candidate_ids=[YES], **given)

    return run


@pytest.fixture(scope="module")
def plain(torch, reasoner):
    """Return what the model itself samples with that seed; each row up to its end."""
    model, _, inputs = reasoner
    torch.manual_seed(0)
    ids = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=CAP_TOKENS)
    rows = ids[:, inputs["input_ids"].shape[1] :].numpy()
    return [row[: np.append(np.flatnonzero(row == EOS) + 1, len(row))[0]] for row in rows]


@pytest.fixture(scope="module")
def runs(thought):
    return {str(policy): thought(policy) for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
def test_decisions_are_those_of_the_jax_policy(policy, runs):
    run, compared, ties = runs[str(policy)], 0, 0
    for decisions in run.decisions:
        for decision, (kind, _, score) in zip(decisions, stepped_by_jax(policy, decisions), strict=True):
            compared += 1
            if abs(score) <= TIE:
                ties += 1
            else:
                assert decision.kind == kind
    print(f"{policy}: {compared} decisions, {ties} ties left out")
    assert compared > 6 and ties < 0.1 * compared


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
def test_rows_stop_exactly_where_they_were_told(policy, runs, plain):
    """A stopped row equals the row without a policy up to a decision point, then has the closing tag and an answer."""
    run = runs[str(policy)]
    assert run.stopped.any()
    for row, (tokens, decisions) in enumerate(zip(run.tokens, run.decisions, strict=True)):
        stops = [decision.kind == Kind.STOP and not decision.put_off for decision in decisions]
        assert not any(stops[:-1])
        told = any(stops)
        assert run.stopped[row] == told
        if told:
            position = decisions[-1].observation.elapsed_tokens
            assert position % EVERY_TOKENS == 0 and run.thought_tokens[row] == position
            np.testing.assert_array_equal(tokens[:position], plain[row][:position])
            assert CLOSE_THINK not in tokens[:position] and tokens[position] == CLOSE_THINK
            assert run.answers[row] is not None
        asked = sorted({decision.observation.elapsed_tokens for decision in decisions})
        assert asked == list(range(EVERY_TOKENS, EVERY_TOKENS * (len(asked) + 1), EVERY_TOKENS))
        if not told:  # up to its end, whatever the other rows do
            np.testing.assert_array_equal(tokens, plain[row])
            assert len(asked) == min(run.thought_tokens[row], CAP_TOKENS - 1) // EVERY_TOKENS


def test_stops_come_at_different_places(runs):
    stops = {int(n) for run in runs.values() for n in run.thought_tokens[run.stopped]}
    assert len(stops) >= 3
    assert any(0 < run.stopped.sum() < len(run.stopped) for run in runs.values())


@pytest.mark.parametrize("policy", [NEVER, ConfidenceExit(1.0, 32)], ids=name_of)
def test_a_policy_that_never_stops_changes_no_token(policy, thought, plain):
    """Nor do its probes."""
    run = thought(policy)
    for own, alone in zip(run.tokens, plain, strict=True):
        np.testing.assert_array_equal(own, alone)
    assert not run.stopped.any()
    assert (run.probe_tokens > 0).any() == (Kind.PROBE in policy.kinds)
    assert run.texts == [decode(row.tolist()).partition("</think>")[2].removesuffix("<eos>") for row in plain]


@pytest.mark.parametrize("policy", POLICIES, ids=name_of)
def test_the_account_adds_up(policy, runs, reasoner):
    run = runs[str(policy)]
    generated = np.array([len(row) for row in run.tokens])
    np.testing.assert_array_equal(run.total_tokens, generated + run.probe_tokens)
    for row, tokens in enumerate(run.tokens):
        seen = [d.observation for d in run.decisions[row]]
        tries = {s.elapsed_tokens for s in seen if s.probed}
        tries |= {d.observation.elapsed_tokens for d in run.decisions[row] if d.kind == Kind.STOP}
        assert len(tries) * 2 <= run.probe_tokens[row] <= len(tries) * 21
        prompt = int(reasoner[2]["attention_mask"][row].sum())
        assert run.prefill_tokens[row] == sum(prompt + position for position in tries)
        if run.stopped[row] and tokens[-1] == EOS and len(tries) == 1:  # the forced answer is the answer returned
            assert run.probe_tokens[row] == generated[row] - run.thought_tokens[row]
        if CLOSE_THINK in tokens:
            assert tokens[run.thought_tokens[row]] == CLOSE_THINK
        else:
            assert run.thought_tokens[row] == generated[row]


@pytest.fixture(scope="module")
def ours():
    """Our own model's next-token distributions, log `[tokens, vocabulary]`, in JAX."""
    model = load_model("target")
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(model(tokens)[0]))

    def distributions(tokens):
        padded = np.pad(tokens, (0, 256 - len(tokens)), constant_values=PAD)
        return np.asarray(forward(jnp.asarray(padded)[None]))[: len(tokens)]

    return distributions


def test_signals_are_those_of_our_own_sampler(ours, thought, reasoner):
    """Within .002, absolute and relative: two float32 models, and three digits of a signal."""
    run, compared = thought(ConfidenceExit(1.0, 32)), 0
    for row, (tokens, decisions) in enumerate(zip(run.tokens, run.decisions, strict=True)):
        prompt = reasoner[2]["input_ids"][row][reasoner[2]["attention_mask"][row] == 1].numpy()
        distributions = ours(np.concatenate([prompt, tokens]))[
            len(prompt) - 1 :
        ]  # of each generated token, and of the next one
        log_prob = np.take_along_axis(distributions[:-1], tokens[:, None], axis=1)[:, 0]
        entropy = -np.sum(np.exp(distributions) * distributions, axis=1)[:-1]
        windows, at = ThoughtWindows(ThinkingObservation._fields, candidate_ids=[YES]), 0
        for decision in decisions:
            seen = decision.observation
            position = seen.elapsed_tokens
            if not seen.probed:
                part = slice(at, position)
                windows.add(tokens[part], log_prob[part], entropy[part])
                expected, at = row_of(windows.observe(distributions[position, CLOSE_THINK]), 0), position
                np.testing.assert_allclose(seen, expected, rtol=2e-3, atol=2e-3)
            else:
                prefix, log_probs = [*prompt, *tokens[:position], CLOSE_THINK], []
                while len(log_probs) < 20 and prefix[-1] != EOS:
                    distribution = ours(np.array(prefix))[-1]
                    prefix.append(int(distribution.argmax()))
                    log_probs.append(distribution.max())
                shown = seen.answer_mean_log_prob, seen.answer_least_log_prob
                np.testing.assert_allclose(shown, (np.mean(log_probs), np.min(log_probs)), rtol=2e-3, atol=2e-3)
            compared += 1
    assert compared > 20


def test_a_tag_of_several_tokens_is_forced_one_by_one(thought, plain):
    """A line end before the closing token: if the row has sampled it already, only the rest is forced."""
    budget, begun = int(np.flatnonzero(plain[0] == NEWLINE)[0]) + 1, 0
    run = thought(TokenBudget(budget), close=[NEWLINE, CLOSE_THINK], every_tokens=1)
    for row in np.flatnonzero(run.stopped):
        tokens, position = run.tokens[row], run.thought_tokens[row]
        np.testing.assert_array_equal(tokens[:position], plain[row][:position])
        expected = [CLOSE_THINK] if tokens[position - 1] == NEWLINE else [NEWLINE, CLOSE_THINK]
        begun += len(expected) == 1
        np.testing.assert_array_equal(tokens[position : position + len(expected)], expected)
        assert run.decisions[row][-1].observation.elapsed_tokens == position  # and is not asked within it
    assert 0 < begun < run.stopped.sum()


def test_a_row_is_asked_until_it_closes_its_thought(thought, plain):
    run = thought(NEVER, every_tokens=4)
    for tokens, decisions in zip(plain, run.decisions, strict=True):
        closed = np.append(np.flatnonzero(tokens == CLOSE_THINK), CAP_TOKENS - 1)[0]
        assert [decision.observation.elapsed_tokens for decision in decisions] == list(range(4, closed + 1, 4))


def test_words_may_be_forced_with_the_tag(thought, reasoner):
    run = thought(TokenBudget(32), forced=[NEWLINE, CLOSE_THINK])
    assert run.stopped.any()
    for row in np.flatnonzero(run.stopped):
        at = run.thought_tokens[row]
        assert decode(run.tokens[row][at:].tolist()).lstrip("\n") == "</think>" + run.texts[row] + "<eos>"
    with pytest.raises(ValueError, match="forced: expected tokens that hold the closing tag"):
        thought(TokenBudget(32), forced=[NEWLINE])


def test_no_answer_puts_a_stop_off(huggingface, torch, reasoner, plain):
    """An `answer_of` that accepts no answer before the third: two stops are put off, and their cost is counted."""
    looks = []

    def answer_of(text):
        looks.append(text)
        return None if len(looks) <= 2 else vote_key(text)

    model, tokenizer, inputs = reasoner
    alone = {name: values[:1] for name, values in inputs.items()}
    torch.manual_seed(0)
    options = {"every_tokens": 8, "max_new_tokens": 64}
    run = huggingface.think(model, tokenizer, alone, TokenBudget(8), answer_of=answer_of, **options)
    decisions = run.decisions[0]
    assert [(d.observation.elapsed_tokens, d.put_off) for d in decisions] == [(8, True), (16, True), (24, False)]
    assert run.stopped[0] and run.thought_tokens[0] == 24 and run.answers[0] is not None
    prompt = int(alone["attention_mask"].sum())
    assert run.prefill_tokens[0] == 3 * prompt + 8 + 16 + 24


def test_a_stop_just_before_the_cap_gives_the_answer_tried(thought):
    run = thought(TokenBudget(32), max_new_tokens=33)
    assert run.stopped.any()
    assert all(run.answers[row] is not None for row in np.flatnonzero(run.stopped))
    assert {len(run.tokens[row]) for row in np.flatnonzero(run.stopped)} == {33}


def test_a_saved_policy_brings_its_decision_points(thought, runs, tmp_path):
    policy = TokenBudget(90)
    save_policy(policy, tmp_path / "policy", decision_points={"on": "checkpoint", "interval_tokens": EVERY_TOKENS})
    run = thought(tmp_path / "policy", every_tokens=None)
    assert run.decisions == runs[str(policy)].decisions
    assert policy_and_interval(str(tmp_path / "policy"), 7) == (policy, 7)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (Margin(2), {}, "Margin reads leader_votes"),
        (NEVER, {"every_tokens": None}, "every_tokens: expected a whole number >= 1"),
        (NEVER, {"num_beams": 2}, "num_beams: expected 1, got 2"),
        (NEVER, {"stop_strings": ["x"]}, "stop_strings: not supported"),
        (NEVER, {"close": []}, "close: expected at least one token"),
    ],
)
def test_what_does_not_fit_is_refused(policy, options, message, thought):
    with pytest.raises(ValueError, match=message):
        thought(policy, **options)


def test_inputs_that_do_not_fit_are_refused(huggingface, reasoner):
    model, tokenizer, inputs = reasoner
    flipped = {**inputs, "attention_mask": inputs["attention_mask"].flip(1)}
    for given, message in (({**inputs, "pixels": 0}, "got also pixels"), (flipped, "padded on the left")):
        with pytest.raises(ValueError, match=message):
            huggingface.think(model, tokenizer, given, NEVER, every_tokens=8)
    with pytest.raises(
        MissingSignal, match="CandidateStop reads num_candidates; what can be had here is elapsed_tokens"
    ):
        huggingface.think(model, tokenizer, inputs, CandidateStop(1), every_tokens=8)


def test_without_torch_the_extra_is_named():
    code = BLOCK_JAX.replace("'jax',", "'torch',") + (
        "try:\n    import stopping.adapters.huggingface\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    expected = "stopping.adapters.huggingface needs torch; install it with: pip install 'stopping[transformers]'"
    assert run_code(code).strip() == expected
