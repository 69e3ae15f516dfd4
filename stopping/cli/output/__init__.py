"""What `--json` writes: one record a command, its JSON Schema printed by `stopping COMMAND --json-schema`.

Numbers that do not exist (a p-value without data, the error of a single unit) are null, and so is an infinite cap.
"""

from stopping.cli.output.fits import Agreement, FitOutput, ModelParameters, WrongAnswers, read_fit
from stopping.cli.output.logs import ConvertOutput, DoctorOutput, InspectOutput, RecordOutput, ServerCapabilities
from stopping.cli.output.records import Figure, LogSummary, Output, ProblemSummary, Record, accuracy_bounds, figures_of
from stopping.cli.output.runs import ComparedRule, CompareOutput, DemoOutput, RunOutput, StudyOutput
from stopping.cli.output.tuning import (
    ExportOutput,
    Kept,
    Losses,
    MeasuredRule,
    PlanOutput,
    PromiseOutput,
    Recording,
    Replaced,
    ReportOutput,
    TunedRule,
    TuneOutput,
)

__all__ = [
    "OUTPUTS",
    "Agreement",
    "CompareOutput",
    "ComparedRule",
    "ConvertOutput",
    "DemoOutput",
    "DoctorOutput",
    "ExportOutput",
    "Figure",
    "FitOutput",
    "InspectOutput",
    "Kept",
    "LogSummary",
    "Losses",
    "MeasuredRule",
    "ModelParameters",
    "Output",
    "PlanOutput",
    "ProblemSummary",
    "PromiseOutput",
    "Record",
    "RecordOutput",
    "Recording",
    "Replaced",
    "ReportOutput",
    "RunOutput",
    "ServerCapabilities",
    "StudyOutput",
    "TuneOutput",
    "TunedRule",
    "WrongAnswers",
    "accuracy_bounds",
    "figures_of",
    "read_fit",
]

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
