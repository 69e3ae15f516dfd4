"""Monte Carlo integration over uniform numbers, with quasi-random points, control variates and importance weights.

Let u be uniform on the unit cube, f the integrand, w its weight (1 if there is none), and c controls with known means m. The
term of an independent unit (a point, a pair or a replicate) is the mean over the unit of

    w f - b (w c - m)

with slopes b fitted by least squares to other units: units fall into eight parts, and each part is corrected by slopes fitted to
the seven others. So the estimate is unbiased; slopes fitted to the same terms would give a bias of order 1 / n. Slopes are
fitted to units, not points: those that minimise the variance of a pair or replicate differ from those of a point.

The variance of plain independent sampling is estimated from the same evaluations, because each point is uniform: it is the mean
of w f^2 less (the mean of w f)^2. With weights, this is the variance of sampling from the target.

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
CONSTANT = 1e-6  # spread of a control over units, relative to its values, below which it counts as constant
SINGULAR = 1e-10  # singular values of controls, relative to the largest, below which they count as 0
ROUNDING = 1e-12  # of means in float64
SURE = 1 - 1e-8  # confidence at which the stated mean of a control is reported as wrong


@dataclass(frozen=True, repr=False)
class Expectation:
    """Expectations of an integrand's components; `found.latency` is the estimate of the component `latency`.

    Attributes:
        title: a description of the method.
        num_evaluations: of the integrand.
        estimates: by component, in its unit, with errors from independent points, pairs or replicates.
        reduction: by component, the variance reduction factor: the variance of plain independent sampling with the same number of
            evaluations over that of the estimate, both estimated in this run. nan where neither varies, infinite where only the
            estimate does not vary.
        self_normalised: with importance weights, the sum of w f over the sum of w, for weights known only up to a factor; without
            controls, and with a bias of order 1 / n.
        weights: with importance weights, how evenly the terms w |f| of each component are spread, and under `log_weight` the
            weights themselves, which matter for the self-normalised estimates.
        warnings: sentences on what makes figures unreliable: exploding weights, controls with a wrong stated mean.
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
            of scalars; in JAX. It is compiled once for each function object, so define it outside loops. A component
            `log_weight`, the log of the target's density over the sampling density, makes this importance sampling.
        num_uniforms: how many uniform numbers the integrand takes.
        num_evaluations: of the integrand; even for pairs, a multiple of the number of replicates otherwise.
        points: how points are drawn.
        controls: components with known means (under the target), and these means. Constant ones do no harm.

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
    """Evaluate an integrand at blocks of points; components in float64, `[count]` each.

    Raises:
        ValueError: naming a component that is not a scalar, or that is not finite (a `log_weight` may be -inf).
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
    """Return the components of an integrand's value by name.

    Raises:
        ValueError: naming a component that is not a scalar.
    """
    found = value._asdict() if hasattr(value, "_asdict") else value if isinstance(value, dict) else {"value": value}
    for name, component in found.items():
        if jnp.shape(component):
            raise ValueError(f"integrand: expected scalars, got {name} of shape {jnp.shape(component)}")
    return {name: jnp.asarray(component) for name, component in found.items()}


def _relative(log_weight: np.ndarray | None, count: int) -> tuple[np.ndarray, float]:
    """Return weights relative to the largest, and the largest; nan where that overflows, and means under the target with it."""
    if log_weight is None:
        return np.ones(count), 1.0
    largest = float(log_weight.max())
    if largest == -np.inf:
        raise ValueError("integrand: expected a log_weight above -inf at some point, got none")
    within = np.log(np.finfo(np.float64).tiny) < largest < np.log(np.finfo(np.float64).max)
    return np.exp(log_weight - largest), math.exp(largest) if within else math.nan


def weighted(weight: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return weight times value, and 0 wherever the weight is 0, whatever the value."""
    return np.where(weight > 0, weight * column, 0.0)


def reduction(second: np.ndarray, first: np.ndarray, term: np.ndarray, cost: float) -> Estimate:
    """Return the variance of plain sampling over that of the estimate at the same cost, with its error by the delta method.

    Args:
        second: second moments under the target, averaged over each unit; `[units]`.
        first: first moments, likewise.
        term: terms whose mean is the estimate; `[units]`.
        cost: evaluations per unit.
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
    """Return a warning for each component whose weighted terms are too heavy-tailed."""
    meant = {LOG_WEIGHT: "the weights explode, and no self-normalised estimate can be relied on"}
    return tuple(
        f"{meant.get(name, f'{name}: its weighted terms explode, and neither estimate nor error can be relied on')} ({report})"
        for name, report in reports.items()
        if report.explodes
    )


def _corrected(terms: dict[str, np.ndarray], excess: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return terms less controls of mean 0, each part of the units with slopes fitted to the other parts."""
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
    """Return a warning if a control's draws contradict its stated mean, an empty string otherwise."""
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
