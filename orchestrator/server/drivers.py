"""Starting and ending the drivers of sweeps; a driver outlives the service that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from orchestrator.budget import Budget, changed_keys, parse_budget
from orchestrator.errors import Fault, StateRefused
from orchestrator.journal import JOURNAL, read_state
from orchestrator.operations import is_running
from orchestrator.operations import stop as ask_to_stop
from orchestrator.submission import (
    DRIVER_LOG,
    Submission,
    has_driver,
    read_record,
    take_driver_lock,
    write_record,
    write_submission,
)


class Launch(Protocol):
    """Starts a driver that inherits an open lock."""

    def __call__(self, sweep_dir: Path, verb: str, lock: int) -> None:
        """Start it and return."""


def launch(sweep_dir: Path, verb: str, lock: int) -> None:
    """Start a driver in a session of its own: no signal and no end of the service reaches it."""
    with (sweep_dir / DRIVER_LOG).open("ab") as log:
        os.chmod(log.fileno(), 0o600)
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.server.driving", str(sweep_dir), verb, str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            cwd=sweep_dir,
        )
    threading.Thread(target=process.wait, name="driver-reaper", daemon=True).start()


def submit(
    outputs: Path, budget: Budget, submission: Submission, *, start: Launch = launch
) -> bool:
    """Keep a budget and start its driver; False when one is at it already.

    Raises:
        StateRefused: when a sweep of this name was begun with another budget.
    """
    sweep_dir = outputs / budget.name
    _refuse_other(sweep_dir, budget)
    outputs.mkdir(parents=True, exist_ok=True)
    return _start(sweep_dir, "run", start, submission)


def go_on(sweep_dir: Path, *, start: Launch = launch) -> bool:
    """Start a driver for what is left of a sweep; False when one is at it already."""
    return _start(sweep_dir, "resume", start, None)


def stop(sweep_dir: Path) -> bool:
    """Ask a sweep to write its checkpoints and end; False when nobody drives it."""
    if ask_to_stop(sweep_dir):
        return True
    record = read_record(sweep_dir)
    if record is None or record["pid"] is None or not has_driver(sweep_dir):
        return False
    # Before its journal is open there is nothing to checkpoint. The lock says that it is alive.
    os.kill(record["pid"], signal.SIGTERM)
    return True


def _start(sweep_dir: Path, verb: str, start: Launch, submission: Submission | None) -> bool:
    if (sweep_dir / JOURNAL).exists() and is_running(sweep_dir):
        return False
    lock = take_driver_lock(sweep_dir)
    if lock is None:
        return False
    try:
        if submission is not None:
            write_submission(sweep_dir, submission)
        write_record(sweep_dir, verb=verb)
        start(sweep_dir, verb, lock)
    finally:
        os.close(lock)
    return True


def _refuse_other(sweep_dir: Path, budget: Budget) -> None:
    """The same name means the same sweep; the driver looks deeper, into files and data."""
    kept = sweep_dir / "budget.yaml"
    if not kept.is_file() or not (sweep_dir / JOURNAL).exists():
        return
    if read_state(sweep_dir).opened is None:
        return
    before: dict[str, Any] = parse_budget(kept.read_text(), file=str(kept)).science()
    changes = changed_keys(before, budget.science())
    if changes:
        raise StateRefused(
            Fault(
                code="SWP-5004",
                rule="a sweep goes on with the budget it began with; changed: "
                + "; ".join(changes),
                place=budget.name,
                remedy="give the new budget another `name` (finished trials are taken over)",
            )
        )
