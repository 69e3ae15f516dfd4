"""When to stop one chain of thought.

A trace that thinks is seen by what its server streams anyway, and by probes: answers forced on the way, which cost tokens.
"""

from typing import Any, NamedTuple

import numpy as np

from stopping.policies.actions import Kind
from stopping.policies.binding import bind
from stopping.policies.decisions.decision import NO_ANSWER, Decision, Stream, register


class ThinkingObservation(NamedTuple):
    """What is known of one chain of thought at a decision point; `[...]` each.

    What a probe shows is meaningful where `probed`, and 0 (`probed_answer`: `NO_ANSWER`) elsewhere. A mean is over the tokens
    since the last decision point; logarithms are natural.
    """

    elapsed_tokens: Any  # thought so far; int32
    log_close_prob: Any  # log-probability that the thought is closed here; float32
    mean_log_prob: Any  # of the tokens drawn; float32
    mean_entropy: Any  # of the next-token distributions, nats; float32
    num_candidates: Any  # results that the trace has put forward so far; int32
    probed: Any  # an answer was forced at this very decision point; bool
    probed_answer: Any  # its label, `NO_ANSWER` if none came; equal answers of a trace share one; int32
    answer_mean_log_prob: Any  # of its tokens; float32
    answer_least_log_prob: Any  # of its least likely token; float32


PROBED_SIGNALS = ("probed", "probed_answer", "answer_mean_log_prob", "answer_least_log_prob")
_DTYPES = {
    **dict.fromkeys(("log_close_prob", "mean_log_prob", "mean_entropy"), np.float32),
    **dict.fromkeys(("answer_mean_log_prob", "answer_least_log_prob"), np.float32),
    "probed": np.bool_,
}


def thinking_streams(policy: Any, seed: int = 0) -> list[Stream]:
    """Return streams of `ThinkingObservation`: thoughts of which every signal rises or falls, probed where the policy asks."""
    rng = np.random.default_rng(seed)
    return [_thought(policy, rng, gap) for gap in (1, 32, 64, 256, 1024) for _ in range(8)]


def _thought(policy: Any, rng: np.random.Generator, gap: int, num_points: int = 24) -> Stream:
    bound, stream = bind(policy, "numpy"), []
    state = bound.init((1,))
    start, end = -rng.exponential(4.0, (2, 5)), -rng.exponential(0.5, (2, 5))
    candidates = np.cumsum(rng.random(num_points) < 0.3)
    answers = np.where(rng.random(num_points) < 0.1, NO_ANSWER, np.cumsum(rng.random(num_points) < 0.4))
    for point, share in enumerate(np.linspace(0, 1, num_points)):
        level = start[point % 2] * (1 - share) + end[point % 2] * share
        close, mean, entropy, answer_mean, answer_least = (level + rng.normal(0, 0.1, 5)).tolist()
        free = ((point + 1) * gap, min(close, 0.0), min(mean, 0.0), abs(entropy), int(candidates[point]))
        paid = (int(answers[point]), min(answer_mean, 0.0), min(answer_least, answer_mean, 0.0))
        for seen in ((False, NO_ANSWER, 0.0, 0.0), (True, *paid)):
            observation = ThinkingObservation(*free, *seen)
            stream.append(observation)
            row: dict[str, Any] = {
                name: np.array([value], _DTYPES.get(name, np.int32)) for name, value in observation._asdict().items()
            }
            state, action = bound.step(state, ThinkingObservation(**row))
            if action.kind[0] != Kind.PROBE:
                break
    return stream


THINKING = register(
    Decision(
        "thinking", ThinkingObservation, (Kind.CONTINUE, Kind.STOP, Kind.PROBE), "checkpoint", _DTYPES, thinking_streams
    )
)
