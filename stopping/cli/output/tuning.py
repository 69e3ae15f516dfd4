"""The outputs of commands that plan a tuning, tune, and use what was found."""

from typing import Any, Literal

from stopping.cli.output.records import Count, Figure, Figures, LogSummary, Output, Probability, Record


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
    """A promised figure with its interval, the one observed live, and whether the interval contains it."""

    promised: float
    low: float
    high: float
    observed: Figure
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
