"""Which running trials do not move: their pulses, watched with this process's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer.pulse import Pulse

START = 10.0
"""A start (a worker, its imports, its data) may be silent for this many times the patience."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """How long a trial has shown nothing."""

    step: int | None
    """Its last step known of this attempt; None when it never came so far."""
    seconds: float
    """For how long."""


@dataclass(slots=True)
class _Watched:
    pulse: Pulse | None
    since: float
    begun: bool = False


class Vigil:
    """Remembers when each trial's pulse last changed.

    Args:
        patience_s: least silence that counts as stuck, seconds; 0: none does.
        clock: monotonic seconds.
    """

    def __init__(self, *, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s, self._clock = patience_s, clock
        self._watched: dict[str, _Watched] = {}

    def stalled(self, pulses: Mapping[str, Pulse | None]) -> dict[str, Silence]:
        """Running trials that have been silent for longer than they may.

        Args:
            pulses: the latest pulse of every running trial. One that a former attempt left is no
                sign of this one: only a change is.
        """
        if self._patience_s <= 0:
            return {}
        now = self._clock()
        for gone in self._watched.keys() - pulses.keys():
            del self._watched[gone]
        found = {}
        for trial_id, pulse in pulses.items():
            watched = self._watched.setdefault(trial_id, _Watched(pulse, now))
            if watched.pulse != pulse:
                self._watched[trial_id] = watched = _Watched(pulse, now, begun=True)
            allowed = START * self._patience_s
            if watched.begun and pulse is not None:
                allowed = max(self._patience_s, pulse.silence_s)
            if now - watched.since > allowed:
                step = pulse.step if watched.begun and pulse is not None else None
                found[trial_id] = Silence(step=step, seconds=now - watched.since)
        return found
