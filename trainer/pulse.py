"""The pulse of a running attempt: which step it is at, and how long its next sign may take.

A process that is stopped, waits for data or holds the interpreter looks alive from outside. So a
running trial leaves a sign whenever its step has moved, and says with it how long it may be silent
at most. Whoever watches needs no clock in common with it: a pulse is new when its content is.

Silence also makes the process write where every thread of it stands to `stacks-<attempt>.txt`: a
timer of the interpreter itself does it, so that even a thread that never lets go of it is seen.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from trainer.durable import write_atomically

PULSE = "pulse.json"
STACKS = "stacks-{attempt}.txt"
EVERY_S = 1.0
"""Least time between two signs, seconds."""
MEDIANS = 20.0
"""A step may take this many times the median step before it counts as stuck."""
_REMEMBERED = 101


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """One sign of life."""

    attempt: int
    """Which attempt at the trial, from 1."""
    beat: int
    """Signs so far in this attempt."""
    step: int
    """Optimiser steps done."""
    silence_s: float
    """How long the next sign may take, seconds; 0: as long as it likes."""


class Heart:
    """Writes the pulse of one attempt.

    Args:
        folder: the trial's.
        attempt: its number, from 1.
        patience_s: least silence that counts as stuck, seconds; 0: none does, and nothing is
            written.
    """

    def __init__(self, folder: Path, *, attempt: int, patience_s: float) -> None:
        self._folder, self._attempt, self._patience_s = folder, attempt, patience_s
        self._beats = 0
        self._last = self._last_step = time.monotonic()
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._path = folder / STACKS.format(attempt=attempt)
        self._stacks = self._path.open("w") if patience_s > 0 else None
        self._write(0, self._patience_s)

    def step(self, number: int) -> None:
        """Say that a step is done; at most one sign a second is written."""
        now = time.monotonic()
        self._durations.append(now - self._last_step)
        self._last_step = now
        if now - self._last >= EVERY_S:
            self._last = now
            self._write(number, self.allowed_s())

    def expect(self, number: int, *, steps: float) -> None:
        """Announce work without signs that takes about as long as `steps` steps."""
        self._write(number, self.allowed_s(steps))

    def allowed_s(self, steps: float = 1.0) -> float:
        """How long silence may last: the patience, or many times what was measured."""
        median = statistics.median(self._durations) if self._durations else 0.0
        return max(self._patience_s, MEDIANS * median * max(1.0, steps))

    def close(self) -> None:
        """End: nothing is awaited any more."""
        if self._stacks is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._stacks.close()
        if not self._path.stat().st_size:
            self._path.unlink()

    def _write(self, step: int, silence_s: float) -> None:
        if self._stacks is None:
            return
        self._beats += 1
        pulse = Pulse(attempt=self._attempt, beat=self._beats, step=step, silence_s=silence_s)
        text = json.dumps(dataclasses.asdict(pulse))
        write_atomically(self._folder / PULSE, text.encode(), sync=False)
        faulthandler.dump_traceback_later(silence_s, file=self._stacks)


def read_pulse(folder: Path) -> Pulse | None:
    """The latest sign of a trial; None when it has left none that can be read."""
    try:
        return Pulse(**json.loads((folder / PULSE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
