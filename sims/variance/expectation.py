"""Expectations of functions of uniform numbers, by points, control variates and weights; and what that was worth.

Let u be uniform on the unit cube, f the integrand, w its weight (1 without), and c controls with known means m. Terms of
independent units (a point, a pair, a replicate) are the means over the unit of

    w f - b (w c - m)

with slopes b fitted by least squares to the other units: units fall into eight parts, and each part gets the slopes of the
seven others. So b does not depend on what it is applied to, and the estimate has no bias; slopes fitted to the very terms
that they correct would give one of order 1 / n. Fitted to units, they are those that serve the mean of a unit best, which for
pairs and replicates are not those that serve a point's.

The variance of plain independent sampling comes from the same evaluations, for each point is uniform by itself: it is the mean
of w f^2 less (the mean of w f)^2, with weights too: those of sampling from the target.

References:
    Owen, Monte Carlo theory, methods and examples (2013), chapters 8 to 10. Hickernell, Lemieux and Owen, "Control variates for
    quasi-Monte Carlo" (2005), on slopes fitted to replicates.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from sims.estimates import Estimate
from sims.variance.points import BLOCK, Independent, Points
from sims.variance.weights import WeightReport
from stopping.policies.checks import whole_number

LOG_WEIGHT = "log_weight"
NUM_PARTS = 8
CONSTANT = 1e-6  # spread of a control over units, relative to its values, that is but rounding
SINGULAR = 1e-10  # singular values of controls, relative to the largest, that count as none
ROUNDING = 1e-12  # of means in float64
SURE = 1 - 1e-8  # confidence at which a control's mean is said to be another than the one stated


@dataclass(frozen=True, repr=False)
class Expectation:
    """Expectations by component of an integrand; `found.latency` is the estimate of the component `latency`.

    Attributes:
        title: how they were found, for people.
        num_evaluations: of the integrand.
        estimates: with errors from independent points, pairs or replicates.
        reduction: the variance that plain independent sampling has at the same number of evaluations over that of the estimate,
            both measured in this run; a ratio with its own error. nan where neither varies, infinite where the estimate alone
            does not.
        self_normalised: where there are weights, the sum of w f over the sum of w: for weights known up to a factor alone;
            without controls, and with a bias of order 1 / n.
        weights: where there are weights, how evenly the terms w |f| are spread for each component, and, as `log_weight`, the
            weights themselves, which matter to the self-normalised estimates.
        warnings: what makes figures unreliable, in sentences: exploding weights, controls whose stated mean is not theirs.
    """

    title: str
    num_evaluations: int
    estimates: dict[str, Estimate]
    reduction: dict[str, Estimate]
    self_normalised: dict[str, Estimate] = field(default_factory=dict)
    weights: dict[str, WeightReport] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Estimate:
        estimates = self.__dict__.get("estimates", {})
        if name not in estimates:
            raise AttributeError(f"expectation has no component {name!r}; it has {', '.join(estimates)}")
        found: Estimate = estimates[name]
        return found

    def __repr__(self) -> str:
        width = max(map(len, self.estimates))
        lines = [f"Expectation by {self.title}, {self.num_evaluations:,} evaluations:"]
        for name, estimate in self.estimates.items():
            parts = [f"  {name:{width}}  {estimate}", f"variance reduced {_times(self.reduction[name])}"]
            if name in self.self_normalised:
                parts.append(f"self-normalised {self.self_normalised[name]}")
            lines.append(", ".join(parts))
        return "\n".join([*lines, *(f"  Warning: {sentence}" for sentence in self.warnings)])


def expectation(
    key: Key[Array, ""],
    integrand: Callable[[Array], Any],
    num_uniforms: int,
    *,
    num_evaluations: int,
    points: Points = Independent(),  # noqa: B008
    controls: Mapping[str, float] | None = None,
) -> Expectation:
    """Estimate the mean of each component of an integrand over uniform numbers.

    Two policies on the same worlds are one integrand that returns both, and their difference:

        def integrand(uniforms):
            world = problem.from_uniforms(uniforms)
            one, other = (problem.play(world, policy).utility for policy in (FirstFinish(1), Margin(2)))
            return {"one": one, "other": other, "gain": one - other}

        expectation(key, integrand, problem.num_uniforms, points=Sobol(), num_evaluations=2**14)

    Args:
        key: of the points.
        integrand: takes `[uniforms]`, each in (0, 1), and returns a scalar (then called `value`), or a dictionary or named tuple
            of scalars; in JAX. Compiled once for each function: define it outside a loop. A component `log_weight` is the
            log of the target's density over that of what was drawn, and turns this into importance sampling.
        num_uniforms: how many the integrand takes.
        num_evaluations: of the integrand; even for pairs, a multiple of the replicates for what comes in replicates.
        points: which.
        controls: components whose mean (under the target) is known, with that mean. They may be many, and constant.

    Raises:
        ValueError: naming the argument, for a number of evaluations that the points cannot have, a control that is no
            component or too many of them, or values that are no scalars or not finite.
    """
    num_uniforms = whole_number("num_uniforms", num_uniforms, 1)
    num_evaluations = whole_number("num_evaluations", num_evaluations, 2)
    unit_size = points.unit_size(num_evaluations)
    if (num_units := num_evaluations // unit_size) < 2:
        raise ValueError(f"num_evaluations: expected at least {2 * unit_size}, two units, got {num_evaluations}")
    blocks = points.blocks(key, num_evaluations, num_uniforms)
    values = evaluate(integrand, blocks, num_evaluations)
    log_weight = values.pop(LOG_WEIGHT, None)
    controls = dict(controls or {})
    if missing := [name for name in controls if name not in values]:
        raise ValueError(
            f"controls: expected components of the integrand, {', '.join(values)}, got {', '.join(missing)}"
        )
    targets = {name: column for name, column in values.items() if name not in controls}
    if not targets:
        raise ValueError("controls: expected a component besides them, got none")
    if 2 * (len(controls) + 2) > num_units:
        raise ValueError(
            f"controls: expected at most {num_units // 2 - 2} with {num_units} independent units, got {len(controls)}"
        )
    weight, scale = _relative(log_weight, num_evaluations)

    def unit_means(column: np.ndarray) -> np.ndarray:
        return column.reshape(num_units, unit_size).mean(axis=1)

    raw = terms = {name: scale * unit_means(weighted(weight, column)) for name, column in targets.items()}
    warnings: tuple[str, ...] = ()
    if controls:
        columns = {name: scale * weighted(weight, values[name]) for name in controls}
        excess = {name: unit_means(column) - controls[name] for name, column in columns.items()}
        varying = [name for name in controls if excess[name].std() > CONSTANT * np.abs(columns[name]).max()]
        warnings = tuple(filter(None, (_wrong_mean(name, excess[name], controls[name]) for name in controls)))
        terms = _corrected(terms, [excess[name] for name in varying])
    found = Expectation(
        title=f"{points} and {len(controls)} controls" if controls else str(points),
        num_evaluations=num_evaluations,
        estimates={name: Estimate.of(term) for name, term in terms.items()},
        reduction={
            name: reduction(scale * unit_means(weighted(weight, column**2)), raw[name], terms[name], unit_size)
            for name, column in targets.items()
        },
        warnings=warnings,
    )
    if log_weight is None:
        return found
    products = {name: weighted(weight, column) for name, column in targets.items()}
    over = unit_means(weight)
    reports = {name: WeightReport.of(np.abs(product)) for name, product in products.items()}
    reports[LOG_WEIGHT] = WeightReport.of(weight)
    return replace(
        found,
        self_normalised={name: Estimate.ratio(unit_means(product), over) for name, product in products.items()},
        weights=reports,
        warnings=(*warnings, *exploding(reports)),
    )


def evaluate(integrand: Callable[[Array], Any], blocks: Iterable[Array], count: int) -> dict[str, np.ndarray]:
    """Map an integrand over blocks of points; components in float64, `[count]` each.

    Raises:
        ValueError: naming the component that is no scalar, or that has a value which is not finite (a `log_weight` may be -inf).
    """
    parts = [_map(integrand, block) for block in blocks]  # computed while the next points are drawn
    values = {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts])[:count] for name in parts[0]}
    for name, column in values.items():
        fine = np.isfinite(column) | ((name == LOG_WEIGHT) & (column == -np.inf))
        if not fine.all():
            raise ValueError(f"integrand: expected finite values, got {column[~fine][0]} in {name}")
    return values


@eqx.filter_jit
def _map(integrand: Callable[[Array], Any], points: Array) -> dict[str, Array]:
    return jax.lax.map(lambda point: components(integrand(point)), points, batch_size=min(points.shape[0], BLOCK))


def components(value: Any) -> dict[str, Array]:
    """The scalars of an integrand's value by name.

    Raises:
        ValueError: naming a component that is no scalar.
    """
    found = value._asdict() if hasattr(value, "_asdict") else value if isinstance(value, dict) else {"value": value}
    for name, component in found.items():
        if jnp.shape(component):
            raise ValueError(f"integrand: expected scalars, got {name} of shape {jnp.shape(component)}")
    return {name: jnp.asarray(component) for name, component in found.items()}


def _relative(log_weight: np.ndarray | None, count: int) -> tuple[np.ndarray, float]:
    """Weights over the largest, and the largest: nan where it leaves float64, and no mean under the target can be had."""
    if log_weight is None:
        return np.ones(count), 1.0
    largest = float(log_weight.max())
    if largest == -np.inf:
        raise ValueError("integrand: expected a log_weight above -inf at some point, got none")
    within = np.log(np.finfo(np.float64).tiny) < largest < np.log(np.finfo(np.float64).max)
    return np.exp(log_weight - largest), math.exp(largest) if within else math.nan


def weighted(weight: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Their product, 0 where the weight is, whatever stands there."""
    return np.where(weight > 0, weight * column, 0.0)


