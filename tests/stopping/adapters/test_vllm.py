"""The logits processors of both vLLM runners, on stand-ins, compared with a loop over one request."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from stopping.adapters import vllm as adapter
from stopping.artifacts import ArtifactError, save_policy
from stopping.policies import (
    NO_ANSWER,
    THINKING,
    CandidateStop,
    CloseTokenThreshold,
    ConfidenceExit,
    ExitValue,
    Kind,
    ThinkingObservation,
    TokenBudget,
    WindowedConfidence,
    bind,
)
from stopping.policies.decisions import MissingSignal
from stopping.policies.windows import short
from tests.stopping.adapters.vllm_stand_ins import (
    BLANK,
    CLOSE,
    EOS,
    MAX_TOKENS,
    OPEN,
    V1Engine,
    V2Engine,
    config,
    drawn,
    install,
    logits_of,
    params,
)

pytestmark = pytest.mark.torch

EVERY, CANDIDATES = 4, (5, 6)
WEIGHTS = np.zeros((6, 6), np.float32)
WEIGHTS[0, [1, 4]] = 0.3, -1.0  # more likely in longer and more certain thoughts
ON_ALL = ExitValue(0.0, np.array([12, -4, -1.5, 1.4, 2]), np.array([8, 2, 0.5, 0.3, 2]), WEIGHTS)
PROMPTS = [[4 + n % 7, 5 + n % 5, OPEN] for n in range(12)]
POLICIES = [
    TokenBudget(10), CandidateStop(3), CloseTokenThreshold(-3.5, -9.0, 20), WindowedConfidence(-1.6, 8),
    ON_ALL,
]  # fmt: skip


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    install(monkeypatch)
    adapter._v1.cache_clear()
    adapter._v2.cache_clear()
    yield
    adapter._v1.cache_clear()
    adapter._v2.cache_clear()


def saved(tmp_path, policy):
    points = {"on": "checkpoint", "interval_tokens": EVERY}
    return save_policy(policy, tmp_path / "policy", decision=THINKING, decision_points=points)


def alone(prompt, name, policy=None, forced=(BLANK, CLOSE)):
    """Return the same request alone, as in a log, with the policy asked at every decision point."""
    output, window, asked, to_force = [], [], [], []
    bound = bind(policy, "numpy") if policy else None
    state = bound.init((1,)) if policy else None
    while len(output) < MAX_TOKENS and (not output or output[-1] != EOS):
        logits = logits_of([*prompt, *output])
        log_probs = logits.log_softmax(-1).numpy().astype(float)
        if policy and CLOSE not in output and not to_force and output and len(output) % EVERY == 0:
            means = np.array(window).mean(axis=0)
            seen = ThinkingObservation(
                len(output), short(log_probs[CLOSE]), short(means[0]), short(means[1]),
                sum(token in CANDIDATES for token in output), False, NO_ANSWER, 0.0, 0.0,
            )  # fmt: skip
            state, action = bound.step(state, ThinkingObservation(*(np.array([value]) for value in seen)))
            window = []
            asked.append(seen)
            if np.broadcast_to(action.kind, (1,))[0] == Kind.STOP:
                to_force = list(forced)
        if to_force:
            output.append(to_force.pop(0))
            continue
        token = drawn(logits, name, len(output))
        probs = np.exp(log_probs)
        window.append((log_probs[token], -(probs[probs > 0] * log_probs[probs > 0]).sum()))
        output.append(token)
    return output


def v1(policy, **given):
    return adapter.V1LogitsProcessor(config(policy, candidate_ids=CANDIDATES, **given), "cpu", False)


def v2(policy, **options):
    make = lambda states: adapter.V2LogitsProcessor(config(policy, candidate_ids=CANDIDATES), states)  # noqa: E731
    return V2Engine(make, **options)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_both_runners_stop_where_one_loop_does(policy, tmp_path):
    expected = [alone(prompt, name, policy) for name, prompt in enumerate(PROMPTS)]
    free = [alone(prompt, name) for name, prompt in enumerate(PROMPTS)]
    stopped = sum(BLANK in output for output in expected)
    assert 2 <= stopped and expected != free
    directory = saved(tmp_path, policy)
    processor = v1(directory)
    assert V1Engine(processor).run(PROMPTS) == expected
    engine = v2(directory)
    assert engine.run(PROMPTS) == expected
    for one in (processor, engine.processor):
        assert one.thoughts.setup.counts == {"policed": 12, "stopped": stopped}


def test_what_never_stops_changes_nothing(tmp_path):
    free = [alone(prompt, name) for name, prompt in enumerate(PROMPTS)]
    directory = saved(tmp_path, TokenBudget(10_000))
    assert V1Engine(v1(directory)).run(PROMPTS) == free
    assert v2(directory).run(PROMPTS) == free
    assert v2(directory, num_drafts=3).run(PROMPTS) == free


def test_a_request_may_opt_out(tmp_path):
    policy = TokenBudget(10)
    directory, sampling = saved(tmp_path, policy), {name: params(stopping=0) for name in range(0, 12, 2)}
    expected = [alone(prompt, name, policy if name % 2 else None) for name, prompt in enumerate(PROMPTS)]
    assert V1Engine(v1(directory)).run(PROMPTS, sampling) == expected
    assert v2(directory).run(PROMPTS, sampling) == expected
    processor = v2(directory).processor  # a slot whose previous request had not ended its thought
    assert processor.add_request(0, params())
    processor.apply_staged_writes()
    assert 0 in processor.thoughts.by_key
    assert not processor.add_request(0, params(stopping=0))
    assert not processor.thoughts.by_key
    for cls in (adapter.V1LogitsProcessor, adapter.V2LogitsProcessor):
        with pytest.raises(ValueError, match="stopping: expected 0 or 1, got 'no'"):
            cls.validate_params(params(stopping="no"))


def test_with_drafts_a_stop_is_a_few_tokens_late_at_most_and_on_committed_tokens_only(tmp_path):
    policy, num_drafts, late = TokenBudget(8), 3, set()
    outputs = v2(saved(tmp_path, policy), num_drafts=num_drafts).run(PROMPTS)
    for name, (prompt, output) in enumerate(zip(PROMPTS, outputs, strict=True)):
        free = alone(prompt, name)
        if BLANK not in output:
            assert output == free and free.index(CLOSE) < 8 + num_drafts
            continue
        at = output.index(BLANK)
        assert 8 <= at <= 8 + num_drafts and output[:at] == free[:at] and output[at : at + 2] == [BLANK, CLOSE]
        late.add(at - 8)
    assert len(late) > 1


def test_with_drafts_signals_are_those_of_the_tokens_kept(tmp_path, monkeypatch):
    """Decision points are later than without drafts, so sums over the thought so far are compared."""
    seen = {}

    def watched(self, log_close_prob):
        kept = self._windows
        seen.setdefault(id(self), []).append((int(kept.elapsed_tokens[0]), float(kept._log_prob[0])))
        return plain(self, log_close_prob)

    plain = adapter.Thought.ask
    monkeypatch.setattr(adapter.Thought, "ask", watched)
    v2(saved(tmp_path, WindowedConfidence(-50.0, 8)), num_drafts=3, num_slots=12).run(PROMPTS)
    sums = []
    for name, prompt in enumerate(PROMPTS):
        free = alone(prompt, name)
        by_token = [float(logits_of([*prompt, *free[:i]]).log_softmax(-1)[token]) for i, token in enumerate(free)]
        sums.append(np.cumsum(by_token))
    checked = 0
    for asked in seen.values():
        at, total = np.array(asked).T
        along = np.cumsum(total)
        assert any(
            len(one) >= at[-1] and np.allclose([one[int(end) - 1] for end in at], along, atol=1e-4) for one in sums
        )
        checked += len(at)
    assert checked > 10


def test_a_thought_opened_by_the_model_and_one_closed_before_are_known(tmp_path):
    setup = adapter.Setup(TokenBudget(2), 1, (OPEN,), (CLOSE,), (CLOSE,))

    def after(prompt, *tokens):
        thought = adapter.Thought(setup, prompt)
        for token in tokens:
            thought.take(token, np.nan, np.nan)
        return thought

    assert not after([4, OPEN, 5, CLOSE], 6, 7, 8).is_due
    opened = after([4, OPEN, 5, CLOSE], BLANK, OPEN, 6, 7)
    assert opened.is_due
    opened.ask(-1.0)
    assert opened.forced == (CLOSE,)
    assert after([4, 5, OPEN, BLANK], 6, 7).is_due
    # a tag in the user's text, or in the model's answer
    assert not after([4, OPEN, 5, 6, 7, 8], 6, 7, 8).is_due
    assert not after([4, 5], 6, 7, 8, OPEN, 6, 7, 8).is_due


def test_what_cannot_be_followed_goes_on_without_the_policy(tmp_path, caplog):
    directory = saved(tmp_path, WindowedConfidence(-1.6, 8))
    processor = v1(directory)
    with caplog.at_level(logging.WARNING):
        added = [(0, params(), PROMPTS[0], [5, 6])]  # a request that arrives with output was preempted
        processor.update_state(SimpleNamespace(batch_size=1, removed=[], added=added, moved=[]))
    assert processor.thoughts.setup.counts["given_up"] == 1 and "preempted" in caplog.text
    logits = logits_of(PROMPTS[0])[None].clone()
    assert (processor.apply(logits.clone()) == logits).all()

    engine = v2(directory)
    engine.states.prompt_len.np[1], engine.states.prefill_len.np[1] = 3, 5
    assert engine.processor.add_request(1, params())
    engine.processor.apply_staged_writes()
    assert engine.processor.thoughts.setup.counts["given_up"] == 1

    setup = adapter.Setup(WindowedConfidence(-1.6, 8), 1, (OPEN,), (CLOSE,), (CLOSE,))
    lost = adapter.Thought(setup, [OPEN])
    lost.take(5, np.nan, np.nan)
    lost.ask(-1.0)  # the mean of unknown values
    other = adapter.Thought(adapter.Setup(TokenBudget(1), 1, (OPEN,), (CLOSE,), (CLOSE,), counts=setup.counts), [OPEN])
    other.take(5, np.nan, np.nan)
    other.ask(-1.0)
    other.take(6, np.nan, np.nan)  # not the forced tag: another processor changed it
    assert lost.is_over and other.is_over and not other.forced
    assert setup.counts == {"policed": 2, "given_up": 2, "stopped": 1}


def test_what_cannot_be_is_refused_at_start(tmp_path):
    with pytest.raises(MissingSignal, match="CandidateStop reads num_candidates"):
        adapter.V1LogitsProcessor(config(saved(tmp_path / "a", CandidateStop(1))), "cpu", False)
    with pytest.raises(ValueError, match="reads probed"):
        adapter.V1LogitsProcessor(config(saved(tmp_path / "b", ConfidenceExit(-0.1, 64))), "cpu", False)
    directory = saved(tmp_path / "c", TokenBudget(10))
    with pytest.raises(ValueError, match="--reasoning-config: expected"):
        adapter.Setup.of(config(directory, forced=()))
    with pytest.raises(ValueError, match=r"--additional-config: expected .*interval"):
        adapter.Setup.of(config(directory, interval=3))
    with pytest.raises(ArtifactError, match="expected a directory"):
        adapter.Setup.of(config(tmp_path / "nowhere"))
    asynchronous = config(directory)
    asynchronous.scheduler_config.async_scheduling = True
    with pytest.raises(ValueError, match="--async-scheduling"):
        adapter.V1LogitsProcessor(asynchronous, "cpu", False)


def test_it_imports_without_vllm_torch_and_jax():
    code = (
        "import sys; sys.modules.update(vllm=None, torch=None, jax=None)\n"
        "from stopping.adapters import vllm\n"
        "try:\n    vllm.V2LogitsProcessor\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().startswith("vllm")
