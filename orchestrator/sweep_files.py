"""Files of a sweep directory that several rooms read: the trials' measurements, the first batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIRST_BATCH = "first_batch.txt"
"""File of a sweep directory: its first inputs and targets as text."""


def metric_lines(sweep_dir: Path, trial_id: str) -> Iterator[dict[str, Any]]:
    """Whole lines of a trial's `metrics.jsonl`; none when it has not begun."""
    path = sweep_dir / "trials" / trial_id / "metrics.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
