"""A stopwatch that separates compiling from running, and a progress bar."""

import time
from typing import Any, Self

import jax
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sims.moments import Moments
from sims.precision import Goal

_COMPILING = "/jax/core/compile/"  # tracing, lowering and compiling each report their duration under this name


class Stopwatch:
    """A context manager that measures time.

    Attributes:
        compile_seconds: time that this process spent compiling in the meantime.
        run_seconds: the rest, known after the exit.
    """

    def __enter__(self) -> Self:
        self.compile_seconds = 0.0
        self._begun = time.monotonic()
        jax.monitoring.register_event_duration_secs_listener(self._record)
        return self

    def __exit__(self, *error: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._record)
        self.run_seconds = max(time.monotonic() - self._begun - self.compile_seconds, 0.0)

    def _record(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILING):
            self.compile_seconds += duration_secs


class Bar:
    """A progress bar with the error so far and the time left; nothing if it is not to be shown."""

    def __init__(self, is_shown: bool) -> None:
        self._progress = Progress(
            TextColumn("simulating"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), disable=not is_shown, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    def show(self, moments: Moments, goal: Goal) -> None:
        """Update the bar."""
        if self._progress.disable:
            return
        needed = goal.needed(moments)
        text = f"{moments.count:,} worlds, {goal.component} {moments.estimate(goal.component)}"
        total = max(needed, moments.count) if needed < float("inf") else None
        self._progress.update(self._task, description=text, total=total, completed=moments.count)
