"""What was logged: typed columnar logs of reasoning traces, their readers, and splits by problem.

log = load("runs.parquet")
print(check(log))
fit_part, certify_part, test_part = split(log, (0.3, 0.5, 0.2), seed=0)
"""

from .checkpoints import Checkpoints
from .errors import LogError
from .logs import from_columns, load
from .probes import with_checkpoints
from .reports import Report, Use, check
from .splits import split
from .storage import save
from .trace_log import LiveColumns, TraceLog

__all__ = [
    "Checkpoints",
    "LiveColumns",
    "LogError",
    "Report",
    "TraceLog",
    "Use",
    "check",
    "from_columns",
    "load",
    "save",
    "split",
    "with_checkpoints",
]
