"""A Ray to run on: a private one of this machine, or a cluster that somebody else runs."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentUnusable, Fault
from orchestrator.hardware import beyond

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment in which Ray and Tune say and keep no more than is asked of them."""
PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of a private Ray, read when Ray is imported. Loopback only: without the multi-node
switch it takes 127.0.0.1 as its address, and its servers then bind to it alone (measured with 2.60:
no other socket)."""

KNOCK_TIMEOUT_S = 5.0
"""How long a cluster's address may take to accept a connection."""


def refuse_early_import() -> None:
    """See that this process has not imported Ray before a private one's settings were made.

    Raises:
        EnvironmentUnusable: when it has: Ray reads at import how it guards itself and where it
            listens, and would start without its token and off loopback.
    """
    if "ray" not in sys.modules or all(os.environ.get(key) == PRIVATE[key] for key in PRIVATE):
        return
    settings = " ".join(f"{key}={value}" for key, value in PRIVATE.items())
    raise EnvironmentUnusable(
        Fault(
            code="SWP-3001",
            rule="a private Ray must be set up before Ray is imported; this process has it already",
            place="run.executor",
            remedy=f"import it later, or set {settings} before Python starts",
        )
    )


def check_cluster(address: str, *, cpus: float, gpus: float, together: float) -> None:
    """See that a cluster answers and could run a sweep, before anything of it begins.

    Args:
        address: the cluster's.
        cpus: cores of one trial.
        gpus: GPUs of the trial that asks for most.
        together: GPUs of all trials that run at a time.

    Raises:
        EnvironmentUnusable: when it does not answer, has no node for a trial, or fewer GPUs than
            the trials need together.
    """
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        os.environ.update(QUIET)
        connect(address)
        import ray

        try:
            nodes = living_nodes()
        finally:
            ray.shutdown()
    refuse_greed(nodes, cpus=cpus, gpus=gpus)
    there = sum(node.get("GPU", 0.0) for node in nodes)
    if together > there:
        who = "a sweep with so many trials at a time"
        raise beyond("GPU", together, there, who=who, where="the cluster")


def connect(address: str | None, private: dict[str, Any] | None = None) -> None:
    """Join a cluster, or start a private Ray.

    Raises:
        EnvironmentUnusable: when it does not answer.
    """
    import ray

    options = {"logging_level": "ERROR", "log_to_driver": False, **(private or {})}
    if address is not None:
        options["address"] = address
    try:
        if address is not None:
            _knock(address)
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "a private Ray on this machine"
        raise EnvironmentUnusable(
            Fault(
                code="SWP-3001",
                rule=f"Ray must be reachable: {where} did not answer ({error})".splitlines()[0],
                place="run.address",
                remedy="check the address, or run without Ray: `run: {executor: inline}`",
            )
        ) from error


def living_nodes() -> list[dict[str, float]]:
    """What each living node has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def refuse_greed(nodes: list[dict[str, float]], *, cpus: float, gpus: float) -> None:
    """See that one node has what one trial asks for.

    Raises:
        EnvironmentUnusable: when none does.
    """
    wanted = {"CPU": cpus, "GPU": gpus}
    if any(all(node.get(kind, 0.0) >= count for kind, count in wanted.items()) for node in nodes):
        return
    largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in wanted}
    for kind, count in wanted.items():
        if count > largest[kind]:
            where = "the largest node of the cluster"
            raise beyond(kind, count, largest[kind], who="a trial", where=where)
    cores = max(
        (node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus), default=0.0
    )
    where = "the largest node with its GPUs"
    raise beyond("CPU", cpus, cores, who="a trial", where=where)


def _knock(address: str) -> None:
    """See that something listens at a cluster's address: Ray itself would try for minutes.

    Raises:
        OSError: when nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()
