"""Files of a sweep directory that several rooms read: the trials' measurements, the first batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FIRST_BATCH = "first_batch.txt"
"""File of a sweep directory: its first inputs and targets as text."""


_TAIL_BYTES = 4096
"""More than a line of measurements is long."""


def metric_lines(
    sweep_dir: Path, trial_id: str, *, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Whole lines of a trial's `metrics.jsonl`; none when it has not begun.

    Args:
        sweep_dir: the sweep.
        trial_id: the trial.
        most: lines that are read of a longer file, evenly spread, the last among them; None: all.
    """
    path = _metrics_file(sweep_dir, trial_id)
    if not path.exists():
        return
    with path.open("rb") as file:
        lines: Iterable[bytes] = file if most is None else _spread(file.readlines(), most)
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def last_metrics(sweep_dir: Path, trial_id: str) -> dict[str, Any] | None:
    """The last whole line of a trial's `metrics.jsonl`, the others unread; None without one."""
    try:
        file = _metrics_file(sweep_dir, trial_id).open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = file.seek(0, os.SEEK_END)
        reach = _TAIL_BYTES
        while True:
            begin = max(0, size - reach)
            file.seek(begin)
            whole, _, _ = file.read(size - begin).rpartition(b"\n")
            before, _, last = whole.rpartition(b"\n")
            if begin == 0 or before:
                return json.loads(last) if last else None
            reach *= 2


def _metrics_file(sweep_dir: Path, trial_id: str) -> Path:
    return sweep_dir / "trials" / trial_id / "metrics.jsonl"


def _spread(lines: list[bytes], most: int) -> list[bytes]:
    """At most so many of the whole lines, evenly spread, the last kept."""
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    count = len(lines)
    if count <= most:
        return lines
    return [lines[-(-i * count // most) - 1] for i in range(1, most + 1)]
