"""What `policy.json` and a line of `golden.jsonl` may hold.

Every figure and note is optional, so that a policy can be written before it has been calibrated or certified. A file
of a newer minor version is read if it holds nothing unknown; a newer major version is refused. Version 1.1 added `traffic`.
"""

import json
import math
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from stopping.artifacts.error import ArtifactError
from stopping.traces.reference import PATTERN as REFERENCE_PATTERN

SCHEMA_VERSION = "1.1"
MAX_INLINE_VALUES = 4096  # a larger array goes to `weights.safetensors`
MAX_TRAFFIC_VALUES = 2000  # of each quantity


class Record(BaseModel):
    """A part of the document: every key known, every value of its declared type, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


def _number(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    raise ValueError("expected a finite number of at most 64 bits")


Number = Annotated[Any, AfterValidator(_number), WithJsonSchema({"type": ["number", "boolean"]})]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Text = Annotated[str, Field(max_length=65_536)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DataType = Literal["bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float64"]
Shape = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=8)]
ActionName = Literal["CONTINUE", "STOP", "LAUNCH", "PROBE", "PRUNE", "RESTART", "ABSTAIN", "SWITCH"]


class InlineArray(Record):
    """A small array: `values` in row-major order."""

    dtype: DataType
    shape: Shape
    values: Annotated[list[Number], Field(max_length=MAX_INLINE_VALUES)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if math.prod(self.shape) != len(self.values):
            raise ValueError(f"expected {math.prod(self.shape)} values for shape {self.shape}, got {len(self.values)}")
        expected = {"b": bool, "f": float}.get(np.dtype(self.dtype).kind, int)
        if any(type(value) is not expected for value in self.values):
            raise ValueError(f"expected values of dtype {self.dtype}")
        try:
            fits = self.array().ravel().tolist() == self.values
        except OverflowError:
            fits = False
        if not fits:
            raise ValueError(f"expected values that {self.dtype} holds exactly")
        return self

    def array(self) -> np.ndarray:
        """Return the array."""
        return np.array(self.values, self.dtype).reshape(self.shape)


class TensorReference(Record):
    """A large array: a tensor of `weights.safetensors`."""

    tensor: Name
    dtype: DataType
    shape: Shape


def _parameter_tag(value: Any) -> str:
    if not isinstance(value, dict | Record):
        return "number"
    return "tensor" if (isinstance(value, TensorReference) or "tensor" in dict(value)) else "array"


def _sample(array: InlineArray) -> InlineArray:
    if len(array.shape) != 1 or not 1 <= array.shape[0] <= MAX_TRAFFIC_VALUES:
        raise ValueError(f"expected 1 to {MAX_TRAFFIC_VALUES:,} values of shape [values], got shape {array.shape}")
    return array


Traffic = Annotated[dict[Name, Annotated[InlineArray, AfterValidator(_sample)]], Field(min_length=1, max_length=16)]
Parameter = Annotated[
    Annotated[Number, Tag("number")] | Annotated[InlineArray, Tag("array")] | Annotated[TensorReference, Tag("tensor")],
    Discriminator(_parameter_tag),
]


class Quantity(Record):
    """A number with its error: a standard error (0 for an exact value), an interval, or both."""

    mean: float
    standard_error: Annotated[float, Field(ge=0)] | None = None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_independent: Count | None = None

    @model_validator(mode="after")
    def _has_an_error(self) -> Self:
        if self.standard_error is None and self.interval is None:
            raise ValueError("expected a standard_error or an interval")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"expected an interval [low, high], got {self.interval}")
        return self


class DecisionPoints(Record):
    """When the policy is asked."""

    on: Literal["trace_end", "token", "checkpoint", "attempt_end"] = "trace_end"
    interval_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # asked this often as well


class CalibratedOn(Record):
    """The log the policy was calibrated on; `digest` is that of the log."""

    digest: Text | None = None
    num_problems: Count | None = None
    num_traces: Count | None = None
    description: Text | None = None


class Certificate(Record):
    """What is guaranteed: by proof, by data, or nothing.

    `risk` says what `max_accuracy_drop` bounds: the loss of accuracy or, without labels, the disagreement with the
    reference rule. A certificate of grade `none` says how many problems would have been needed.
    """

    grade: Literal["proof", "data", "none"]
    statement: Text | None = None
    source: Text | None = None  # the theorem, the note or the test that it depends on
    risk: Literal["accuracy", "disagreement"] | None = None
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_problems: Count | None = None
    num_problems_needed: Count | None = None


class Fallback(Record):
    """What to do where the policy cannot be asked."""

    on_missing_signal: Literal["refuse", "continue", "stop"] = "refuse"


class Evidence(Record):
    """The figures of a simulation, a replay or a certification."""

    title: Text
    figures: dict[Name, Quantity]


class Document(Record):
    """`policy.json`."""

    schema_version: Annotated[str, Field(pattern=r"^1\.[0-9]{1,4}$")]
    library_version: Annotated[str, Field(max_length=128)]
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    kind: Name  # the policy's class name
    module: Annotated[str, Field(max_length=256)]  # where the class was defined; never imported by loading
    parameters: dict[Name, Parameter]
    plain_python: bool  # whether the policy also runs on plain Python numbers
    observation: Name  # the type of the observation
    signals: list[Name]  # its fields that the policy reads
    decision_points: DecisionPoints
    actions: Annotated[list[ActionName], Field(min_length=1)]  # what the policy may ask for
    lag_tokens: Count = 0  # tokens assumed to be generated between a decision and its effect
    fallback: Fallback = Fallback()
    reference_rule: Annotated[str, Field(pattern=f"^({REFERENCE_PATTERN})$")] | None = None
    calibrated_on: CalibratedOn | None = None
    traffic: Traffic | None = None  # by quantity, values of the log, one per problem: the reference for drift
    promised: dict[Name, Quantity] = {}  # accuracy_change, net_saving_tokens, net_saving_seconds, ...
    certificate: Certificate | None = None
    evidence: list[Evidence] = []
    license: Text | None = None
    files: dict[Literal["golden.jsonl", "weights.safetensors"], Digest]  # SHA-256


class GoldenLine(Record):
    """A stream of observations (by signal) and the decisions `[kind, amount]` they must give, one for one."""

    observations: Annotated[list[dict[Name, Number | list[Number]]], Field(min_length=1, max_length=10_000)]
    decisions: list[tuple[Annotated[int, Field(ge=0, le=7)], Int32]]

    @model_validator(mode="after")
    def _one_for_one(self) -> Self:
        if len(self.observations) != len(self.decisions):
            raise ValueError(f"expected {len(self.observations)} decisions, got {len(self.decisions)}")
        return self


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `policy.json`."""
    return Document.model_json_schema()


