"""Traces of one prompt in transformers: votes, cancelled traces, counts of tokens."""

import numpy as np
import pytest

from stopping.policies import FirstFinish, FixedSamples, Kind, Margin, TokenBudget, UnanimousWindow
from stopping.reasoner.countdown import vote_key
from stopping.reasoner.vocabulary import EOS, decode
from tests.helpers import name_of
from tests.stopping.adapters.huggingface.examples import stepped_by_jax

CAP_TOKENS, NUM_TRACES = 160, 8


@pytest.fixture(scope="module")
def sampled(huggingface, torch, reasoner):
    model, tokenizer, inputs = reasoner

    def run(policy, **options):
        torch.manual_seed(0)
        one = {name: values[1:2] for name, values in inputs.items()}
        options = {"num_traces": NUM_TRACES, "max_new_tokens": CAP_TOKENS} | options
        return huggingface.sample(model, tokenizer, one, policy, answer_of=answer_in, **options)

    return run


def answer_in(text):
    return vote_key(text.partition("</think>")[2])


@pytest.fixture(scope="module")
def all_samples(sampled):
    return sampled(Margin(NUM_TRACES + 1))


def test_all_samples_vote(all_samples):
    run = all_samples
    assert not run.stopped and run.discarded_tokens == 0
    lengths = [len(tokens) for tokens in run.tokens]
    assert run.total_tokens == sum(lengths) and run.latency_tokens == max(lengths)
    answers = [answer_in(decode(tokens.tolist())[:-5]) if tokens[-1] == EOS else None for tokens in run.tokens]
    assert run.answers == answers
    named = [answers[row] for row in np.argsort(lengths, kind="stable") if answers[row] is not None]
    assert run.num_answers == len(named) >= 3
    assert run.answer == max(dict.fromkeys(named), key=named.count)  # of equals the first
    assert answer_in(run.text) == run.answer


@pytest.mark.parametrize("policy", [FirstFinish(1), FirstFinish(3), Margin(2), UnanimousWindow(2)], ids=name_of)
def test_a_stop_cancels_what_still_runs(policy, sampled, all_samples):
    run = sampled(policy)
    assert run.stopped
    for own, alone in zip(run.tokens, all_samples.tokens, strict=True):
        np.testing.assert_array_equal(own, alone[: run.latency_tokens])
    ended = [
        len(own) == len(alone) and own[-1] == EOS for own, alone in zip(run.tokens, all_samples.tokens, strict=True)
    ]
    assert run.total_tokens == sum(map(len, run.tokens))
    assert run.discarded_tokens == sum(len(own) for own, whole in zip(run.tokens, ended, strict=True) if not whole)
    kinds = [decision.kind for decision in run.decisions]
    assert kinds[-1] == Kind.STOP and Kind.STOP not in kinds[:-1]
    assert run.decisions == [*all_samples.decisions[: len(kinds) - 1], run.decisions[-1]]
    assert run.decisions[-1].observation == all_samples.decisions[len(kinds) - 1].observation
    last = run.decisions[-1].observation
    assert (last.elapsed_tokens, last.total_tokens) == (run.latency_tokens, run.total_tokens)
    assert run.num_answers == last.num_answers and run.answer is not None
    for decision, (kind, amount, _) in zip(run.decisions, stepped_by_jax(policy, run.decisions), strict=True):
        assert (decision.kind, decision.amount) == (kind, amount)


def test_a_stop_waits_for_an_answer(sampled):
    run = sampled(TokenBudget(1))
    assert run.decisions[0].observation.num_launched == 0 and not run.decisions[-1].put_off
    assert all(decision.put_off for decision in run.decisions[1:-1])
    assert run.num_answers == 1 and run.answer is not None


def test_a_trace_that_ended_is_counted_once(sampled, all_samples):
    """The padding token is the end token."""
    run = sampled(Margin(NUM_TRACES + 1), pad_token_id=EOS)
    assert run.decisions == all_samples.decisions and run.total_tokens == all_samples.total_tokens


def test_of_traces_that_end_together_those_after_a_stop_are_not_counted(huggingface, reasoner):
    """Answers without a thought, at a temperature close to zero, are all equal."""
    model, tokenizer, _ = reasoner
    prompt = tokenizer(["2 3 4>24<think></think>"], return_tensors="pt")
    options = {"temperature": 1e-3, "num_traces": 3, "answer_of": vote_key, "max_new_tokens": 32}
    both, first = (huggingface.sample(model, tokenizer, prompt, FirstFinish(number), **options) for number in (2, 1))
    for run, num_answers in ((both, 2), (first, 1)):
        assert run.stopped and run.num_answers == num_answers
        assert run.total_tokens == 3 * run.latency_tokens
        assert run.discarded_tokens == (3 - num_answers) * run.latency_tokens
        assert [decision.observation.num_running for decision in run.decisions] == [0, 2, 1][: num_answers + 1]
        assert sum(answer is not None for answer in run.answers) == num_answers


def test_what_does_not_fit_is_refused(huggingface, reasoner):
    model, tokenizer, inputs = reasoner
    options = {"answer_of": vote_key, "num_traces": 2}
    with pytest.raises(ValueError, match="FixedSamples may ask for LAUNCH; expected CONTINUE, STOP alone"):
        huggingface.sample(model, tokenizer, inputs, FixedSamples(2), **options)
    with pytest.raises(ValueError, match="inputs: expected one prompt, got 6"):
        huggingface.sample(model, tokenizer, inputs, Margin(2), **options)
    with pytest.raises(ValueError, match="do_sample: expected True"):
        huggingface.sample(model, tokenizer, inputs, Margin(2), do_sample=False, **options)
