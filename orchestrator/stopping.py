"""The wish to end a running sweep: by Ctrl-C, by the system, or by `sweep stop`."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Stop:
    """A wish to end, by a signal or by `sweep stop`: asked once, checkpoint and go; twice, go."""

    def __init__(self, stop_file: Path) -> None:
        self._file = stop_file
        self.signal: int | None = None
        self.at = 0.0

    @property
    def asked(self) -> bool:
        """Whether the sweep should end; `sweep stop` asks by putting the file there."""
        if self.signal is None and self._file.exists():
            self.signal, self.at = signal.SIGINT, time.monotonic()
        return self.signal is not None

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal; the second one ends the process at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal, self.at = number, time.monotonic()
        self._file.touch()

    def forget_earlier(self) -> None:
        """Take away what a killed driver left; called once, as soon as the journal is held.

        Whatever is asked from then on is meant for this driver, also during the checks.
        """
        self._file.unlink(missing_ok=True)

    def ask_trials(self) -> None:
        """Ask running trials to checkpoint and end; the sweep itself ends for its own reason."""
        with contextlib.suppress(OSError):
            self._file.touch()

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take over SIGINT, SIGTERM and SIGHUP while the context lasts; the wish ends with it."""
        # Python lets only the main thread take signals; elsewhere the file alone asks.
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ()
        before = {number: signal.signal(number, self.ask) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._file.unlink(missing_ok=True)
