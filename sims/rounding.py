"""How figures are written for people: rounded by their standard errors."""

import math
from typing import Any

ROUNDING = 1e-12  # of a mean, in double precision


def plus_minus(figure: Any, unit: float = 1.0, *, signed: bool = False) -> str:
    """Write `mean ± standard error` in this unit, to one digit of the error, or two where it begins with 1 to 3.5.

    (The Particle Data Group's rule for rounding.)

    Args:
        figure: has `mean` and `standard_error`: 0 of an exact value, None or infinite where it is not known.
        unit: what both are divided by; below 0 it turns the sign.
        signed: write a plus sign too.
    """
    mean, error = figure.mean / unit, figure.standard_error
    plus = "+" if signed else ""
    if error is None or not math.isfinite(error):
        return f"{mean:{plus},.3g} ± ?"
    error /= abs(unit)
    if error <= ROUNDING * abs(mean):  # an exact value, but for the rounding of its computation
        return f"{mean:{plus},.6g}" if mean else "0"
    exponent = math.floor(math.log10(error))
    leading = error / 10**exponent
    digits = max(0, -exponent + (leading < 3.55 or leading >= 9.5))
    return f"{mean:{plus},.{digits}f} ± {error:,.{digits}f}"


def in_points(mean: float, interval: tuple[float, float]) -> str:
    """Write a difference of shares in points, with its interval: `-0.9 (-2.9 to +1.1)`."""
    low, high = (f"{100 * end:+.1f}" for end in interval)
    return f"{100 * mean:+.1f} ({low} to {high})"
