"""The bill of a trial over all its attempts: steps really executed, seconds, what went wrong.

A killed process cannot report what it did. So the count is on disk before the first step and
after every logged point: a kill hides at most the steps since the last of these.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from trainer.durable import write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """What a trial has cost so far."""

    attempts: int = 0
    """How many times it was started."""
    steps_executed: int = 0
    """Optimiser steps really executed, replayed ones included."""
    prefix_steps: int = 0
    """Steps taken from the store of prefixes instead of being executed."""
    wall_s: float = 0.0
    """Seconds spent."""
    notes: tuple[str, ...] = ()
    """Checkpoints passed over, environments changed."""


def read(path: Path) -> Attempts:
    """Read the bill; a trial that was never started has an empty one.

    Raises:
        ValueError: when the file is not a bill.
    """
    if not path.exists():
        return Attempts()
    try:
        record = json.loads(path.read_bytes())
        return Attempts(**{**record, "notes": tuple(record["notes"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a count of attempts ({error})") from error


def write(path: Path, attempts: Attempts, *, sync: bool) -> None:
    """Replace the bill atomically."""
    text = json.dumps(dataclasses.asdict(attempts), indent=2, sort_keys=True)
    write_atomically(path, text.encode(), sync=sync)
