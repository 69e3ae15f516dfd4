"""Policies of a user that put any number and array, and any observation, to the test."""

from typing import Any, NamedTuple

import numpy as np

from stopping.policies import Action, Decision, Kind, policy


@policy(signals=("elapsed_tokens",), kinds=(Kind.CONTINUE, Kind.STOP))
class AnyNumbers:
    """Stop after 1000 tokens, whatever the parameters."""

    threshold: float
    weights: np.ndarray

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        return state, Action(observation.elapsed_tokens >= 1000, 0)


FLOAT_POLICY = AnyNumbers


class HeadObservation(NamedTuple):
    """Hidden features, float `[..., 4]`, and a probability."""

    features: Any
    accept_prob: Any


@policy(signals=("features", "accept_prob"), kinds=(Kind.CONTINUE, Kind.STOP))
class Head:
    """Stop where a linear head is positive."""

    weights: np.ndarray

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        return ()

    def score(self, xp: Any, state: tuple[()], observation: Any) -> Any:
        return xp.sum(xp.matmul(observation.features * 1.0, self.weights)) + observation.accept_prob

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        return state, Action(self.score(xp, state, observation) > 0, 0)


HEAD = Decision("head", HeadObservation, (Kind.CONTINUE, Kind.STOP), "token")
