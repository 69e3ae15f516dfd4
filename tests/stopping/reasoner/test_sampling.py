"""Drawn traces against the model read from the start, and against each other."""

import functools
import warnings

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from stopping.reasoner.llama import initialise
from stopping.reasoner.sampling import ANSWER_TOKENS, sample
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, ID, PAD, encode
from tests.stopping.reasoner.examples import TINY, shipped

KEY = jax.random.key(7)
PROMPTS = np.array(
    [encode(f"<bos>{text}<think>") for text in ("2 3 4>24", "5 6 7>18", "1 9 9>81", "8 2 3>19")], np.int32
)
NUM_PROMPT = PROMPTS.shape[1]
INDEX = [3, 0, 11, 7]
CAP = 96


@functools.cache
def padding():
    """A model to which `<pad>` is a token like others: a little likelier than `+`."""
    embedding = shipped().embedding
    return eqx.tree_at(lambda model: model.embedding, shipped(), embedding.at[PAD].set(1.05 * embedding[ID["+"]]))


def drawn(rows=slice(None), num_samples=6, max_tokens=CAP, probe_every_tokens=None, key=KEY, model=shipped):
    return sample(
        key,
        model(),
        PROMPTS[rows],
        INDEX[rows],
        num_samples,
        max_tokens=max_tokens,
        probe_every_tokens=probe_every_tokens,
    )


@functools.cache
def probed(model=shipped):
    return drawn(probe_every_tokens=32, model=model)


@eqx.filter_jit
def log_probs(model, tokens):
    return jax.nn.log_softmax(model(tokens))


def read(texts, model=shipped):
    """Log-probabilities after every token of these texts; padding at the right changes nothing before it."""
    width = NUM_PROMPT + CAP + ANSWER_TOKENS + 1
    padded = np.zeros((24, width), np.int32)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return np.asarray(log_probs(model(), padded))


def test_shapes_and_ends():
    samples = drawn()
    assert samples.tokens.shape == (4, 6, CAP) and samples.tokens.dtype == np.int8 and samples.probes == []
    ended = np.any(samples.tokens == EOS, axis=-1)
    length = np.where(ended, np.argmax(samples.tokens == EOS, axis=-1) + 1, CAP)
    np.testing.assert_array_equal(samples.length_tokens, length)
    np.testing.assert_array_equal(samples.censored, ~ended)
    after = np.arange(CAP) >= length[..., None]
    np.testing.assert_array_equal(samples.tokens == PAD, after)
    for signal in samples[1:4]:
        assert signal.dtype == np.float32 and not signal[after].any()
    # What these tests stand on: ends early and late, some cut, some with a closed thought.
    assert 6 < samples.censored.sum() < 18 and length.min() < 32


@pytest.mark.parametrize("max_tokens", [1, 20, 64])
def test_a_smaller_cap_gives_a_prefix(max_tokens):
    whole, part = drawn(), drawn(max_tokens=max_tokens)
    for one, other in zip(part[:4], whole[:4], strict=True):
        np.testing.assert_array_equal(one, other[..., :max_tokens])
    np.testing.assert_array_equal(part.length_tokens, np.minimum(whole.length_tokens, max_tokens))
    np.testing.assert_array_equal(part.censored, ~np.any(whole.tokens[..., :max_tokens] == EOS, axis=-1))


def test_a_trace_does_not_depend_on_its_neighbours():
    whole = drawn()
    for rows, num_samples in ((slice(1, 2), 2), (slice(2, 4), 20)):
        part = drawn(rows, num_samples)
        both = min(num_samples, 6)
        np.testing.assert_array_equal(part.tokens[:, :both], whole.tokens[rows, :both])
        # Sums of float32 in another order.
        np.testing.assert_allclose(part.log_prob[:, :both], whole.log_prob[rows, :both], rtol=1e-4, atol=1e-5)


def test_probes_change_nothing():
    for one, other in zip(probed()[:6], drawn()[:6], strict=True):
        np.testing.assert_array_equal(one, other)


def test_problems_samples_and_keys_have_noise_of_their_own():
    same_text = sample(KEY, shipped(), PROMPTS[[0, 0]], [0, 1], 3, max_tokens=20)
    assert len({trace.tobytes() for trace in same_text.tokens.reshape(6, 20)}) == 6
    assert not np.array_equal(drawn(max_tokens=20, key=jax.random.key(8)).tokens, drawn(max_tokens=20).tokens)


def test_no_warning_has_to_be_silenced(monkeypatch):
    """Threads share their warning filters, so a filter set while one of them compiles may already be gone again."""
    monkeypatch.setattr(warnings, "filterwarnings", lambda *_, **__: None)
    model = initialise(jax.random.key(0), TINY._replace(vocab_size=TINY.vocab_size + 1))  # compiled for this test alone
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sample(KEY, model, PROMPTS, INDEX, 2, max_tokens=20)
    assert [str(each.message) for each in told if "donated" in str(each.message)] == []


