"""A trial's measurements: `metrics.jsonl`, one JSON line per logged point, written once for ever.

A resumed run trains some steps again. Their lines are already there: the new loss must equal the
stored one bit for bit, and nothing is written twice.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""A logged point, by column."""


def log_steps(steps: int, points: int) -> frozenset[int]:
    """Steps after which a line is logged: about `points`, evenly spaced, always the last."""
    points = max(1, min(points, steps))
    return frozenset(math.ceil(i * steps / points) for i in range(1, points + 1))


_REORDERED = 1e-4
"""Relative difference of losses that another order of summation may have grown to."""


class ReplayMismatch(Exception):
    """A step that was trained again gave another loss than the first time."""

    def __init__(self, step: int, stored: float, replayed: float) -> None:
        super().__init__(
            f"replaying step {step} gave the loss {replayed!r} ({replayed.hex()}), the stored one "
            f"is {stored!r} ({stored.hex()}): data, seed, versions or threads differ from the "
            "first attempt; restore them, or remove the trial's folder to train it again"
        )
        self.step, self.stored, self.replayed = step, stored, replayed


class Metrics:
    """The file of one trial, opened for reading and appending.

    Args:
        path: created when missing; a torn last line is cut off.

    Raises:
        ValueError: when a line that is not the last is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.lines: list[Line] = []
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                self.lines.append(json.loads(text))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        self._stored: dict[tuple[int, str], Line] = {
            (line["step"], name): line
            for line in self.lines
            for name in ("loss", "validation_loss")
            if name in line
        }
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def record(self, line: Line) -> None:
        """Append a training or evaluation point, or compare it with the stored one of its step.

        Where memory did not suffice for the micro-batch of the first time, sums are in another
        order and agree to rounding only.

        Raises:
            ReplayMismatch: when the step is stored with another loss.
        """
        name = "loss" if "loss" in line else "validation_loss"
        key = line["step"], name
        if key not in self._stored:
            self._stored[key] = line
            self.append(line)
            return
        stored = self._stored[key]
        same_parts = stored.get("micro_batch") == line.get("micro_batch")
        tolerance = 0.0 if same_parts else _REORDERED
        if not math.isclose(stored[name], line[name], rel_tol=tolerance, abs_tol=0.0):
            raise ReplayMismatch(line["step"], stored[name], line[name])

    def append(self, line: Line) -> None:
        """Append a line in one write, so that a kill tears at most the last one."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self.lines.append(line)

    def sync(self) -> None:
        """Make all lines survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