def reduction(second: np.ndarray, first: np.ndarray, term: np.ndarray, cost: float) -> Estimate:
    """The variance of plain sampling over that of the estimate, at the same cost, with the error of its linearisation.

    Args:
        second: second moments under the target, means over independent units; `[units]`.
        first: first moments, in the same way.
        term: terms whose mean is the estimate; `[units]`.
        cost: evaluations a unit.
    """
    mean, count = term.mean(), term.size
    square = (term - mean) ** 2 / (count - 1)
    plain = second - 2 * mean * first + mean**2 + square  # its mean is the variance, and it varies as that does
    own = cost * count * square
    none = (ROUNDING * mean) ** 2
    if not own.mean() > none:
        return Estimate(math.inf if plain.mean() > ROUNDING * mean**2 else math.nan, math.nan, count)
    ratio = plain.mean() / own.mean()
    return Estimate.of(ratio + (plain - ratio * own) / own.mean())


def exploding(reports: Mapping[str, WeightReport]) -> tuple[str, ...]:
    """Say which components' terms cannot be relied on."""
    meant = {LOG_WEIGHT: "the weights explode, and no self-normalised estimate can be relied on"}
    return tuple(
        f"{meant.get(name, f'{name}: its weighted terms explode, and neither estimate nor error can be relied on')} ({report})"
        for name, report in reports.items()
        if report.explodes
    )


