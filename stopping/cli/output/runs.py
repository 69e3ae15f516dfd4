"""The outputs of commands that play rules."""

from typing import Literal

from stopping.cli.output.records import Count, Figure, Figures, LogSummary, Output, Probability, ProblemSummary, Record


class RunOutput(Output):
    """`stopping simulate` and `stopping replay`: what one rule did; `worlds` is a digest of the worlds it was played in.

    Where the rule asked for more than the log holds (`num_unsupported`), there is no answer and what it had cost until
    then: accuracy and costs are lower bounds, and `accuracy_bounds` are those of accuracy.
    """

    command: Literal["simulate", "replay"]
    source: str
    rule: str
    problem: ProblemSummary
    figures: Figures
    num_units: Count
    num_unsupported: float
    accuracy_bounds: tuple[Figure, Figure] | None
    worlds: str


class ComparedRule(Record):
    """One rule: its figures, the same less the reference rule's (paired), and the share it could not be followed in.

    `at_equal`: by cost (total tokens, latency), its accuracy less that of the best mixture of fixed rules with the same mean
    cost. No entry where every fixed rule costs more, or the rule could not be followed everywhere.

    Where that share is not zero, figures and differences of accuracy and costs are lower bounds, as in `RunOutput`;
    `accuracy_bounds`: had the rule been wrong, or right, there.
    """

    rule: str
    figures: Figures
    against_reference: Figures
    at_equal: Figures
    unsupported_share: Probability
    accuracy_bounds: tuple[Figure, Figure] | None


class CompareOutput(Output):
    """`stopping compare`."""

    command: Literal["compare"] = "compare"
    log: LogSummary
    problem: ProblemSummary
    num_orders: Count
    bootstrap: bool
    reference: str
    rules: list[ComparedRule]


class DemoOutput(Output):
    """`stopping demo`: what was promised (simulated under the fitted model) and what came of it on test problems."""

    command: Literal["demo"] = "demo"
    log: LogSummary
    split: tuple[Count, Count, Count]
    problem: ProblemSummary
    adaptive: bool
    rule: str
    reference: str
    promised: Figures
    observed: Figures
    promised_against_reference: Figures
    observed_against_reference: Figures
    policy: str
    decisions_agree: bool
    advice: str


class StudyOutput(Output):
    """`stopping study`: its tables, as one."""

    command: Literal["study"] = "study"
    study: str
    log: LogSummary | None  # None for a study that draws its problems
    rows: Figures
