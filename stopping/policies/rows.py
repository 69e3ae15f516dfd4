"""A policy on many rows, each with its own decision points, and a record of its decisions."""

from typing import Any, NamedTuple

import numpy as np

from stopping.policies.actions import Kind
from stopping.policies.binding import bind
from stopping.policies.windows import row_of


class TakenDecision(NamedTuple):
    """One time that a policy was asked about a row.

    Attributes:
        observation: what it saw, as plain numbers.
        kind: what it asked for.
        amount: its amount.
        put_off: it asked to stop, but the stop did not take effect, because no answer would have come.
    """

    observation: Any
    kind: Kind
    amount: int
    put_off: bool = False


class PolicyRows:
    """A policy with a state for each row.

    Args:
        policy: what is asked.
        num_rows: rows; those that are not asked keep their state.

    Attributes:
        decisions: of each row, in order.
    """

    def __init__(self, policy: Any, num_rows: int) -> None:
        self.decisions: list[list[TakenDecision]] = [[] for _ in range(num_rows)]
        self._policy, self._bound = policy, bind(policy, "numpy")
        self._state = self._bound.init((num_rows,))

    def ask(self, observation: Any, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the kind and amount of the action for each of these rows; an undeclared kind buys nothing.

        Args:
            observation: of those rows, `[rows]`.
            rows: their indices.
        """
        rows = np.asarray(rows)
        state, action = self._bound.step(tuple_of(self._state, rows), observation)
        for whole, part in zip(self._state, state, strict=True):
            whole[rows] = part
        kinds = np.array(np.broadcast_to(action.kind, rows.shape))
        kinds[~np.isin(kinds, self._policy.kinds)] = Kind.CONTINUE
        amounts = np.broadcast_to(action.amount, rows.shape)
        for place, row in enumerate(rows.tolist()):
            asked = TakenDecision(row_of(observation, place), Kind(int(kinds[place])), int(amounts[place]))
            self.decisions[row].append(asked)
        return kinds, amounts

    def put_off(self, row: int) -> None:
        """Note that the row's last decision, a stop, did not take effect."""
        self.decisions[row][-1] = self.decisions[row][-1]._replace(put_off=True)


def tuple_of(values: Any, rows: Any) -> Any:
    """Return the same (named) tuple of arrays, of these rows alone."""
    chosen = [value[rows] for value in values]
    return type(values)(*chosen) if hasattr(values, "_fields") else tuple(chosen)
