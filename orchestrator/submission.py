"""A sweep that was handed to a service: its budget, and the lock and the record of its driver.

The driver is a process of its own. It holds the lock from before it exists (the service takes it
and hands the open file on) until it is gone, however it goes; so "has it a driver?" is a question
to the kernel, and a service that was killed finds its drivers again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.journal import write_atomic

SUBMISSION = "submission.json"
"""The budget as it was handed in."""
DRIVER_RECORD = "driver.json"
"""What the latest driver was asked to do, and how it ended."""
DRIVER_LOG = "driver.log"
"""What the latest driver printed."""
SCHEMA = "sweep.driver/1"

_LOCK = ".driver.lock"
_PATIENCE_S = 0.5
"""How long a lock is tried for: somebody who only looks holds it for an instant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A budget that was handed in."""

    text: str
    """The text of the budget file."""
    base: str | None
    """Folder that its relative paths are taken from; None where it has none."""


def take_driver_lock(sweep_dir: Path) -> int | None:
    """The open lock of a sweep's driver, for a child to inherit; None while another holds it."""
    sweep_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(sweep_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.01)


def has_driver(sweep_dir: Path) -> bool:
    """Whether a driver that a service started is alive."""
    try:
        descriptor = os.open(sweep_dir / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_submitted(sweep_dir: Path) -> bool:
    """Whether a folder holds a budget that was handed in."""
    return (sweep_dir / SUBMISSION).is_file()


def write_submission(sweep_dir: Path, submission: Submission) -> None:
    """Keep what was handed in, durably."""
    record = {
        "schema": "sweep.submission/1",
        "budget": submission.text,
        "base": submission.base,
    }
    write_atomic(sweep_dir / SUBMISSION, json.dumps(record, indent=1) + "\n")


def read_submission(sweep_dir: Path) -> Submission:
    """What was handed in."""
    record = json.loads((sweep_dir / SUBMISSION).read_text())
    return Submission(text=record["budget"], base=record["base"])


def write_record(
    sweep_dir: Path,
    *,
    verb: str,
    pid: int | None = None,
    exit_code: int | None = None,
    faults: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Keep what a driver does and how it ended; the exit code is None until then."""
    record = {
        "schema": SCHEMA,
        "verb": verb,
        "pid": pid,
        "exit_code": exit_code,
        "faults": [dict(fault) for fault in faults],
    }
    write_atomic(sweep_dir / DRIVER_RECORD, json.dumps(record, indent=1) + "\n")


def read_record(sweep_dir: Path) -> dict[str, Any] | None:
    """What the latest driver did; None when no service ever started one."""
    path = sweep_dir / DRIVER_RECORD
    return json.loads(path.read_text()) if path.is_file() else None
