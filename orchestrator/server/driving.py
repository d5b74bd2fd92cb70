"""The driver of a submitted sweep: a process of its own, whose record and lock outlive a service.

`python -m orchestrator.server.driving SWEEP_DIR VERB LOCK` with the open lock as a file number.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from orchestrator.budget import parse_budget
from orchestrator.errors import Exit, SweepError
from orchestrator.journal import JOURNAL, read_state
from orchestrator.server.problems import FaultRecord, defect, fault_records
from orchestrator.submission import read_submission, write_record


def main(arguments: list[str]) -> int:
    """Drive a sweep to its end and write down how it ended; returns the exit code."""
    sweep_dir, verb, lock = Path(arguments[0]), arguments[1], int(arguments[2])
    # Neither Ray nor a trial may hold the lock when this process is gone.
    os.set_inheritable(lock, False)
    signal.signal(signal.SIGTERM, _terminated)
    write_record(sweep_dir, verb=verb, pid=os.getpid())
    faults: list[FaultRecord] = []
    try:
        code = _drive(sweep_dir, verb)
    except SweepError as error:
        print(error, file=sys.stderr)  # noqa: T201 - standard error is the driver's log
        code, faults = int(error.exit_code), fault_records(error)
    except KeyboardInterrupt:
        code = int(Exit.INTERRUPTED)
    except SystemExit as error:
        code = int(error.code or 0)
    except Exception as error:  # noqa: BLE001 - what ended a driver must be written down
        sys.excepthook(type(error), error, error.__traceback__)
        code, faults = int(Exit.BUG), fault_records(defect(error))
    write_record(sweep_dir, verb=verb, pid=os.getpid(), exit_code=code, faults=faults)
    return code


def _drive(sweep_dir: Path, verb: str) -> int:
    from orchestrator.operations import frozen_budget
    from orchestrator.session import RunRequest, run_budget

    if verb == "run" or not _begun(sweep_dir):
        submission = read_submission(sweep_dir)
        text, base = submission.text, Path(submission.base or "/")
        budget = parse_budget(text)
    else:
        budget, text, base = frozen_budget(sweep_dir)
    request = RunRequest(
        budget=budget, text=text, base=base, outputs=sweep_dir.parent, ask=False, quiet=False
    )
    reply = run_budget(request, Console(file=sys.stderr, force_terminal=False, width=120))
    assert reply is not None
    return int(reply.exit_code)


def _begun(sweep_dir: Path) -> bool:
    return (sweep_dir / JOURNAL).exists() and read_state(sweep_dir).opened is not None


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(int(Exit.TERMINATED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
