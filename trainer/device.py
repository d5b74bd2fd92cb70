"""The device that a run computes on: which one, what it is called, how much memory it has."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch

from trainer.config import TRAINER_VERSION
from trainer.memory import forget_resident_peak, peak_resident_bytes, total_bytes


def pick(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda` or `auto`, which is a GPU where there is one.

    Raises:
        ValueError: when a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU; use cpu or auto")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def name_of(device: torch.device) -> str:
    """Name of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_bytes(device: torch.device) -> int:
    """Memory of the device: of the whole GPU, or what this process may use of the machine's.

    The total, not what is free at the moment: what follows from it must be the same next time.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return total_bytes()


def forget_peak(device: torch.device) -> None:
    """Count the peak anew: a worker that has trained a larger model before must not report it.

    Where the system does not let a process forget its peak, it stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_resident_peak()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that was in use: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def versions() -> dict[str, str]:
    """Versions of what computes a loss."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "trainer": str(TRAINER_VERSION),
    }
