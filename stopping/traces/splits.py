"""Splits of a log by problem, never by sample, so that no part has problems of another."""

import hashlib
import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from stopping.traces.errors import LogError, shown
from stopping.traces.log import Log

SomeLog = TypeVar("SomeLog", bound=Log)

FRACTIONS = (0.3, 0.5, 0.2)  # of problems, on which `stopping.tune` chooses, certifies and measures


def split(
    log: SomeLog, fractions: Sequence[float], seed: int = 0, *, together: Sequence[Hashable] | None = None
) -> tuple[SomeLog, ...]:
    """Split a log by problem into parts of these fractions.

    The same seed gives the same parts on any machine and for any order of rows: problems are sorted by SHA-256 of the seed
    and the name, and sizes are rounded by the method of the largest remainder.

    Args:
        log: what to split.
        fractions: positive numbers with sum 1.
        seed: a whole number.
        together: [problems] one key a problem; problems with the same key stay in one part, and fractions are of keys. If
            several models were asked the same questions, give the question: `together=log.groups["question"]`.
            By default each problem is separate.

    Raises `LogError` for fractions that do not add up, a seed that is not a whole number, or a part without problems.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise LogError(f"seed: expected a whole number, got {shown(seed)}")
    if (
        not fractions
        or not all(math.isfinite(part) and part > 0 for part in fractions)
        or abs(math.fsum(fractions) - 1) > 1e-9
    ):
        raise LogError(f"fractions: expected positive numbers that add up to 1, got {tuple(fractions)}")
    keys = list(log.problem_ids if together is None else together)
    if len(keys) != log.num_problems:
        raise LogError(f"together: expected one key for each of {log.num_problems} problems, got {len(keys)}")
    units = sorted(set(keys), key=lambda key: (hashlib.sha256(f"{int(seed)}:{key}".encode()).digest(), str(key)))
    sizes = sizes_of(len(units), fractions)
    if 0 in sizes:
        raise LogError(
            f"fractions: {len(units)} problems in parts of {tuple(fractions)} leave a part empty: sizes {tuple(sizes)}"
        )
    part_of_unit = dict(zip(units, np.repeat(np.arange(len(sizes)), sizes).tolist(), strict=True))
    part = np.array([part_of_unit[key] for key in keys])
    return tuple(log.take(part == index) for index in range(len(sizes)))


def sizes_of(total: int, fractions: Sequence[float]) -> list[int]:
    """Return whole sizes with sum `total`: shares rounded down, then one more where the remainder is largest (first on a tie)."""
    shares = [Fraction(str(float(fraction))) * total for fraction in fractions]
    sizes = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: sizes[index] - shares[index])
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes
