"""Is the traffic still like the log a policy was calibrated on? A test without end, with a rate of false alarms for all time.

On a random share of the requests, the holdout, nothing is stopped: their lengths, signals and answers are those of the model and
of the tasks alone. Each law of them is tested against a reference sample of the calibration log. A new value has a rank r among
the n values kept, ties split by a uniform number that the caller supplies,

    r = (number below it + uniform * (1 + number equal to it)) / (n + 1),

and joins them. As long as all of them are exchangeable, ranks are independent and uniform on (0, 1), whatever the law. Whoever
does not believe it bets: each bet multiplies its stake by f(r) >= 0, where f integrates to 1. Half of a capital of 1 is staked on
the first rank, in equal parts on all bets; the rest is held back, and of it 1 / (1 + ln t) is left after t ranks: what begins to
differ at the t-th is betted on from there, at a price of about ln t + 2 ln(1 + ln t) in the logarithm of the capital. By Ville's
inequality the capital of a law ever reaches L / alpha with probability alpha / L, and of L laws any with probability alpha.

Capitals are not averaged over the laws: each is a martingale in the past of its own ranks, not in that of all, and their mean
need be none. Proofs, and what no such test can see: `theory_notes/08_drift.md`.

References:
    Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line" (ICML 2003), theorem 1: ranks and martingales; Ville,
    "Etude critique de la notion de collectif" (1939); Choe and Ramdas, "Combining evidence across filtrations" (arXiv
    2402.09698). Added here: bets of a fixed form that start at every time, and a bounded memory.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stopping.artifacts import Document

TILTS = np.array([0.4, 0.8, -0.4, -0.8])  # ranks higher, or lower
SPREADS = np.array([0.8, -0.6])  # more at both ends, or in the middle
TAIL = 1 / 16  # of the ranks, at either end
TAIL_ODDS = np.array([2.0, 5.0])  # of falling there, by which they grow
DIRECTIONS = ("higher",) * 2 + ("lower",) * 2 + ("wider", "narrower") + ("lower",) * 2 + ("higher",) * 2  # of the bets
NUM_DIGITS = 3  # significant, of a value: logs and servers keep more or fewer, and must not differ by that
LEAST = 1e-6  # what is smaller is 0


@dataclass(frozen=True, eq=False)
class Traffic:
    """The reference sample: by law, values `[values]` of the calibration log, one a problem.

    One, because several traces of a problem are alike and would not be exchangeable with those of other problems.

    Raises:
        ValueError: for no laws, or a law without values or with one that is no finite number.
    """

    laws: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if not self.laws:
            raise ValueError("traffic: expected at least one law, got none")
        laws = {}
        for name, values in self.laws.items():
            array = np.asarray(values)
            if array.ndim != 1 or not array.size or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
                raise ValueError(f"traffic.{name}: expected finite numbers [values], got {array.dtype} {array.shape}")
            laws[name] = coarse(array)
            laws[name].setflags(write=False)
        object.__setattr__(self, "laws", laws)

    @classmethod
    def of(cls, document: Document) -> "Traffic":
        """Return the reference sample that a saved policy carries.

        Raises:
            ValueError: if it carries none.
        """
        if document.traffic is None:
            raise ValueError(
                "traffic: policy.json has none: save the policy by `stopping tune`, or with save(..., traffic=...)"
            )
        return cls({name: array.array() for name, array in document.traffic.items()})

    @property
    def digest(self) -> str:
        """SHA-256 of names and values."""
        found = hashlib.sha256()
        for name, values in sorted(self.laws.items()):
            found.update(f"{name} {len(values)} ".encode() + values.astype("<f8").tobytes())
        return found.hexdigest()


class LawState(NamedTuple):
    """What has been seen of one law.

    Attributes:
        num_seen: values so far, without the reference sample.
        kept: those that new ones are ranked among, the latest last; float64 `[kept]`.
        stakes: what each bet is worth; float64 `[bets]`.
        most_capital: the most that the capital has been worth.
    """

    num_seen: int
    kept: np.ndarray
    stakes: np.ndarray
    most_capital: float


DriftState = dict[str, LawState]  # by law


class Move(NamedTuple):
    """How a law differs from the reference sample, for the operator.

    Attributes:
        law: its name.
        p_value: of all laws being as they were, by this law alone; holds at any time.
        direction: `higher`, `lower`, `wider` or `narrower`: the bet that has won most.
        reference_mean: of the reference sample.
        recent_mean: of the values since the move began.
        num_recent: how many these are: the likeliest beginning, if that bet is right.
    """

    law: str
    p_value: float
    direction: str
    reference_mean: float
    recent_mean: float
    num_recent: int


@dataclass(frozen=True)
class Drift:
    """The test of some traffic. It runs on one state for as long as the policy is used; after an alarm the state stays as it was.

    Attributes:
        traffic: the reference sample.
        alpha: the chance of ever raising a false alarm.
        max_kept: values kept a law; beyond, one of them, drawn at random, is forgotten for each that comes.

    Raises:
        ValueError: for an alpha outside (0, 1), or fewer kept than the reference sample has.
    """

    traffic: Traffic
    alpha: float = 0.01
    max_kept: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected a number between 0 and 1, got {self.alpha!r}")
        most = max(map(len, self.traffic.laws.values()))
        if self.max_kept < most:
            raise ValueError(
                f"max_kept: expected at least the {most:,} values of the reference sample, got {self.max_kept!r}"
            )

    def init(self) -> DriftState:
        """Return the state before the first request of the holdout."""
        return {name: LawState(0, values, np.zeros(len(DIRECTIONS)), 1.0) for name, values in self.traffic.laws.items()}

    def step(self, state: DriftState, values: Mapping[str, float], uniform: float) -> DriftState:
        """Return the state after one more request of the holdout.

        Args:
            state: before it.
            values: by law, measured as those of the log were; a law that the request has no value of is left out.
            uniform: in [0, 1), drawn by the caller for this request alone: it splits ties, and says who is forgotten.

        Raises:
            ValueError: for a law that the reference sample does not have, or a number that is none or out of range.
        """
        if not 0 <= uniform < 1:
            raise ValueError(f"uniform: expected a number in [0, 1), got {uniform!r}")
        for name, value in values.items():
            if name not in state:
                raise ValueError(f"values: expected laws of {', '.join(state)}, got {name!r}")
            if not math.isfinite(value):
                raise ValueError(f"values.{name}: expected a finite number, got {value!r}")
        if self.alarm(state):
            return state
        return state | {name: self._seen(state[name], float(coarse(value)), uniform) for name, value in values.items()}

    def _seen(self, law: LawState, value: float, uniform: float) -> LawState:
        # The first digits say who is forgotten, the others, which do not hang on them, split the ties.
        forgotten, rest = divmod(uniform * (len(law.kept) + 1), 1.0)
        num_seen = law.num_seen + 1
        stakes = staked(law.stakes, rank(law.kept, value, rest), num_seen)
        kept = np.append(law.kept, value)
        if len(kept) > self.max_kept:
            kept = np.delete(kept, int(forgotten))
        return LawState(num_seen, kept, stakes, max(law.most_capital, float(capital(stakes, num_seen))))

    def p_value(self, state: DriftState) -> float:
        """The p-value of the traffic being as it was; holds at any time, however often it is looked at."""
        return min(self._p_value(law) for law in state.values())

    def _p_value(self, law: LawState) -> float:
        return min(len(self.traffic.laws) / law.most_capital, 1.0)

    def alarm(self, state: DriftState) -> bool:
        """Whether there is, or has been, an alarm: from there on the reference rule should be used."""
        return self.p_value(state) <= self.alpha

    def moves(self, state: DriftState) -> tuple[Move, ...]:
        """How each law has moved, the clearest first; a law that has not been seen is left out."""
        found = [self._move(name, law) for name, law in state.items() if law.num_seen]
        return tuple(sorted(found, key=lambda move: move.p_value))

    def _move(self, name: str, law: LawState) -> Move:
        best, reference = int(law.stakes.argmax()), self.traffic.laws[name]
        recent = law.kept[-min(law.num_seen, len(law.kept)) :]
        won = np.log(factors(rank(reference, recent, 0.5))[:, best])
        start = len(won) - 1 - int(won[::-1].cumsum().argmax())
        since = recent[start:]
        return Move(
            name, self._p_value(law), DIRECTIONS[best], float(reference.mean()), float(since.mean()), len(since)
        )

    def to_json(self, state: DriftState) -> str:
        """Return the state as JSON, for a server that is to go on after a restart."""
        laws = {
            name: law._replace(kept=law.kept.tolist(), stakes=law.stakes.tolist())._asdict()
            for name, law in state.items()
        }
        return json.dumps({"traffic": self.traffic.digest, "laws": laws}, allow_nan=False)

    def from_json(self, text: str) -> DriftState:
        """Return the state that `to_json` wrote.

        Raises:
            ValueError: naming the field, if it is none of ours or that of another reference sample.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.keys() != {"traffic", "laws"}:
            raise ValueError("state: expected traffic and laws")
        if content["traffic"] != self.traffic.digest:
            raise ValueError("state.traffic: is of another reference sample: begin anew with init()")
        if not isinstance(content["laws"], dict) or content["laws"].keys() != self.traffic.laws.keys():
            raise ValueError(f"state.laws: expected {', '.join(self.traffic.laws)}")
        return {name: self._law(f"state.laws.{name}", content["laws"][name]) for name in self.traffic.laws}

    def _law(self, field: str, given: Any) -> LawState:
        if not isinstance(given, dict) or given.keys() != set(LawState._fields):
            raise ValueError(f"{field}: expected {', '.join(LawState._fields)}")
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
        return LawState(num_seen, arrays["kept"], arrays["stakes"], float(most_capital))


