"""`sweep doctor`: what a sweep would stumble on here, and the mend."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from orchestrator.executors.base import TEMPORARY
from orchestrator.hardware import detect
from orchestrator.units import format_bytes

# The first releases without the holes known when this was written: MLflow's unauthenticated
# server routes, Ray's job API and Parquet readers, torch's weights_only loader, pyarrow's
# extension types.
_LEAST = {
    "mlflow": (3, 17, 2),
    "pyarrow": (14, 0, 1),
    "ray": (2, 60),
    "torch": (2, 10),
}
_POISONED = {"lightning": ("2.6.2", "2.6.3"), "litellm": ("1.82.7", "1.82.8")}
"""Releases that carried malware; nothing here needs these packages, but they run where they lie."""
_PORTS = (5000, 6379, 8265)
"""Usual ports of MLflow and Ray. A sweep asks the system for free ones instead."""
_LEAST_DISK = 2 * 2**30
_LEAST_SHARED_MEMORY = 128 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    """What was looked at."""
    found: str
    """What was found."""
    sound: bool = True
    """Whether a sweep can run with it."""
    remedy: str = ""
    """What to do, when it cannot."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)


def examine(outputs: Path) -> list[Finding]:
    """Look at everything; imports none of the heavy libraries."""
    looks: list[Callable[[], Finding]] = [
        _python,
        *(lambda name=name: _library(name) for name in _LEAST),
        _poisoned,
        _devices,
        _gpu,
        _memory,
        _shared_memory,
        lambda: _disk(outputs),
        lambda: _writable(outputs),
        _ports,
        _stale_sessions,
        lambda: _clock(outputs),
    ]
    return [look() for look in looks]


def _python() -> Finding:
    return Finding(
        what="Python",
        found=sys.version.split()[0],
        sound=sys.version_info >= (3, 11),
        remedy="" if sys.version_info >= (3, 11) else "use Python 3.11 or newer",
    )


def _library(name: str) -> Finding:
    least = ".".join(map(str, _LEAST[name]))
    found = _version(name)
    if not found:
        return Finding(what=name, found="not installed", sound=False, remedy="run `make setup`")
    sound = _numbers(found) >= _LEAST[name]
    return Finding(
        what=name,
        found=found,
        sound=sound,
        remedy="" if sound else f"releases before {least} have known holes: run `make setup`",
    )


def _devices() -> Finding:
    machine = detect()
    gpus = ", ".join(machine.gpus) or "no NVIDIA GPU: trials run on CPU cores"
    return Finding(what="devices", found=f"{machine.cores} CPU cores; {gpus}")


def _poisoned() -> Finding:
    there = {name: _version(name) for name in _POISONED}
    found = [f"{name} {there[name]}" for name in _POISONED if there[name] in _POISONED[name]]
    return Finding(
        what="packages with malware",
        found=", ".join(found) or "none of those known",
        sound=not found,
        remedy="remove them, and change every password that this machine knows" if found else "",
    )


def _gpu() -> Finding:
    """Whether torch can use the GPUs that the driver shows, without importing it."""
    device_files = sorted(Path("/dev").glob("nvidia[0-9]*"))
    seen, torch = detect().gpus, _version("torch")
    if device_files and not seen:
        found = f"{len(device_files)} device files, and nvidia-smi shows no GPU"
        remedy = "install the driver's tools, or start the container with --gpus all"
    elif seen and torch.endswith("+cpu"):
        found = f"{len(seen)} GPUs, and a torch {torch} that cannot use them"
        remedy = "install the CUDA build of torch: docker/install-torch.sh"
    else:
        found, remedy = (f"{len(seen)} GPUs, torch {torch}" if seen else "none, none needed"), ""
    return Finding(what="GPU", found=found, sound=not remedy, remedy=remedy)


def _ports() -> Finding:
    """A port of the system's choice on loopback is all that a sweep needs."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        remedy = "bring the loopback interface up (ip link set lo up)"
        return Finding(what="ports", found=str(error), sound=False, remedy=remedy)
    taken = [str(port) for port in _PORTS if _is_taken(port)]
    others = f"; taken by others: {', '.join(taken)}, which is no trouble" if taken else ""
    return Finding(what="ports", found=f"127.0.0.1 gives free ones{others}")


def _is_taken(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(0.2)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _stale_sessions() -> Finding:
    """Folders of private Rays whose driver was killed: they hold disk, and nobody else's work."""
    folders = sorted(Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"))
    commands = _command_lines() if folders else ""
    stale = [folder for folder in folders if str(folder) not in commands]
    found = f"{len(folders) - len(stale)} in use, {len(stale)} left by killed sweeps"
    if address := os.environ.get("RAY_ADDRESS"):
        found += f"; RAY_ADDRESS={address} is not used: a cluster is named with run.address"
    remedy = f"rm -r {' '.join(map(str, stale[:5]))}" if stale else ""
    return Finding(what="Ray sessions", found=found, sound=not stale, remedy=remedy)


def _command_lines() -> str:
    """What every process here was started with, and where it works."""
    lines = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            lines += [*process.cmdline(), *(file.path for file in process.open_files())]
    return "\n".join(lines)


def _clock(outputs: Path) -> Finding:
    """A clock behind what was written here earlier, or before this program, was set wrong."""
    files = [path for path in outputs.glob("*/journal.jsonl") if path.is_file()]
    latest = max((path.stat().st_mtime for path in (*files, Path(__file__))), default=0.0)
    behind = latest - time.time()
    sound = behind < 60
    return Finding(
        what="clock",
        found=time.strftime("%Y-%m-%d %H:%M:%S %z")
        + ("" if sound else f", {behind / 60:.0f} min behind files that are here"),
        sound=sound,
        remedy="" if sound else "set it (timedatectl set-ntp true); results do not depend on it",
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding(
        what="memory",
        found=f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}",
        sound=memory.available > 2**30,
        remedy="" if memory.available > 2**30 else "Ray and one trial need about 1 GiB",
    )


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(what="shared memory", found="no /dev/shm: Ray uses the disk")
    free = shutil.disk_usage(folder).free
    sound = free >= _LEAST_SHARED_MEMORY
    return Finding(
        what="shared memory",
        found=f"{format_bytes(free)} free",
        sound=sound,
        remedy="" if sound else "in a container, start it with --shm-size=1g",
    )


def _disk(outputs: Path) -> Finding:
    folder = next(path for path in (outputs, *outputs.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    sound = free >= _LEAST_DISK
    return Finding(
        what=f"disk at {folder}",
        found=f"{format_bytes(free)} free",
        sound=sound,
        remedy="" if sound else "free some space, or choose another folder with --outputs",
    )


def _writable(outputs: Path) -> Finding:
    folder = next(path for path in (outputs, *outputs.parents) if path.is_dir())
    sound = os.access(folder, os.W_OK)
    return Finding(
        what="outputs",
        found=f"{outputs} is {'writable' if sound else 'not writable'}",
        sound=sound,
        remedy="" if sound else "choose another folder with --outputs",
    )


def _numbers(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
