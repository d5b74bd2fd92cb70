"""The MLflow projection in a thread: kept up to date beside a sweep that never waits for it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SweepError
from orchestrator.secrecy import scrubbed
from orchestrator.state import SweepState

if TYPE_CHECKING:
    from orchestrator.tracking.projection import Projection


class BackgroundProjection:
    """Keeps the store up to date from a thread; an unreachable store costs the sweep nothing."""

    def __init__(self, open_projection: Any, *, interval_s: float = 2.0) -> None:
        """Take a function that opens the `Projection`; it is called in the thread."""
        self._open = open_projection
        self._interval_s = interval_s
        self._state: SweepState | None = None
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="mlflow-projection", daemon=True)
        self._conclusion: tuple[str, Path | None] | None = None
        self.projection: Projection | None = None
        self.trouble: str = ""
        """The last error, empty while all is well."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def show(self, state: SweepState) -> None:
        """Give it the newest state."""
        self._state = state

    def conclude(self, state: SweepState, *, note: str, report: Path | None) -> None:
        """Give it the answer; the thread closes the sweep's run with it before it ends."""
        self._state = state
        self._conclusion = (note, report)

    def stop(self, timeout_s: float) -> None:
        """Project what there is and end the thread, waiting at most `timeout_s` seconds."""
        self._stop = True
        self._wake.set()
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.trouble = self.trouble or "the store did not answer in time"

    def _run(self) -> None:
        while True:
            stopping = self._stop
            try:
                if self.projection is None:
                    self.projection = self._open()
                self._project(self.projection)
                self.trouble = ""
            except Exception as error:  # noqa: BLE001 - tracking must never end a sweep
                self.trouble = _in_a_line(error)
            if stopping:
                return
            self._wake.wait(self._interval_s)

    def _project(self, projection: Projection) -> None:
        state, conclusion = self._state, self._conclusion
        if state is None:
            return
        if self._stop and conclusion is not None:
            note, report = conclusion
            projection.finish(state, note=note, report=report)
        else:
            projection.sync(state)


def _in_a_line(error: Exception) -> str:
    """What went wrong, without secrets."""
    if isinstance(error, SweepError):
        return error.faults[0].rule
    return scrubbed(f"{type(error).__name__}: {error}".splitlines()[0])