Model = TypeVar("Model", bound=Record)


def parse(model: type[Model], text: str, file: str, line: str = "") -> Model:
    """Return a record from its JSON text.

    Raises:
        ArtifactError: naming `file`, and `line` or the field.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        _refuse_newer(content, model, file)
        return model.model_validate_json(text)
    except ArtifactError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(part for part in (line, *map(str, first["loc"])) if part)
        problem = first["msg"].removeprefix("Value error, ")
        raise ArtifactError(file, field, f"{problem}, got {_short(first['input'])}") from None
    except RecursionError:
        raise ArtifactError(file, line, "nested too deeply") from None
    except ValueError as error:  # not JSON, a repeated key, or an integer of thousands of digits
        raise ArtifactError(file, line, f"not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"repeated key {next(key for key in keys if keys.count(key) > 1)!r}")
    return content


def _refuse_newer(content: Any, model: type, file: str) -> None:
    version = content.get("schema_version") if model is Document and isinstance(content, dict) else None
    major = version.split(".")[0] if isinstance(version, str) else ""
    if major.isascii() and major.isdigit() and major.lstrip("0") not in ("", "1"):
        problem = f"expected version {SCHEMA_VERSION} or an older one, got {_short(version)}: upgrade the library"
        raise ArtifactError(file, "schema_version", problem)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
