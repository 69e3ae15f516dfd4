"""A sequential test of whether requests still look like the log that a policy was calibrated on.

The probability of ever raising a false alarm is bounded, however long the test runs.

On a random share of the requests, the holdout, nothing is stopped: their lengths, signals and answers depend on the model and the
tasks alone. The distribution of each of these quantities is tested against a reference sample from the calibration log. A new
value has a rank r among the n values kept, with ties split by a uniform number that the caller supplies,

    r = (number below it + uniform * (1 + number equal to it)) / (n + 1),

and is then kept itself. While all values are exchangeable, ranks are independent and uniform on (0, 1), whatever the
distribution. The test bets against this: each bet multiplies its stake by f(r) >= 0, where f integrates to 1. Half of an initial
capital of 1 is staked on the first rank, split equally among the bets. The other half is held in reserve, and 1 / (1 + ln t) of
it remains after t ranks. A change at the t-th rank is therefore bet on from there, which costs about ln t + 2 ln(1 + ln t) in
log capital. By Ville's inequality, the capital of one distribution ever reaches L / alpha with probability at most alpha / L,
and any of L distributions with probability at most alpha.

Capitals are not averaged over the distributions: each is a martingale with respect to its own ranks, not to all ranks, so their
mean need not be a martingale. Proofs and limits of such tests: `theory_notes/08_drift.md`.

References:
    Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line" (ICML 2003), theorem 1: ranks and martingales; Ville,
    "Etude critique de la notion de collectif" (1939); Choe and Ramdas, "Combining evidence across filtrations" (arXiv
    2402.09698). This module adds bets of a fixed form that start at every time, and a bounded memory.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stopping.artifacts import Document

TILTS = np.array([0.4, 0.8, -0.4, -0.8])  # bets on higher ranks, or on lower ones
SPREADS = np.array([0.8, -0.6])  # bets on ranks at both ends, or in the middle
TAIL = 1 / 16  # share of the ranks in a tail
TAIL_ODDS = np.array([2.0, 5.0])  # density in a tail relative to elsewhere
DIRECTIONS = ("higher",) * 2 + ("lower",) * 2 + ("wider", "narrower") + ("lower",) * 2 + ("higher",) * 2  # one per bet
NUM_DIGITS = 3  # significant digits of a value: logs and servers keep different numbers of digits, which must not count
LEAST = 1e-6  # smaller values count as 0


@dataclass(frozen=True, eq=False)
class Traffic:
    """The reference sample: for each distribution, values `[values]` from the calibration log, one per problem.

    There is one value per problem because traces of one problem are correlated, and thus not exchangeable with other problems'.

    Raises:
        ValueError: if there are no distributions, or one has no values or a value that is not finite.
    """

    distributions: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if not self.distributions:
            raise ValueError("traffic: expected at least one distribution, got none")
        distributions = {}
        for name, values in self.distributions.items():
            array = np.asarray(values)
            if array.ndim != 1 or not array.size or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
                raise ValueError(f"traffic.{name}: expected finite numbers [values], got {array.dtype} {array.shape}")
            distributions[name] = coarse(array)
            distributions[name].setflags(write=False)
        object.__setattr__(self, "distributions", distributions)

    @classmethod
    def of(cls, document: Document) -> "Traffic":
        """Return the reference sample saved with a policy.

        Raises:
            ValueError: if there is none.
        """
        if document.traffic is None:
            raise ValueError(
                "traffic: policy.json has none: save the policy by `stopping tune`, or with save_policy(..., traffic=...)"
            )
        return cls({name: array.array() for name, array in document.traffic.items()})

    @property
    def digest(self) -> str:
        """SHA-256 of the names and values."""
        found = hashlib.sha256()
        for name, values in sorted(self.distributions.items()):
            found.update(f"{name} {len(values)} ".encode() + values.astype("<f8").tobytes())
        return found.hexdigest()


class DistributionState(NamedTuple):
    """The state of the test for one distribution.

    Attributes:
        num_seen: values so far, without the reference sample.
        kept: values that new ones are ranked among, the latest last; float64 `[kept]`.
        stakes: the current value of each bet; float64 `[bets]`.
        most_capital: the largest capital so far.
    """

    num_seen: int
    kept: np.ndarray
    stakes: np.ndarray
    most_capital: float


DriftState = dict[str, DistributionState]  # by the distribution's name


class Move(NamedTuple):
    """How a distribution differs from the reference sample, for the operator.

    Attributes:
        distribution: its name.
        p_value: for the hypothesis that no distribution has changed, from this distribution alone; valid at any time.
        direction: `higher`, `lower`, `wider` or `narrower`: the bet that has won most.
        reference_mean: the mean of the reference sample.
        recent_mean: the mean of the values since the change.
        num_recent: the number of values since the change, at the most likely change point under the winning bet.
    """

    distribution: str
    p_value: float
    direction: str
    reference_mean: float
    recent_mean: float
    num_recent: int


@dataclass(frozen=True)
class Drift:
    """A sequential test of traffic. It has one state for as long as the policy is used; after an alarm the state does not change.

    Attributes:
        traffic: the reference sample.
        alpha: an upper bound on the probability of ever raising a false alarm.
        max_kept: the number of values kept per distribution; beyond it, each new value replaces a random one.

    Raises:
        ValueError: if alpha is outside (0, 1), or `max_kept` is smaller than the reference sample.
    """

    traffic: Traffic
    alpha: float = 0.01
    max_kept: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected a number between 0 and 1, got {self.alpha!r}")
        most = max(map(len, self.traffic.distributions.values()))
        if self.max_kept < most:
            raise ValueError(
                f"max_kept: expected at least the {most:,} values of the reference sample, got {self.max_kept!r}"
            )

    def init(self) -> DriftState:
        """Return the state before the first request of the holdout."""
        return {
            name: DistributionState(0, values, np.zeros(len(DIRECTIONS)), 1.0)
            for name, values in self.traffic.distributions.items()
        }

    def step(self, state: DriftState, values: Mapping[str, float], uniform: float) -> DriftState:
        """Return the state after one more request of the holdout.

        Args:
            state: before the request.
            values: by distribution, measured as in the log; distributions for which the request has no value are left out.
            uniform: a number in [0, 1), drawn by the caller for this request alone, which splits ties and chooses the value to
                drop.

        Raises:
            ValueError: if the reference sample lacks a distribution, or a number is not finite or out of range.
        """
        if not 0 <= uniform < 1:
            raise ValueError(f"uniform: expected a number in [0, 1), got {uniform!r}")
        for name, value in values.items():
            if name not in state:
                raise ValueError(f"values: expected distributions of {', '.join(state)}, got {name!r}")
            if not math.isfinite(value):
                raise ValueError(f"values.{name}: expected a finite number, got {value!r}")
        if self.alarm(state):
            return state
        return state | {name: self._seen(state[name], float(coarse(value)), uniform) for name, value in values.items()}

    def _seen(self, distribution: DistributionState, value: float, uniform: float) -> DistributionState:
        # The first digits choose the value to drop; the others, which are independent of them, split ties.
        dropped, rest = divmod(uniform * (len(distribution.kept) + 1), 1.0)
        num_seen = distribution.num_seen + 1
        stakes = staked(distribution.stakes, rank(distribution.kept, value, rest), num_seen)
        kept = np.append(distribution.kept, value)
        if len(kept) > self.max_kept:
            kept = np.delete(kept, int(dropped))
        return DistributionState(
            num_seen, kept, stakes, max(distribution.most_capital, float(capital(stakes, num_seen)))
        )

    def p_value(self, state: DriftState) -> float:
        """Return the p-value for the hypothesis of no change; valid at any time, however often it is read."""
        return min(self._p_value(distribution) for distribution in state.values())

    def _p_value(self, distribution: DistributionState) -> float:
        return min(len(self.traffic.distributions) / distribution.most_capital, 1.0)

    def alarm(self, state: DriftState) -> bool:
        """Return whether an alarm has been raised; from then on the reference rule should be used."""
        return self.p_value(state) <= self.alpha

    def moves(self, state: DriftState) -> tuple[Move, ...]:
        """Return how each distribution has changed, the smallest p-value first; those without a new value are left out."""
        found = [self._move(name, distribution) for name, distribution in state.items() if distribution.num_seen]
        return tuple(sorted(found, key=lambda move: move.p_value))

    def _move(self, name: str, distribution: DistributionState) -> Move:
        best, reference = int(distribution.stakes.argmax()), self.traffic.distributions[name]
        recent = distribution.kept[-min(distribution.num_seen, len(distribution.kept)) :]
        won = np.log(factors(rank(reference, recent, 0.5))[:, best])
        start = len(won) - 1 - int(won[::-1].cumsum().argmax())
        since = recent[start:]
        return Move(
            name,
            self._p_value(distribution),
            DIRECTIONS[best],
            float(reference.mean()),
            float(since.mean()),
            len(since),
        )

    def to_json(self, state: DriftState) -> str:
        """Return the state as JSON, so that a server can continue the test after a restart."""
        distributions = {
            name: distribution._replace(kept=distribution.kept.tolist(), stakes=distribution.stakes.tolist())._asdict()
            for name, distribution in state.items()
        }
        return json.dumps({"traffic": self.traffic.digest, "distributions": distributions}, allow_nan=False)

    def from_json(self, text: str) -> DriftState:
        """Return the state that `to_json` wrote.

        Raises:
            ValueError: naming the field, if it is not such a state or belongs to another reference sample.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.keys() != {"traffic", "distributions"}:
            raise ValueError("state: expected traffic and distributions")
        if content["traffic"] != self.traffic.digest:
            raise ValueError("state.traffic: belongs to another reference sample; start again with init()")
        if (
            not isinstance(content["distributions"], dict)
            or content["distributions"].keys() != self.traffic.distributions.keys()
        ):
            raise ValueError(f"state.distributions: expected {', '.join(self.traffic.distributions)}")
        return {
            name: self._distribution(f"state.distributions.{name}", content["distributions"][name])
            for name in self.traffic.distributions
        }

    def _distribution(self, field: str, given: Any) -> DistributionState:
        if not isinstance(given, dict) or given.keys() != set(DistributionState._fields):
            raise ValueError(f"{field}: expected {', '.join(DistributionState._fields)}")
        arrays = {}
        for name, (least, most) in {"kept": (1, self.max_kept), "stakes": (len(DIRECTIONS),) * 2}.items():
            values = given[name]
            numbers = isinstance(values, list) and all(_is_number(value) for value in values)
            if not numbers or not least <= len(values) <= most:
                raise ValueError(f"{field}.{name}: expected {least:,} to {most:,} finite numbers")
            arrays[name] = np.array(values, np.float64)
        if (arrays["stakes"] < 0).any():
            raise ValueError(f"{field}.stakes: expected none below 0")
        num_seen, most_capital = given["num_seen"], given["most_capital"]
        if type(num_seen) is not int or num_seen < 0:
            raise ValueError(f"{field}.num_seen: expected a whole number >= 0, got {num_seen!r}")
        if not _is_number(most_capital) or most_capital < 1:
            raise ValueError(f"{field}.most_capital: expected a number >= 1, got {most_capital!r}")
        return DistributionState(num_seen, arrays["kept"], arrays["stakes"], float(most_capital))