def rank(kept: np.ndarray, value: Any, uniform: Any) -> np.ndarray:
    """The rank in [0, 1] of each value `[...]` among those kept, `[..., kept]` or `[kept]`; a NaN there is none."""
    each = np.asarray(value)[..., None]
    below, equal, number = (np.count_nonzero(those, axis=-1) for those in (kept < each, kept == each, ~np.isnan(kept)))
    found: np.ndarray = (below + uniform * (1 + equal)) / (1 + number)
    return found


def factors(rank: Any) -> np.ndarray:
    """What each bet is multiplied by at a rank in [0, 1], `[..., bets]`: densities, of mean 1 under uniform ranks."""
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
    """What is not staked yet after so many ranks, `[...]`."""
    return np.where(num_seen, 0.5 / (1 + np.log(np.maximum(num_seen, 1))), 1.0)


def staked(stakes: np.ndarray, rank: Any, num_seen: Any) -> np.ndarray:
    """What the bets `[..., bets]` are worth after a rank `[...]`, the `num_seen`-th, counted from 1."""
    fresh = held_back(np.asarray(num_seen) - 1) - held_back(num_seen)
    worth: np.ndarray = (stakes + fresh[..., None] / len(DIRECTIONS)) * factors(rank)
    return worth


def capital(stakes: np.ndarray, num_seen: Any) -> np.ndarray:
    """All that there is, `[...]`: the bets' worth and what is held back."""
    total: np.ndarray = stakes.sum(axis=-1) + held_back(num_seen)
    return total


def coarse(values: Any) -> np.ndarray:
    """Values to three significant digits, float64."""
    exact = np.asarray(values, np.float64)
    size = np.abs(exact)
    digits = 10.0 ** (NUM_DIGITS - 1 - np.floor(np.log10(np.maximum(size, LEAST))))
    return np.where(size < LEAST, 0.0, np.round(exact * digits) / digits)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
