"""A process that has imported everything and forks itself into `sweep` commands.

A fault suite starts hundreds of processes; importing torch, scipy and MLflow for each would take
longer than everything they do. Every command still is a process of its own: own session, own
signals, own files, killed for real.

Requests are JSON lines on stdin; each is answered with the child's id on stdout. When a child
ends, its exit status appears in the file that the request named.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

PRELOADED = (
    "orchestrator.cli",
    "orchestrator.session",
    "orchestrator.executors.inline",
    "orchestrator.operations",
    "orchestrator.views",
    "torch._dynamo.convert_frame",
    "trainer.run",
    "trainer.data.shards",
    "mlflow.tracking",
    "scipy.optimize",
    "matplotlib.figure",
    "analysis.report",
    "filelock",
)


def main() -> None:
    """Serve until stdin closes; then end every child."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    children: dict[int, Path] = {}
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.02)
        _reap(children)
        if not readable:
            continue
        line = sys.stdin.readline()
        if not line:
            break
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            return
        children[pid] = Path(request["exit_file"])
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _reap(children: dict[int, Path]) -> None:
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            path = children.pop(pid)
            beside = path.with_suffix(".tmp")
            beside.write_text(str(os.waitstatus_to_exitcode(status)))
            beside.rename(path)


def _become(request: dict[str, Any]) -> None:
    """Turn this fork into the command of a request."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for target, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    for name, options in request["patches"].items():
        from faults import patches

        getattr(patches, name)(**options)
    sys.argv = [request["program"], *request["arguments"]]
    module, _, function = request["entry"].partition(":")
    answer = getattr(importlib.import_module(module), function)()
    raise SystemExit(answer)


if __name__ == "__main__":
    main()