def rank(kept: np.ndarray, value: Any, uniform: Any) -> np.ndarray:
    """Return the rank in [0, 1] of each value `[...]` among those kept, `[..., kept]` or `[kept]`; NaNs do not count."""
    each = np.asarray(value)[..., None]
    below, equal, number = (np.count_nonzero(those, axis=-1) for those in (kept < each, kept == each, ~np.isnan(kept)))
    found: np.ndarray = (below + uniform * (1 + equal)) / (1 + number)
    return found


def factors(rank: Any) -> np.ndarray:
    """Return the factor of each bet at a rank in [0, 1], `[..., bets]`: densities, with mean 1 under uniform ranks."""
    each = np.asarray(rank, np.float64)[..., None]
    inside = TAIL_ODDS / (1 - TAIL + TAIL_ODDS * TAIL)
    outside = 1 / (1 - TAIL + TAIL_ODDS * TAIL)
    return np.concatenate(
        [
            1 + TILTS * (2 * each - 1),
            1 + SPREADS * (6 * each * each - 6 * each + 1),
            np.where(each < TAIL, inside, outside),
            np.where(each >= 1 - TAIL, inside, outside),
        ],
        axis=-1,
    )


def held_back(num_seen: Any) -> Any:
    """Return the capital not yet staked after `num_seen` ranks, `[...]`."""
    return np.where(num_seen, 0.5 / (1 + np.log(np.maximum(num_seen, 1))), 1.0)


def staked(stakes: np.ndarray, rank: Any, num_seen: Any) -> np.ndarray:
    """Return the value of the bets `[..., bets]` after a rank `[...]`, the `num_seen`-th, counted from 1."""
    fresh = held_back(np.asarray(num_seen) - 1) - held_back(num_seen)
    worth: np.ndarray = (stakes + fresh[..., None] / len(DIRECTIONS)) * factors(rank)
    return worth


def capital(stakes: np.ndarray, num_seen: Any) -> np.ndarray:
    """Return the capital, `[...]`: the value of the bets plus what is held back."""
    total: np.ndarray = stakes.sum(axis=-1) + held_back(num_seen)
    return total


def coarse(values: Any) -> np.ndarray:
    """Return values rounded to three significant digits, float64."""
    exact = np.asarray(values, np.float64)
    size = np.abs(exact)
    digits = 10.0 ** (NUM_DIGITS - 1 - np.floor(np.log10(np.maximum(size, LEAST))))
    return np.where(size < LEAST, 0.0, np.round(exact * digits) / digits)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
