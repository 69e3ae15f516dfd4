"""The observations of a thought while it is generated, from what any engine can report about its tokens.

An engine's adapter adds tokens as they come, and asks for an observation at each decision point:

    windows = ThoughtWindows(policy.signals)
    windows.add(token_id, log_prob)        # one token of one row; arrays for several
    windows.observe(log_close_prob)        # ThinkingObservation, `[rows]`

Means are over the tokens since the last decision point, and signals are rounded to half precision, as in a log, so
that a threshold from a log decides in the same way here.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from stopping.policies.decisions import NO_ANSWER, PROBED_SIGNALS, MissingSignal, ThinkingObservation

_LARGEST = float(np.finfo(np.float16).max)


class ThoughtWindows:
    """The tokens of some thoughts, one a row, since each row's last decision point.

    Args:
        signals: fields of `ThinkingObservation` that must be there; the others are 0 where they are not given.
        num_rows: thoughts.
        candidate_ids: tokens that each put forward a result; None where no such tokens are known.

    Attributes:
        elapsed_tokens: added so far; int32 `[rows]`.

    Raises:
        MissingSignal: if `num_candidates` must be there and `candidate_ids` is None.
    """

    def __init__(
        self, signals: Collection[str], num_rows: int = 1, *, candidate_ids: Collection[int] | None = None
    ) -> None:
        if "num_candidates" in signals and candidate_ids is None:
            raise MissingSignal(
                "num_candidates: expected candidate_ids, the tokens that put forward a result, got None"
            )
        self.signals = tuple(signals)
        self.elapsed_tokens = np.zeros(num_rows, np.int32)
        self._candidate_ids = np.array(sorted(candidate_ids or ()), np.int64)
        self._num_candidates = np.zeros(num_rows, np.int32)
        self._window_tokens = np.zeros(num_rows, np.int32)
        self._log_prob, self._entropy = np.zeros(num_rows), np.zeros(num_rows)  # sums over the window
        self._labels: list[dict[str, int]] = [{} for _ in range(num_rows)]

    def add(self, token_ids: Any, log_probs: Any = None, entropies: Any = None, *, rows: Any = None) -> None:
        """Add tokens to their rows' windows.

        Args:
            token_ids: of what was drawn, `[rows]` or `[rows, tokens]`; a number for one row.
            log_probs: of those tokens at temperature 1, of the same shape; None, or NaN, where not known.
            entropies: of the distributions they were drawn from, at temperature 1, nats; likewise.
            rows: their indices; None for all.
        """
        chosen = np.arange(len(self.elapsed_tokens)) if rows is None else np.asarray(rows)
        ids = np.asarray(token_ids).reshape(len(chosen), -1)
        self.elapsed_tokens[chosen] += ids.shape[1]
        self._window_tokens[chosen] += ids.shape[1]
        self._num_candidates[chosen] += np.isin(ids, self._candidate_ids).sum(axis=1, dtype=np.int32)
        for total, values in ((self._log_prob, log_probs), (self._entropy, entropies)):
            known = np.nan if values is None else np.asarray(values, np.float64).reshape(ids.shape).sum(axis=1)
            total[chosen] += known

    def observe(self, log_close_probs: Any = None, *, rows: Any = None) -> ThinkingObservation:
        """Return what is seen at a decision point, before any probe, and begin the rows' next windows.

        Args:
            log_close_probs: log-probabilities that the thought is closed by the next token, `[rows]`; a number for one row.
            rows: indices of those that are at a decision point; None for all.

        Returns:
            Arrays `[rows]`.

        Raises:
            MissingSignal: if a signal that must be there was not given for every token of the window.
        """
        chosen = np.arange(len(self.elapsed_tokens)) if rows is None else np.asarray(rows)
        num_tokens = np.maximum(self._window_tokens[chosen], 1)
        close = np.full(len(chosen), np.nan) if log_close_probs is None else np.asarray(log_close_probs, np.float64)
        known = {
            "log_close_prob": close.reshape(len(chosen)),
            "mean_log_prob": self._log_prob[chosen] / num_tokens,
            "mean_entropy": self._entropy[chosen] / num_tokens,
        }
        for name, values in known.items():
            if name in self.signals and np.isnan(values).any():
                raise MissingSignal(f"{name}: expected a value for every token since the last decision point, got none")
        self._window_tokens[chosen], self._log_prob[chosen], self._entropy[chosen] = 0, 0.0, 0.0
        nothing = np.zeros(len(chosen), np.float32)
        return ThinkingObservation(
            elapsed_tokens=self.elapsed_tokens[chosen],
            **{name: short(np.nan_to_num(values, nan=0.0)) for name, values in known.items()},
            num_candidates=self._num_candidates[chosen],
            probed=np.zeros(len(chosen), bool),
            probed_answer=np.full(len(chosen), NO_ANSWER, np.int32),
            answer_mean_log_prob=nothing,
            answer_least_log_prob=nothing,
        )

    def probed(
        self,
        observation: ThinkingObservation,
        answers: Sequence[str | None],
        mean_log_probs: Any = None,
        least_log_probs: Any = None,
        *,
        rows: Any = None,
    ) -> ThinkingObservation:
        """Return the same observation after answers were forced.

        Args:
            observation: of those rows, before.
            answers: what each answer counts as, None for no answer; equal ones of a row get one label, in order of coming.
            mean_log_probs: of the answers' tokens, `[rows]`; None, or NaN, where not known.
            least_log_probs: of their least likely tokens; likewise.
            rows: their indices; None for all.

        Raises:
            MissingSignal: if a signal that must be there was not given.
        """
        chosen = range(len(self.elapsed_tokens)) if rows is None else np.asarray(rows).tolist()
        labels = []
        for row, answer in zip(chosen, answers, strict=True):
            known = self._labels[row]
            labels.append(NO_ANSWER if answer is None else known.setdefault(answer, len(known)))
        shown = {"probed": np.ones(len(labels), bool), "probed_answer": np.array(labels, np.int32)}
        for name, values in zip(PROBED_SIGNALS[2:], (mean_log_probs, least_log_probs), strict=True):
            values = np.full(len(labels), np.nan) if values is None else np.asarray(values, np.float64)
            if name in self.signals and np.isnan(values).any():
                raise MissingSignal(f"{name}: expected a value for every answer forced, got none")
            shown[name] = short(np.nan_to_num(values.reshape(len(labels)), nan=0.0))
        return observation._replace(**shown)


def short(values: Any) -> np.ndarray:
    """Return float32 numbers to the three digits that a log keeps, and none beyond what half precision holds."""
    rounded: np.ndarray = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)
    return rounded


def row_of(observation: Any, row: int) -> Any:
    """Return one row of an observation as plain numbers."""
    return type(observation)(*(values[row].item() for values in observation))
