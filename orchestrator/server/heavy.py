"""Work that a service leaves to a process of its own: planning, fitting, writing a report.

It imports whole libraries, may import a user's model, and computes; none of it stays in the
service. `python -m orchestrator.server.heavy` reads one request on standard input and answers on
standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentUnusable, Fault, SweepError
from orchestrator.server.problems import defect, error_document, error_from

TIMEOUT_S = 600.0
"""Longest time that a piece of work may take."""
AT_A_TIME = 2
"""Pieces of work at a time; the next one waits."""
_WAIT_S = 60.0

_free = threading.BoundedSemaphore(AT_A_TIME)


def plan(*, text: str, base: str, outputs: str) -> dict[str, Any]:
    """A budget's quotation, schema `sweep.plan/1`."""
    from orchestrator.budget import parse_budget
    from orchestrator.quoting import quote

    return quote(parse_budget(text), Path(base), Path(outputs)).to_dict()


def fit(
    *, sweep_dir: str, target_flops: float | None, law: str | None, holdout: bool
) -> dict[str, Any]:
    """A sweep's fit so far, schema `sweep.fit/1`."""
    from orchestrator.fitting import fit_sweep

    return fit_sweep(
        Path(sweep_dir), target_flops=target_flops, huber_delta=None, law=law, holdout=holdout
    )


def report(*, sweep_dir: str) -> dict[str, Any]:
    """Write a sweep's report again, schema `sweep.report/1`."""
    from orchestrator.fitting import report_sweep

    return {"schema": "sweep.report/1", "report": str(report_sweep(Path(sweep_dir)))}


WORK: dict[str, Callable[..., dict[str, Any]]] = {"plan": plan, "fit": fit, "report": report}
"""What can be asked for."""


def do(work: str, **arguments: Any) -> dict[str, Any]:
    """Have a piece of work done by a process of its own.

    Raises:
        SweepError: what went wrong there.
        EnvironmentUnusable: when the service is busy, or the work takes too long or dies.
    """
    if not _free.acquire(timeout=_WAIT_S):
        raise _busy(f"{AT_A_TIME} others are being worked on", work)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.server.heavy"],
            input=json.dumps({"work": work, "arguments": arguments}).encode(),
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _busy(f"it took longer than {TIMEOUT_S:.0f} s", work) from None
    finally:
        _free.release()
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        raise _busy(f"its process ended with {done.returncode}", work) from None
    if "error" in reply:
        raise error_from(reply["error"])
    document: dict[str, Any] = reply["document"]
    return document


def _busy(problem: str, work: str) -> EnvironmentUnusable:
    return EnvironmentUnusable(
        Fault(
            code="SWP-6012",
            rule=f"the service must find time and memory for the work; {problem}",
            place=work,
            remedy="ask again later, or use the command on the service's machine",
        )
    )


def main() -> int:
    """Do the piece of work that standard input asks for."""
    request = json.loads(sys.stdin.buffer.read())
    # What libraries print must not stand in the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reply: dict[str, Any]
    try:
        reply = {"document": WORK[request["work"]](**request["arguments"])}
    except SweepError as error:
        reply = {"error": error_document(error)}
    except Exception as error:  # noqa: BLE001 - the service must hear of it
        sys.excepthook(type(error), error, error.__traceback__)
        reply = {"error": error_document(defect(error))}
    with answer:
        answer.write(json.dumps(reply, allow_nan=False, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