def test_signals_are_those_of_the_text_read_at_once():
    samples = drawn()
    prompts = np.repeat(PROMPTS, 6, axis=0)
    tokens = samples.tokens.reshape(24, CAP).astype(int)
    expected = read(np.concatenate([prompts, tokens], axis=1))[:, NUM_PROMPT - 1 : NUM_PROMPT + CAP - 1]
    there = tokens != PAD
    found = [signal.reshape(24, CAP)[there] for signal in samples[1:4]]
    taken = np.take_along_axis(expected, tokens[..., None], axis=-1)[..., 0]
    entropy = -np.sum(np.exp(expected) * expected, axis=-1)
    for signal, value in zip(found, (taken, entropy, expected[..., CLOSE_THINK]), strict=True):
        np.testing.assert_allclose(signal, value[there], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_first_tokens_follow_the_softmax(temperature):
    count = 2000
    samples = sample(KEY, shipped(), PROMPTS[:1], [0], count, max_tokens=1, temperature=temperature)
    logits = read(PROMPTS[:1])[0, NUM_PROMPT - 1].astype(float)
    expected = np.exp(logits / temperature)
    expected *= count / expected.sum()
    found = np.bincount(samples.tokens[0, :, 0], minlength=32)
    rare = expected < 5
    pooled = [[*values[~rare], values[rare].sum()] for values in (found, expected)]
    assert np.count_nonzero(~rare) >= 2 and chisquare(*pooled).pvalue > 1e-3
    # What is logged is at temperature 1 all the same.
    np.testing.assert_allclose(samples.log_prob[0, :, 0], logits[samples.tokens[0, :, 0]], rtol=1e-4, atol=1e-5)


def test_later_tokens_follow_their_law_too():
    """At temperature 1, log-probability plus entropy has mean 0 at every token, whatever came before."""
    samples = drawn(slice(2, 4), 20)
    sums = np.sum(samples.log_prob + samples.entropy, axis=-1).ravel()
    assert abs(sums.mean()) < 5 * sums.std() / len(sums) ** 0.5


def test_probes_stand_on_the_grid_and_ask_only_rows_that_still_think():
    samples = drawn()
    assert [probes.position_tokens for probes in probed().probes] == [0, 32, 64]
    for probes in probed().probes:
        before = samples.tokens[..., : probes.position_tokens]
        thinking = ~np.any((before == CLOSE_THINK) | (before == EOS), axis=-1)
        np.testing.assert_array_equal(np.stack([probes.problem, probes.sample]), np.nonzero(thinking))
    assert 0 < len(probed().probes[2].problem) < len(probed().probes[1].problem) < 24
    assert [probes.position_tokens for probes in drawn(probe_every_tokens=64).probes] == [0, 64]


@pytest.mark.parametrize("model", [shipped, padding])
def test_probes_are_greedy_answers_after_the_closed_thought(model):
    some_end = False
    for probes in probed(model).probes:
        prefixes = probed(model).tokens[probes.problem, probes.sample, : probes.position_tokens]
        texts = [[*PROMPTS[row], *prefix, CLOSE_THINK] for row, prefix in zip(probes.problem, prefixes, strict=True)]
        chosen = [[] for _ in texts]
        for _ in range(ANSWER_TOKENS):
            for row, scores in zip(range(len(texts)), read(texts, model), strict=False):
                if EOS not in texts[row][NUM_PROMPT + probes.position_tokens :]:
                    score = scores[len(texts[row]) - 1]
                    texts[row].append(int(np.argmax(score)))
                    chosen[row].append(score.max())
        for row, text in enumerate(texts):
            answer = text[NUM_PROMPT + probes.position_tokens + 1 :]
            some_end |= EOS in answer and (model is shipped or PAD in answer)
            np.testing.assert_array_equal(probes.tokens[row], answer + [PAD] * (ANSWER_TOKENS - len(answer)))
        np.testing.assert_allclose(probes.mean_log_prob, [np.mean(each) for each in chosen], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(probes.least_log_prob, [np.min(each) for each in chosen], rtol=1e-4, atol=1e-4)
    assert some_end


def test_a_trace_with_a_pad_inside_is_measured_to_its_end():
    samples = drawn(model=padding)
    ended = np.any(samples.tokens == EOS, axis=-1)
    length = np.where(ended, np.argmax(samples.tokens == EOS, axis=-1) + 1, CAP)
    assert np.any((samples.tokens == PAD) & (np.arange(CAP) < length[..., None]))
    np.testing.assert_array_equal(samples.length_tokens, length)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "expected temperature > 0"),
        ({"temperature": -1.0}, "expected temperature > 0"),
        ({"temperature": float("nan")}, "expected temperature > 0"),
        ({"num_samples": 0}, "num_samples and max_tokens >= 1"),
        ({"max_tokens": 0}, "num_samples and max_tokens >= 1"),
        ({"problem_index": [1]}, "a problem_index for each prompt, got .* 1 for 4"),
        ({"max_tokens": 503}, "max_tokens: expected at most 502 after this prompt, got 503"),
        ({"probe_every_tokens": 0}, "probe_every_tokens: expected a multiple of 32, got 0"),
        ({"probe_every_tokens": 33}, "probe_every_tokens: expected a multiple of 32, got 33"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, message):
    asked = {"problem_index": INDEX, "num_samples": 2, "max_tokens": 8} | wrong
    with pytest.raises(ValueError, match=message):
        sample(KEY, shipped(), PROMPTS, **asked)


def test_the_whole_context_can_be_used():
    prompt = np.concatenate([PROMPTS, np.tile(PROMPTS[:, 1:], 53)], axis=1)[:, :480]
    samples = sample(KEY, shipped(), prompt, INDEX, 1, max_tokens=32)
    assert samples.tokens.shape == (4, 1, 32)
