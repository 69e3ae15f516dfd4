"""What was logged: typed columnar logs of reasoning traces, their readers, and splits by problem.

log = load_log("runs.parquet")
print(check(log))
fit_part, certify_part, test_part = split(log, (0.3, 0.5, 0.2), seed=0)

`load_harness` reads the logs of lm-evaluation-harness, `load_chat` logs of chat completions.
"""

from stopping.traces.checkers import Checker, checker
from stopping.traces.checkpoints import Checkpoints
from stopping.traces.errors import LogError
from stopping.traces.extraction import extractor
from stopping.traces.log import Log
from stopping.traces.readers import load_log
from stopping.traces.readers.chat import load_chat
from stopping.traces.readers.harness import load_harness
from stopping.traces.readers.long_form import from_columns
from stopping.traces.readers.probes import with_checkpoints
from stopping.traces.reference import Reference
from stopping.traces.reports import Report, Use, check
from stopping.traces.splits import split
from stopping.traces.storage import save_log
from stopping.traces.trace_log import LiveColumns, TraceLog

__all__ = [
    "Checker",
    "Checkpoints",
    "LiveColumns",
    "Log",
    "LogError",
    "Reference",
    "Report",
    "TraceLog",
    "Use",
    "check",
    "checker",
    "extractor",
    "from_columns",
    "load_chat",
    "load_harness",
    "load_log",
    "save_log",
    "split",
    "with_checkpoints",
]
