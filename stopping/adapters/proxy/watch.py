"""A test, on requests of the holdout, of whether traffic still looks like the log that a policy was calibrated on."""

import json
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

from stopping.adapters.drift import Drift, Traffic
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.artifacts import Artifact
from stopping.policies.decisions import PROBED_SIGNALS
from stopping.traces.endings import is_natural

log = logging.getLogger("stopping.drift")


class Watch:
    """The drift test of one policy's traffic; after an alarm the policy is disabled.

    Args:
        artifact: the policy's artifact.
        alpha: an upper bound on the probability of ever raising a false alarm.
        path: a file for the state, so that the test continues after a restart; None for none.
        rng: splits ties.

    Raises:
        ValueError: if the policy has no reference sample, or the file belongs to another one.
    """

    def __init__(
        self, artifact: Artifact, alpha: float, path: Path | None = None, rng: random.Random | None = None
    ) -> None:
        self._test, self._path, self._rng = Drift(Traffic.of(artifact.document), alpha), path, rng or random.Random()
        self._identity = artifact.digest[:12]
        known = path is not None and path.exists()
        self._state = self._test.from_json(path.read_text()) if path and known else self._test.init()

    @property
    def alarm(self) -> bool:
        """Whether an alarm has been raised."""
        return self._test.alarm(self._state)

    @property
    def p_value(self) -> float:
        """The p-value for the hypothesis of no change; valid at any time, however often it is read."""
        return self._test.p_value(self._state)

    def see(self, result: ThoughtResult, answer_of: Callable[[str], str | None]) -> None:
        """Update the test with a request that was not stopped, and whose trace the policy was asked about afterwards.

        The quantities are those that `stopping.tuning.traffic` measures on a log.
        """
        if not result.reason or result.failure or self.alarm:
            return
        own = answer_of(result.answer) if is_natural(result.reason) else None
        would = own if result.would_stop_at is None else answer_of(result.would_answer)
        values = {"length_tokens": float(len(result.ids)), "agreement": float(would == own)}
        if result.last_seen is not None:
            values |= {name: float(value) for name, value in result.last_seen._asdict().items()}
        # A thought that is not stopped is not probed either, so the signals of probes are unknown.
        known = {name: value for name, value in values.items() if name in self._state and name not in PROBED_SIGNALS}
        self._state = self._test.step(self._state, known, self._rng.random())
        if self.alarm:
            moves = [move._asdict() for move in self._test.moves(self._state)]
            log.warning("policy %s is disabled because of drift: %s", self._identity, json.dumps(moves))

    def save(self) -> None:
        """Write the state to its file, completely or not at all."""
        if self._path is not None:
            beside = self._path.with_name(self._path.name + ".new")
            beside.write_text(self._test.to_json(self._state), encoding="utf-8")
            os.replace(beside, self._path)
