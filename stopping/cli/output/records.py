"""The parts that the outputs of several commands share."""

import inspect
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from sims import Estimate, Result
    from stopping.problems import Problem
    from stopping.traces import TraceLog

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """A part of the output: no unknown key, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Output(Record):
    """What all commands write."""

    schema_version: Literal["1.0"] = "1.0"


class Figure(Record):
    """A mean, its standard error (0: exact; null: unknown, of one unit) and the independent units behind it."""

    mean: float
    standard_error: Annotated[float, Field(ge=0)] | None
    num_independent: Count

    @classmethod
    def of(cls, estimate: "Estimate") -> Self:
        """Return an estimate as a record."""
        return cls(**estimate.as_dict())


Figures = dict[str, Figure]


def figures_of(estimates: "dict[str, Estimate]") -> Figures:
    """Return the components of an outcome as records."""
    return {name: Figure.of(estimate) for name, estimate in estimates.items() if name != "unsupported"}


class LogSummary(Record):
    """A log: its file's name, its size, its reference rule, and the rows set aside when it was read, by reason."""

    name: str
    num_problems: Count
    num_traces: Count
    num_samples: Count
    reference: str
    set_aside: dict[str, Count]

    @classmethod
    def of(cls, name: str, log: "TraceLog") -> Self:
        """Summarise a log."""
        return cls(
            name=name,
            num_problems=log.num_problems,
            num_traces=log.num_traces,
            num_samples=log.num_samples,
            reference=str(log.reference),
            set_aside=dict(log.set_aside),
        )


class ProblemSummary(Record):
    """A problem: its class, its decision, and its arguments that are single numbers; prices are in units of one right answer."""

    name: str
    decision: str
    arguments: dict[str, int | float | bool]

    @classmethod
    def of(cls, problem: "Problem") -> Self:
        """Describe a problem."""
        kind = type(problem)
        module = "" if kind.__module__.startswith("stopping.") else f"{kind.__module__}:"
        values = {name: getattr(problem, name, None) for name in inspect.signature(kind).parameters}
        numbers = {name: np.asarray(value) for name, value in values.items() if not isinstance(value, str)}
        return cls(
            name=f"{module}{kind.__name__}",
            decision=problem.decision.name,
            arguments={
                name: value.item() for name, value in numbers.items() if not value.ndim and value.dtype.kind in "biuf"
            },
        )

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value:.4g}' for name, value in self.arguments.items() if value)})"


def accuracy_bounds(problem: "Problem", result: "Result") -> tuple[Figure, Figure] | None:
    """Return the accuracy if every unsupported unit were wrong, and if it were right; None where there is none."""
    if not result.num_unsupported:
        return None
    from stopping.problems.problem import worth_of

    worth = worth_of(problem)
    return Figure.of(result.estimates[worth]), Figure.of(result.at_most(**{worth: 1.0}).estimates[worth])
