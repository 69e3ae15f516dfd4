"""Parts of a log for different uses: by problem, never by sample, so that no part has seen another's problems."""

import hashlib
import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from stopping.traces.errors import LogError, shown
from stopping.traces.log import Log

SomeLog = TypeVar("SomeLog", bound=Log)

FRACTIONS = (0.3, 0.5, 0.2)  # of the problems that `stopping.tune` chooses on, certifies on and measures on


def split(
    log: SomeLog, fractions: Sequence[float], seed: int = 0, *, together: Sequence[Hashable] | None = None
) -> tuple[SomeLog, ...]:
    """Split by problem into parts of these fractions.

    The same seed gives the same parts on any machine and for any order of rows. The order of problems is that
    of SHA-256 of the seed and the name; sizes are those of the largest remainder.

    Args:
        log: what to split.
        fractions: positive, adding up to 1.
        seed: a whole number.
        together: [problems] one key a problem; problems with the same key stay in one part, and parts are sized in
            keys. For the same question asked of several models, give the question: `together=log.groups["question"]`.
            Default: each problem by itself.

    Raises `LogError` for fractions that do not add up, a seed that is no whole number, or a part without problems.
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
    """Return whole sizes adding up to `total`: shares rounded down, then one more where most was cut (first on a tie)."""
    shares = [Fraction(str(float(fraction))) * total for fraction in fractions]
    sizes = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: sizes[index] - shares[index])
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes
