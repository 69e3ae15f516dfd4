"""The output of `stopping fit`, which is also the model file that `stopping simulate --model` and `inspect` read."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from stopping.cli.output.records import Count, LogSummary, Output, Probability, Record

Positive = Annotated[float, Field(gt=0)]


class WrongAnswers(Record):
    """The Ewens-Pitman distribution of wrong answers."""

    discount: Annotated[float, Field(lt=1)]
    concentration: float

    @model_validator(mode="after")
    def _is_a_distribution(self) -> Self:
        if not self.concentration > -self.discount:
            raise ValueError(f"expected concentration > -discount, got {self.concentration} and {self.discount}")
        return self


class ModelParameters(Record):
    """A `LengthCorrectness` model; the first four have one entry a problem."""

    alpha: Annotated[list[Positive], Field(min_length=1)]
    beta: list[Positive]
    effect: list[float]
    effect_scale: list[Annotated[float, Field(ge=0)]]
    shift: float
    scale_right: Positive
    scale_wrong: Positive
    loop_prob: Probability
    no_answer_prob: Probability
    cap_tokens: Positive | None
    answers: WrongAnswers

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in ("alpha", "beta", "effect", "effect_scale")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected one entry a problem in each list, got {lengths}")
        return self


class Agreement(Record):
    """Kolmogorov-Smirnov distance between the lengths and the model's, with its p-value (a guide, not a test)."""

    distance: float | None
    p_value: float | None
    num_traces: Count


class FitOutput(Output):
    """`stopping fit`: the model of the log's problems, and of a problem not seen yet (`population`)."""

    command: Literal["fit"] = "fit"
    log: LogSummary
    pooled: bool
    num_judged: Count
    num_unjudged: Count
    converged: bool
    num_steps: Count
    standard_errors: dict[str, float | None]
    lengths_right: Agreement
    lengths_wrong: Agreement
    population: ModelParameters
    model: ModelParameters


def read_fit(path: Path) -> FitOutput:
    """Read what `stopping fit --json` wrote.

    Raises:
        ValueError: naming the file and the field; FileNotFoundError without a file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        return FitOutput.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "the document"
        raise ValueError(f"{path.name}: not what stopping fit --json writes: {field}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: expected JSON as stopping fit --json writes it: {error}") from None
