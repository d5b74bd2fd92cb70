"""`sweep ui`: MLflow's own server on the sweeps' store, and links that land on the runs.

A bare link to MLflow 3 opens its page for language-model traces, where no run is to be seen, and
a sweep's children are folded under their parent. The links here open the right experiment in
machine-learning mode, with the children of a sweep as a chart or a flat table.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from orchestrator.budget import Budget, parse_budget
from orchestrator.errors import BadInput, EnvironmentUnusable, Fault
from orchestrator.journal import read_state
from orchestrator.secrecy import scrubbed
from orchestrator.session import open_projection

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
"""MLflow takes 8 to 60 s to answer on a small machine."""

_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}


def serve(
    outputs: Path,
    sweep_dir: Path | None,
    *,
    port: int,
    announce: Callable[[dict[str, str]], None],
) -> None:
    """Run MLflow's server until it is interrupted.

    Args:
        outputs: folder of all sweeps, with `mlflow.db`.
        sweep_dir: sweep to link to; None: the experiment alone.
        port: port on the loopback interface; 0 takes a free one.
        announce: called with named links once the server answers.

    Raises:
        BadInput: when nothing was tracked yet.
        EnvironmentUnusable: when the server does not come up.
    """
    store = outputs / "mlflow.db"
    budget = _budget(sweep_dir)
    if budget is not None and budget.tracking.uri is not None:
        announce({"MLflow": scrubbed(budget.tracking.uri)})
        return
    if not store.exists():
        raise BadInput(
            Fault(
                code="SWP-1308",
                rule="`sweep ui` shows runs that were tracked, and there are none yet",
                place=str(store),
                remedy="run a sweep first, or name its folder with --outputs",
            )
        )
    chosen = port or _free_port()
    base = f"http://{HOST}:{chosen}"
    with _server(store, outputs / "mlartifacts", chosen):
        _wait_until_healthy(base)
        announce(links(base, outputs, sweep_dir, budget))
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def links(
    base: str, outputs: Path, sweep_dir: Path | None, budget: Budget | None
) -> dict[str, str]:
    """Named links into a running server."""
    if sweep_dir is None or budget is None:
        return {"MLflow": f"{base}/#/experiments?workflowType=machine_learning"}
    projection = open_projection(budget, outputs, sweep_dir)
    projection.sync(read_state(sweep_dir))
    return run_links(base, projection.experiment_id, str(projection.parent_id))


def run_links(base: str, experiment: str, parent: str) -> dict[str, str]:
    """Links to a sweep's loss curves, its table of runs, and its report."""
    mode = "workflowType=machine_learning"
    runs = f"{base}/#/experiments/{experiment}/runs"
    children = quote(f"tags.`mlflow.parentRunId` = '{parent}'")
    flat = f"orderByKey={quote('metrics.`final_loss`')}&orderByAsc=true&searchFilter={children}"
    return {
        "loss curves": f"{runs}?{mode}&compareRunsMode=CHART&{flat}",
        "table of runs": f"{runs}?{mode}&{flat}",
        "report": f"{runs}/{parent}/artifacts/report/report.html?{mode}",
    }


def _budget(sweep_dir: Path | None) -> Budget | None:
    if sweep_dir is None:
        return None
    file = sweep_dir / "budget.yaml"
    return parse_budget(file.read_text(), file=str(file))


@contextlib.contextmanager
def _server(store: Path, artifacts: Path, port: int) -> Iterator[None]:
    """MLflow's server as a process group of its own, ended as a whole."""
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{store}"),
        *("--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]
    with (store.parent / "mlflow-server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_healthy(base: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise EnvironmentUnusable(
        Fault(
            code="SWP-3004",
            rule=f"MLflow's server must answer within {START_TIMEOUT_S:.0f} s",
            place=base,
            remedy="see outputs/mlflow-server.log; another --port may help",
        )
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