def _corrected(terms: dict[str, np.ndarray], excess: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Terms less controls that have mean 0, each part of the units with the slopes of the other parts."""
    if not excess:
        return terms
    x, y = np.stack(excess, axis=1), np.stack(list(terms.values()), axis=1)
    x = x / x.std(axis=0)
    corrected, part = y.copy(), np.arange(len(y)) % NUM_PARTS
    for own in range(NUM_PARTS):
        rest = part != own
        slopes = np.linalg.lstsq(x[rest] - x[rest].mean(axis=0), y[rest] - y[rest].mean(axis=0), rcond=SINGULAR)[0]
        corrected[~rest] -= x[~rest] @ slopes
    return dict(zip(terms, corrected.T, strict=True))


def _wrong_mean(name: str, excess: np.ndarray, stated: float) -> str:
    """What to say of a control whose draws have another mean than the one stated; nothing where they agree."""
    gap = Estimate.of(excess)
    low, high = gap.interval(SURE)
    if low - CONSTANT * abs(stated) <= 0 <= high + CONSTANT * abs(stated):
        return ""
    return f"control {name}: expected the stated mean {stated:g}, got {stated + gap.mean:g} ± {gap.standard_error:.1g}"


def _times(factor: Estimate) -> str:
    if math.isnan(factor.mean):
        return "nothing: there is none"
    if math.isinf(factor.mean):
        return "to nothing"
    error = f" ± {factor.standard_error:.2g}" if factor.standard_error > ROUNDING * factor.mean else ""
    return f"{factor.mean:.3g}{error} times"
