"""Drift in the proxy: it is tested on requests that are not stopped, and an alarm disables the policy."""

import random
import time

import numpy as np
import pytest

from stopping import artifacts
from stopping.adapters.proxy.watch import Watch
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.artifacts import load_policy
from stopping.policies import ConfidenceExit, ThinkingObservation
from tests.stopping.adapters.live import NEVER, questions
from tests.stopping.adapters.proxied import proxied

SEEN = ThinkingObservation(64, -3.0, -0.25, 0.5, 1, False, -1, 0.0, 0.0)
DISTRIBUTIONS = {
    "length_tokens": np.arange(20, 120),
    "agreement": np.array([True, False]),
    "mean_entropy": np.linspace(0, 1, 50, dtype=np.float32),
    "answer_mean_log_prob": np.linspace(-1, 0, 50, dtype=np.float32),
}


@pytest.fixture
def artifact(tmp_path):
    return load_policy(artifacts.save_policy(ConfidenceExit(-0.1, 64), tmp_path / "policy", traffic=DISTRIBUTIONS))


def left_alone(length=70, answer="1+2", would_stop_at=None, would_answer="", **more):
    return ThoughtResult(
        ids=[5] * length, reason="stop", answer=answer, would_stop_at=would_stop_at, would_answer=would_answer,
        last_seen=SEEN, **more,
    )  # fmt: skip


def kept(watch, distribution):
    """Return the values of a distribution after those of the log."""
    return watch._state[distribution].kept[len(DISTRIBUTIONS[distribution]) :].tolist()


def test_what_is_measured_is_what_the_log_was_measured_by(artifact):
    watch = Watch(artifact, 0.01)
    watch.see(left_alone(), str.strip)
    watch.see(left_alone(90, would_stop_at=32, would_answer=" 1+2"), str.strip)
    watch.see(left_alone(50, would_stop_at=32, would_answer="3"), str.strip)
    assert kept(watch, "length_tokens") == [70, 90, 50]
    assert kept(watch, "agreement") == [1, 1, 0]
    assert kept(watch, "mean_entropy") == [0.5] * 3
    assert kept(watch, "answer_mean_log_prob") == []  # there were no probes


def test_what_broke_off_or_failed_is_not_looked_at(artifact):
    watch = Watch(artifact, 0.01)
    watch.see(left_alone(failure="MissingSignal: ..."), str.strip)
    broken = left_alone()
    broken.reason = ""
    watch.see(broken, str.strip)
    assert kept(watch, "length_tokens") == []


def test_the_state_goes_on_after_a_restart(artifact, tmp_path):
    path = tmp_path / "state.json"
    watch = Watch(artifact, 0.01, path)
    watch.see(left_alone(), str.strip)
    watch.save()
    again = Watch(artifact, 0.01, path)
    assert kept(again, "length_tokens") == [70]
    other = load_policy(artifacts.save_policy(NEVER, tmp_path / "other", traffic={"length_tokens": [1, 2]}))
    with pytest.raises(ValueError, match="another reference sample"):
        Watch(other, 0.01, path)
    with pytest.raises(ValueError, match="traffic"):
        Watch(load_policy(artifacts.save_policy(NEVER, tmp_path / "none")), 0.01)


def test_after_an_alarm_thoughts_end_by_themselves_and_that_is_counted(llama_server, tmp_path):
    far = artifacts.save_policy(NEVER, tmp_path / "far", traffic={"length_tokens": np.arange(2, 12)})
    with proxied(llama_server, {"far": far}, holdout=1.0) as proxy:
        watch = Watch(load_policy(far), 0.05, rng=random.Random(0))
        proxy.config.add("far", load_policy(far), every_tokens=32, watch=watch)
        client = proxy.client()

        def ask(text):
            messages = [{"role": "user", "content": text}]
            return client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=200)

        asked = 0
        for text in questions(60):
            ask(text)
            asked += 1
            time.sleep(0.02)  # the policy is asked after the answer
            if watch.alarm:
                break
        assert watch.alarm and asked < 60
        assert ask("2 3 4>24").choices[0].message.reasoning_content
        assert proxy.counts("unpoliced") == {"drift": 1}
        shown = proxy.http.get("/metrics").text
        assert 'stopping_drift_alarm{policy="far"} 1.0' in shown
        assert watch.p_value <= 0.05


def test_like_its_log_there_is_no_alarm(llama_server, tmp_path):
    """The log has the server's own distributions."""
    texts = questions(60)
    with proxied(llama_server, {}, holdout=0.0) as plain:
        client = plain.client()

        def length(text):
            messages = [{"role": "user", "content": text}]
            answer = client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=200)
            return answer.usage.completion_tokens

        lengths = [length(text) for text in texts[:30]]
        near = artifacts.save_policy(NEVER, tmp_path / "near", traffic={"length_tokens": lengths})
        watch = Watch(load_policy(near), 0.05, rng=random.Random(0))
        plain.config.add("near", load_policy(near), every_tokens=32, watch=watch)
        plain.config.default, plain.config.holdout = "near", 1.0
        for text in texts[30:]:
            length(text)
        time.sleep(1)
        assert len(watch._state["length_tokens"].kept) == 60
        assert not watch.alarm
