"""The outputs of commands about logs and servers."""

from typing import Any, Literal

from stopping.cli.output.records import Count, LogSummary, Output, Record


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
