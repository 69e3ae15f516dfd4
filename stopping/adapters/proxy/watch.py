"""Whether requests are still like the log a policy was calibrated on, as those tell that were left alone."""

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
    """The test of one policy's traffic; after an alarm the policy is not asked any more.

    Args:
        artifact: of the policy.
        alpha: the chance of ever raising a false alarm.
        path: of a file with the state, for going on after a restart; None for none.
        rng: drawn for ties.

    Raises:
        ValueError: if the policy carries no reference sample, or the file is of another one.
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
        """Whether there is, or has been, an alarm."""
        return self._test.alarm(self._state)

    @property
    def p_value(self) -> float:
        """Of the traffic being as it was; holds however often it is looked at."""
        return self._test.p_value(self._state)

    def see(self, result: ThoughtResult, answer_of: Callable[[str], str | None]) -> None:
        """Look at a request that was left alone, and whose trace the policy was asked about afterwards.

        What is measured is what `stopping.tuning.traffic` measures of a log.
        """
        if not result.reason or result.failure or self.alarm:
            return
        own = answer_of(result.answer) if is_natural(result.reason) else None
        would = own if result.would_stop_at is None else answer_of(result.would_answer)
        values = {"length_tokens": float(len(result.ids)), "agreement": float(would == own)}
        if result.last_seen is not None:
            values |= {name: float(value) for name, value in result.last_seen._asdict().items()}
        # Nobody probes where a thought was left alone, so what a probe shows is not known.
        known = {name: value for name, value in values.items() if name in self._state and name not in PROBED_SIGNALS}
        self._state = self._test.step(self._state, known, self._rng.random())
        if self.alarm:
            moves = [move._asdict() for move in self._test.moves(self._state)]
            log.warning("policy %s is not asked any more: %s", self._identity, json.dumps(moves))

    def save(self) -> None:
        """Write the state to its file, whole or not at all."""
        if self._path is not None:
            beside = self._path.with_name(self._path.name + ".new")
            beside.write_text(self._test.to_json(self._state), encoding="utf-8")
            os.replace(beside, self._path)
