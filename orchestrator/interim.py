"""The report of a sweep that is still running, written in a thread that nothing waits for.

After each level the service offers the state and its fit; a thread writes `report.html` alone, in
place of the one before. While it writes, newer offers replace each other: the last one counts. The
loop goes on submitting and watching meanwhile, and the final report waits for nothing but a page
that is just being written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.state import SweepState

Write = Callable[[SweepState, Mapping[str, Any]], object]


class InterimReport:
    """Writes what it was offered last; an error costs the sweep nothing."""

    def __init__(self, write: Write) -> None:
        """Take the function that writes a page; it is called in the thread."""
        self._write = write
        self._lock = threading.Lock()
        self._waiting: tuple[SweepState, Mapping[str, Any]] | None = None
        self._thread: threading.Thread | None = None
        self.trouble: str = ""
        """The last error, empty while all is well."""

    def offer(self, state: SweepState, fit: Mapping[str, Any]) -> None:
        """Have this written as soon as the page before it is."""
        with self._lock:
            self._waiting = state, fit
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="interim", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Drop what waits, and wait for the page that is being written."""
        with self._lock:
            self._waiting, thread = None, self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._thread = None
                    return
                (state, fit), self._waiting = self._waiting, None
            try:
                self._write(state, fit)
                self.trouble = ""
            except Exception as error:  # noqa: BLE001 - a page to look at must never end a sweep
                self.trouble = f"{type(error).__name__}: {error}".splitlines()[0]
