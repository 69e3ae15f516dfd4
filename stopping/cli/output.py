"""What `--json` writes: one record a command, its JSON Schema printed by `stopping COMMAND --json-schema`.

Numbers that do not exist (a p-value without data, the error of a single unit) are null, an infinite cap too. The output
of `fit` is also the model file that `simulate --model` and `inspect` read.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from sims import Estimate, Result
    from stopping.traces import TraceLog

Positive = Annotated[float, Field(gt=0)]
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
            reference=log.reference,
            set_aside=dict(log.set_aside),
        )


class Problem(Record):
    """A problem; prices in units of one right answer. `num_traces` and the like are null for one chain of thought."""

    num_traces: Count | None
    wave_size: Count | None
    price_per_token: float
    price_per_second: float
    seconds_per_token: float
    lag_tokens: Count
    decision_interval_tokens: Count | None

    @classmethod
    def of(cls, problem: Any) -> Self:
        """Describe a problem."""
        return cls(
            num_traces=getattr(problem, "num_traces", None),
            wave_size=getattr(problem, "wave_size", None),
            price_per_token=float(problem.price_per_token),
            price_per_second=float(getattr(problem, "price_per_second", 0.0)),
            seconds_per_token=float(getattr(problem, "seconds_per_token", 0.0)),
            lag_tokens=int(getattr(problem, "lag_tokens", 0)),
            decision_interval_tokens=getattr(problem, "decision_interval_tokens", None),
        )


class AnswersLaw(Record):
    """Ewens-Pitman law of wrong answers."""

    discount: Annotated[float, Field(lt=1)]
    concentration: float

    @model_validator(mode="after")
    def _is_a_law(self) -> Self:
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
    answers: AnswersLaw

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


class RunOutput(Output):
    """`stopping simulate` and `stopping replay`: what one rule did; `worlds` tells sets of worlds apart.

    Where the rule asked for more than the log holds (`num_unsupported`), there is no answer and what it had cost until
    then: accuracy and costs are lower bounds, and `accuracy_bounds` are those of accuracy.
    """

    command: Literal["simulate", "replay"]
    source: str
    rule: str
    problem: Problem
    figures: Figures
    num_units: Count
    num_unsupported: float
    accuracy_bounds: tuple[Figure, Figure] | None
    worlds: str


class ComparedRule(Record):
    """One rule: its figures, the same less the reference rule's (paired), and the share it could not be followed in.

    `at_equal_tokens` and `at_equal_latency`: its accuracy less that of the best mixture of fixed rules with the same mean of
    total tokens, or of latency; null where no fixed rule is so cheap, or the rule could not be followed everywhere.

    Where that share is not zero, figures and differences of accuracy and costs are lower bounds, as in `RunOutput`;
    `accuracy_bounds`: had the rule been wrong, or right, there.
    """

    rule: str
    figures: Figures
    against_reference: Figures
    at_equal_tokens: Figure | None
    at_equal_latency: Figure | None
    unsupported_share: Probability
    accuracy_bounds: tuple[Figure, Figure] | None


class CompareOutput(Output):
    """`stopping compare`."""

    command: Literal["compare"] = "compare"
    log: LogSummary
    problem: Problem
    num_orders: Count
    bootstrap: bool
    reference: str
    rules: list[ComparedRule]


class InspectOutput(Output):
    """`stopping inspect`: the report on a log, the document of a policy with its digest, or what `fit` wrote."""

    command: Literal["inspect"] = "inspect"
    kind: Literal["log", "policy", "model"]
    name: str
    content: dict[str, Any]


class ConvertOutput(Output):
    """`stopping convert`: the log it wrote, and what that is enough for."""

    command: Literal["convert"] = "convert"
    log: LogSummary
    report: dict[str, Any]


class RecordOutput(Output):
    """`stopping record`: the log it wrote, what that is enough for, and what it cost: requests and tokens generated."""

    command: Literal["record"] = "record"
    log: LogSummary
    report: dict[str, Any]
    cost: dict[str, Count]


class ServerCapabilities(Record):
    """What a server can do, as `stopping.adapters.server.capabilities.Capabilities` says; null: not known, or not there."""

    model: str
    log_probs: bool
    num_top: Count
    asked_top: Count
    full_distribution: bool
    token_ids: bool
    prompt_ids: bool
    tokenizer: str
    prefix_cache: bool
    num_choices: bool
    control: bool
    usage: bool
    num_slots: Count | None
    context_tokens: Count | None
    idle_seconds: float | None
    tokens_per_second: float | None
    log_probs_share: float | None
    top_share: float | None
    control_seconds: float | None
    control_lag_tokens: Count | None


class DoctorOutput(Output):
    """`stopping doctor`: what the server can do, the signals of a thought there, and why the policy asked about cannot run.

    `refusal` is null where it can, or none was asked about.
    """

    command: Literal["doctor"] = "doctor"
    capabilities: ServerCapabilities
    signals: list[str]
    policy: str | None
    refusal: str | None


class DemoOutput(Output):
    """`stopping demo`: what was promised (simulated under the fitted model) and what came of it on test problems."""

    command: Literal["demo"] = "demo"
    log: LogSummary
    split: tuple[Count, Count, Count]
    problem: Problem
    adaptive: bool
    rule: str
    reference: str
    promised: Figures
    realised: Figures
    promised_against_reference: Figures
    realised_against_reference: Figures
    policy: str
    decisions_agree: bool
    advice: str


class Losses(Record):
    """Of a rule against a reference (named if a log was asked): problems with another outcome, and the mean loss."""

    rule: str | None
    reference: str | None
    discordance: Probability
    mean_loss: float


class Recording(Record):
    """What recording takes; `least_saving_tokens` is what a request must save, null where no requests were given."""

    num_samples: Count
    mean_tokens: float
    probe_tokens: float
    tokens_a_problem: float
    tokens: float
    cost: float
    least_saving_tokens: float | None


class PlanOutput(Output):
    """`stopping plan`: how large a log must be to certify a rule that changes nothing, and one for a rule with these losses.

    `num_problems` is null where no losses are known, and where no number looked at would do (`possible` is then false).
    """

    command: Literal["plan"] = "plan"
    log: LogSummary | None
    max_accuracy_drop: float
    confidence: float
    floor: Count
    losses: Losses | None
    power: Probability
    num_problems: Count | None
    possible: bool
    recording: Recording


class MeasuredRule(Record):
    """A rule on the test part: paired changes against the reference, tokens of latency, and its share of the two bounds.

    `accuracy_interval` is of the accuracy change, at 95 %.

    `reachable_share` is of what the best rule fitted to the signals saves; null where none is.
    """

    accuracy: Figure
    total_tokens: Figure
    accuracy_change: Figure
    accuracy_interval: tuple[float, float]
    saving_tokens: Figure
    saving_share: Figure
    saving_cost: Figure
    latency_median_tokens: float
    latency_95th_tokens: float
    clairvoyant_share: float
    reachable_share: float | None


class TunedRule(Record):
    """A rule that was tested: its certificate, and what it came to."""

    rule: str
    family: str
    grade: Literal["proof", "data", "none"]
    statement: str
    loss_bound: float
    p_value: float | None
    measured: MeasuredRule


class TuneOutput(Output):
    """`stopping tune`: rules in the order of testing; `chosen` is null where the advice is to keep the reference."""

    command: Literal["tune"] = "tune"
    log: LogSummary
    decision: str
    split: tuple[Count, Count, Count]
    num_tried: Count
    num_orders: Count
    reference: str
    reference_measured: MeasuredRule
    rules: list[TunedRule]
    chosen: str | None
    policy: str | None
    advice: str


class ReportOutput(Output):
    """`stopping report`: what tuning found, and the file of the page about it."""

    command: Literal["report"] = "report"
    tuned: TuneOutput
    page: str


class Kept(Record):
    """A figure that was promised, with its interval, what came of it live, and whether the interval holds that."""

    promised: float
    low: float
    high: float
    realised: Figure
    held: bool


class PromiseOutput(Output):
    """`stopping promise`: what tuning found, what came of it live, and the advice where signals tell nothing.

    `kept` is empty where the advice is not to bother.
    """

    command: Literal["promise"] = "promise"
    tuned: TuneOutput
    num_live: Count
    kept: dict[str, Kept]
    advice_placebo: str


class Replaced(Record):
    """A fixed rule in the place of a policy on a log's test part; `change` is the rule's figures less the policy's, paired.

    `certified` says whether the rule keeps the policy's certified limit; null where the policy has none.
    """

    log: LogSummary
    split: tuple[Count, Count, Count]
    policy_figures: Figures
    rule_figures: Figures
    change: Figures
    tokens_share: Figure
    certified: bool | None
    certificate: str | None


class ExportOutput(Output):
    """`stopping export`: settings of an engine, and what they lose; `exact` where the engine's rule decides as the policy."""

    command: Literal["export"] = "export"
    policy: str
    digest: str
    target: Literal["llamacpp", "vllm", "sglang", "transformers"]
    rule: str
    exact: bool
    arguments: list[str]
    fields: dict[str, Any]
    notes: list[str]
    loss: Replaced | None  # None where the rule is exact and no log was given
    statement: str
    directory: str | None


class StudyOutput(Output):
    """`stopping study`: its tables, as one."""

    command: Literal["study"] = "study"
    study: str
    log: LogSummary | None  # None for a study that draws problems of its own
    rows: Figures


OUTPUTS: dict[str, type[Output]] = {
    "fit": FitOutput,
    "simulate": RunOutput,
    "replay": RunOutput,
    "compare": CompareOutput,
    "inspect": InspectOutput,
    "convert": ConvertOutput,
    "demo": DemoOutput,
    "doctor": DoctorOutput,
    "plan": PlanOutput,
    "promise": PromiseOutput,
    "record": RecordOutput,
    "report": ReportOutput,
    "export": ExportOutput,
    "tune": TuneOutput,
    "study": StudyOutput,
}


def accuracy_bounds(result: "Result") -> tuple[Figure, Figure] | None:
    """Return the accuracy if every unsupported unit were wrong, and if it were right; None where there is none."""
    if not result.num_unsupported:
        return None
    return Figure.of(result.correct), Figure.of(result.at_most(correct=1.0).correct)


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
