"""Loss and cost of problems whose runs give one answer each."""

from typing import Any

import numpy as np


def accuracy_loss(outcome: Any, reference: Any, judged: bool) -> Any:
    """Return [the reference's answer is right] - [this one is]; without labels, whether the two answers differ.

    A run that went past what a log holds has no answer: it counts as wrong, and as different.

    Args:
        outcome: with `correct` or, without labels, `answer` and `unsupported`; arrays `[...]`.
        reference: of the reference rule; likewise.
        judged: whether it is known which answers are right.
    """
    if judged:
        return reference.correct * 1.0 - outcome.correct * 1.0
    return ((outcome.answer != reference.answer) | outcome.unsupported) * 1.0


def priced_cost(total_tokens: Any, *amounts: tuple[Any, Any]) -> Any:
    """Return the sum of prices times amounts, in float64; tokens where all prices are 0.

    Args:
        total_tokens: of the run, `[...]`.
        amounts: pairs of a price and what it is paid for, `[...]`.
    """
    if not any(float(price) for price, _ in amounts):
        return np.asarray(total_tokens, np.float64)
    return sum(float(price) * np.asarray(amount, np.float64) for price, amount in amounts)
