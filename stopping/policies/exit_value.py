"""Stop where an answer now is worth more than going on, as fitted to the signals of a log.

The gain of stopping over going on is a quadratic in a few features x of the observation, each kept within bounds,

    z_i = clip((x_i - centre_i) / scale_i, -3, 3),  z_0 = 1,    gain = sum over i <= j of  quadratic_ij z_i z_j

in units of a right answer, and the rule is to stop where it is at least 0. `stopping.solvers.fitted_value` fits it
(`theory_notes/06_fitted_value.md`). One rule probes, sees more and pays for it; the other never does.
"""

from dataclasses import field
from typing import Any

import numpy as np

from stopping.policies.actions import Action, Kind
from stopping.policies.answer_agreement import AgreementState
from stopping.policies.decisions import NO_ANSWER
from stopping.policies.probing import agreeing, probe_or_stop
from stopping.policies.protocol import at_least, finite, policy, table

REACH = 3.0  # standard deviations: a quadratic does not extrapolate
FREE_SIGNALS = ("elapsed_tokens", "log_close_prob", "mean_log_prob", "mean_entropy", "num_candidates")
PROBE_FEATURES = ("answer_mean_log_prob", "num_agreeing")


@policy(signals=FREE_SIGNALS, kinds=(Kind.CONTINUE, Kind.STOP))
class ExitValue:
    """Stop, at any decision point, where an answer now is worth more than going on; costs no probe.

    Attributes:
        price_per_token: at which the rule was fitted, in right answers; a name, without effect on decisions.
        centre, scale: of the features, which are the signals in their order; float32 `[5]`.
        quadratic: weights of products, zero below the diagonal; float32 `[6, 6]`.

    Reference: Longstaff and Schwartz, Valuing American Options by Simulation (2001), of whose regression this is the result.
    """

    price_per_token: float
    centre: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    quadratic: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        _check(self, len(FREE_SIGNALS))

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def features(self, xp: Any, state: tuple[()], observation: Any) -> tuple[Any, ...]:
        """Return the variables of the quadratic, `[...]` each."""
        return tuple(getattr(observation, name) for name in FREE_SIGNALS)

    def score(self, xp: Any, state: tuple[()], observation: Any) -> Any:
        """Return the gain of stopping over going on, in right answers."""
        return _gain(xp, self, self.features(xp, state, observation))

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop where the gain is not negative."""
        return state, Action(self.score(xp, state, observation) >= 0, 0)


@policy(
    signals=(*FREE_SIGNALS, "probed", "probed_answer", "answer_mean_log_prob"),
    kinds=(Kind.CONTINUE, Kind.STOP, Kind.PROBE),
)
class ProbedExitValue:
    """Force an answer every `interval_tokens`; stop where it is worth more than going on.

    Attributes:
        price_per_token: as of `ExitValue`.
        interval_tokens: least distance of probes.
        centre, scale: of the features: the signals of `ExitValue`, the mean log-probability of the answer, and how many of the
            last probes gave it, in a row; float32 `[7]`.
        quadratic: weights of products, zero below the diagonal; float32 `[8, 8]`.

    Reference: as of `ExitValue`.
    """

    price_per_token: float
    interval_tokens: int
    centre: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    quadratic: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        at_least(self, "interval_tokens", 1)
        _check(self, len(FREE_SIGNALS) + len(PROBE_FEATURES))

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> AgreementState:
        """Return the state before the first probe."""
        return AgreementState(xp.full(batch_shape, 0), xp.full(batch_shape, NO_ANSWER), xp.full(batch_shape, 0))

    def features(self, xp: Any, state: AgreementState, observation: Any) -> tuple[Any, ...]:
        """Return the variables of the quadratic, `[...]` each; meaningful where probed."""
        free = (getattr(observation, name) for name in FREE_SIGNALS)
        return (*free, observation.answer_mean_log_prob, agreeing(xp, state, observation))

    def score(self, xp: Any, state: AgreementState, observation: Any) -> Any:
        """Return the gain of stopping over going on, in right answers; 1 where no answer was probed."""
        return xp.where(observation.probed, _gain(xp, self, self.features(xp, state, observation)), 1.0)

    def step(self, xp: Any, state: AgreementState, observation: Any) -> tuple[AgreementState, Action]:
        """Count the answer in; probe when due, stop where the gain is not negative."""
        enough = self.score(xp, state, observation) >= 0
        last, action = probe_or_stop(xp, state.last_probe_tokens, observation, self.interval_tokens, enough)
        answer = xp.where(observation.probed, observation.probed_answer, state.last_answer)
        return AgreementState(last, answer, agreeing(xp, state, observation)), action


def _check(policy: Any, num_features: int) -> None:
    finite(policy, "price_per_token")
    shapes = [table(policy, name, np.float32).shape for name in ("centre", "scale")]
    shapes.append(table(policy, "quadratic", np.float32, num_axes=2).shape)
    expected = [(num_features,), (num_features,), (num_features + 1, num_features + 1)]
    if shapes != expected or not (policy.scale > 0).all():
        raise ValueError(
            f"{type(policy).__name__}: expected centre, scale and quadratic of shapes {expected} with scales above 0, "
            f"got {shapes} and {policy.scale}"
        )


def _gain(xp: Any, policy: Any, features: tuple[Any, ...]) -> Any:
    """Return the quadratic, computed number by number, so that plain Python can do it too."""
    z: list[Any] = [1.0]
    for i, value in enumerate(features):
        z.append(xp.maximum(xp.minimum((value - policy.centre[i]) / policy.scale[i], REACH), -REACH))
    return sum(z[i] * sum(policy.quadratic[i][j] * z[j] for j in range(i, len(z))) for i in range(len(z)))
