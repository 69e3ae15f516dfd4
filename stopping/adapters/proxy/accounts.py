"""A line on each request: what was generated, what the policy saw and said. It is a log that `stopping.load` reads."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stopping.adapters.server.thought_run import ThoughtRun
from stopping.traces.endings import is_natural, is_whole

log = logging.getLogger("stopping.accounts")


@dataclass
class Account:
    """What is known of a request before its answer.

    Attributes:
        policy: its identity, None without one.
        holdout: the share that is never policed.
        treatment: `policed`, `holdout`, `shadow` or `unpoliced`.
        problem: the prompt's tokens; the log holds a hash of them, and no text.
        expected_saved: tokens, where the thought was stopped.
        by_order: the thought could be closed by order alone.
    """

    policy: str | None
    holdout: float
    treatment: str
    problem: Sequence[int] = field(default_factory=list)
    expected_saved: float | None = None
    by_order: bool = False

    @property
    def propensity(self) -> float:
        """The chance with which the request was treated as it was."""
        if self.treatment == "holdout":
            return self.holdout
        return 1 - self.holdout if self.treatment == "policed" else 1.0


class Accounts:
    """Writes lines of JSON to a file, and to the log `stopping.accounts`.

    Args:
        path: of the file, which is added to; None for the log alone.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._file = None if path is None else Path(path).open("a", encoding="utf-8")

    def write(self, account: Account, run: ThoughtRun, answer_of: Callable[[str], str | None]) -> None:
        """Write a request's line."""
        line = json.dumps(row(account, run, answer_of), ensure_ascii=False, separators=(",", ":"))
        log.info("%s", line)
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def row(account: Account, run: ThoughtRun, answer_of: Callable[[str], str | None]) -> dict[str, Any]:
    """Return a request as a row of a log.

    Lengths are of the trace alone; what was generated besides stands in `probe_tokens` and `discarded_tokens`.
    """
    ids = ",".join(map(str, account.problem)).encode()
    asked = [
        {"saw": each.observation._asdict(), "asked": each.kind.name, "put_off": each.put_off} for each in run.decisions
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "problem": hashlib.sha256(ids).hexdigest()[:16],
        "length_tokens": len(run.ids),
        "thought_tokens": run.thought_tokens,
        "answer": answer_of(run.answer) if is_natural(run.reason) else None,
        "censored": not is_whole(run.reason),
        "policy_id": account.policy,
        "would_stop_at": -1 if run.would_stop_at is None else run.would_stop_at,
        "propensity": account.propensity,
        "treatment": account.treatment,
        "stopped": run.stopped,
        "by_order": account.by_order,
        "probe_tokens": run.probe_tokens,
        "discarded_tokens": run.discarded_tokens,
        "lag_tokens": run.lag_tokens,
        "expected_tokens_saved": account.expected_saved,
        "failure": run.failure or run.order_failure or None,
        "decisions": asked,
    }
