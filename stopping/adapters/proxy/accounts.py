"""A line for each request: what was generated, and the policy's observations and decisions; `stopping.load_log` reads it."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from typing import Any

from stopping.adapters.server.thought_result import ThoughtResult
from stopping.traces.endings import is_natural, is_whole

log = logging.getLogger("stopping.accounts")


@dataclass
class Account:
    """What is known about a request before its answer.

    Attributes:
        policy: the policy's identity; None without a policy.
        holdout: the share of requests that are never stopped.
        treatment: `policed`, `holdout`, `shadow` or `unpoliced`.
        problem: the prompt's tokens; the log holds a hash of them, and no text.
        expected_saved: the expected number of tokens saved, if the thought was stopped.
        by_order: whether the thought could only be closed by an order.
    """

    policy: str | None
    holdout: float
    treatment: str
    problem: Sequence[int] = field(default_factory=list)
    expected_saved: float | None = None
    by_order: bool = False

    @property
    def propensity(self) -> float:
        """The probability of the treatment that the request received."""
        if self.treatment == "holdout":
            return self.holdout
        return 1 - self.holdout if self.treatment == "policed" else 1.0


class Accounts:
    """Writes lines of JSON to a file, and to the log `stopping.accounts`.

    A line that cannot be written (a full disk) is lost, but the request is still answered, and later lines are tried again.

    Args:
        path: the file to append to; None for the log alone.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: str | Path | None) -> None:
        # unbuffered, so that no part of a failed line is written later
        self._file = None if path is None else Path(path).open("ab", buffering=0)
        self._num_lost, self._is_torn = 0, False

    def write(self, account: Account, result: ThoughtResult, answer_of: Callable[[str], str | None]) -> bool:
        """Write a request's line; return False if that failed."""
        line = json.dumps(row(account, result, answer_of), ensure_ascii=False, separators=(",", ":"))
        log.info("%s", line)
        if self._file is None:
            return True
        try:
            # half a character is escaped, as in JSON
            self._append(self._file, line.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            if not self._num_lost:
                log.error("accounts: a line could not be written and is lost: %s; later lines are tried again", error)
            self._num_lost += 1
            return False
        if self._num_lost:
            log.warning("accounts: lines can be written again; %d were lost", self._num_lost)
            self._num_lost = 0
        return True

    def _append(self, file: RawIOBase, line: bytes) -> None:
        """Write a complete line; a part of a failed line is removed, or ended before the next line."""
        rest, written = b"\n" * self._is_torn + line, 0
        try:
            while rest:
                if not (more := file.write(rest)):
                    raise OSError("no more bytes were taken")
                written, rest = written + more, rest[more:]
        except OSError:
            if written:
                self._take_back(file, written)
            raise
        self._is_torn = False

    def _take_back(self, file: RawIOBase, num_bytes: int) -> None:
        try:
            file.truncate(os.fstat(file.fileno()).st_size - num_bytes)
        except OSError:
            self._is_torn = True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                log.error("accounts: %s", error)


def row(account: Account, result: ThoughtResult, answer_of: Callable[[str], str | None]) -> dict[str, Any]:
    """Return a request as a row of a log.

    Lengths are those of the trace; other tokens generated are in `probe_tokens` and `discarded_tokens`.
    """
    ids = ",".join(map(str, account.problem)).encode()
    asked = [
        {"saw": each.observation._asdict(), "asked": each.kind.name, "put_off": each.put_off}
        for each in result.decisions
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "problem": hashlib.sha256(ids).hexdigest()[:16],
        "length_tokens": len(result.ids),
        "thought_tokens": result.thought_tokens,
        "answer": answer_of(result.answer) if is_natural(result.reason) else None,
        "censored": not is_whole(result.reason),
        "policy_id": account.policy,
        "would_stop_at": -1 if result.would_stop_at is None else result.would_stop_at,
        "propensity": account.propensity,
        "treatment": account.treatment,
        "stopped": result.stopped,
        "by_order": account.by_order,
        "probe_tokens": result.probe_tokens,
        "discarded_tokens": result.discarded_tokens,
        "lag_tokens": result.lag_tokens,
        "expected_tokens_saved": account.expected_saved,
        "failure": result.failure or result.order_failure or None,
        "decisions": asked,
    }
