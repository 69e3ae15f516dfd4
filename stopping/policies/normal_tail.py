"""The upper tail of the normal distribution, by the functions that a policy may use."""

from typing import Any

MOST = 8.0  # standard deviations: beyond, the tail is below 1e-15
_SCALE = 0.25
_COEFFICIENTS = (-2.29990019, 0.93097637, 0.80611935, -0.83325438, 1.7131043, -1.35682876, 0.34663598)


def normal_tail(xp: Any, score: Any) -> Any:
    """P(Z > score) for 0 <= score <= `MOST`; float `[...]`.

    With t = 1 / (1 + score / 4), the logarithm of the tail is log t - score^2 / 2 and a smooth function of t: a
    polynomial of degree 6 here, a least-squares fit at Chebyshev points. The relative error is below 1.1e-6 in double
    precision and 7e-6 in single.
    """
    t = 1 / (1 + _SCALE * score)
    power = _COEFFICIENTS[-1]
    for coefficient in _COEFFICIENTS[-2::-1]:
        power = power * t + coefficient
    return t * xp.exp(power - 0.5 * score * score)
