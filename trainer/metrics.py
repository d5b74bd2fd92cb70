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
        self._losses = {line["step"]: line["loss"] for line in self.lines if "loss" in line}
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def record(self, line: Line) -> None:
        """Append a training point, or compare it with the stored one of the same step.

        Raises:
            ReplayMismatch: when the step is stored with another loss.
        """
        step, loss = line["step"], line["loss"]
        if step not in self._losses:
            self._losses[step] = loss
            self.append(line)
        elif self._losses[step] != loss:
            raise ReplayMismatch(step, self._losses[step], loss)

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
