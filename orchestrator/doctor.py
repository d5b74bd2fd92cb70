"""`sweep doctor`: what a sweep would stumble on here, and the mend."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

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
        _devices,
        _memory,
        _shared_memory,
        lambda: _disk(outputs),
        lambda: _writable(outputs),
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
    try:
        found = version(name)
    except PackageNotFoundError:
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
