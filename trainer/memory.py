"""Memory of the process: the allocator's settings, and how much was needed."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

# Numbers and limits of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory instead of handing it back to the system.

    A training step frees and allocates the same megabyte-sized arrays again and again; with the
    defaults each of them is unmapped and faulted in anew (350 to 700 page faults a step, 10 to
    25 % of the step at widths 8 to 32).

    Returns:
        Whether the allocator took the settings; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mapped = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    trimmed = mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(mapped and trimmed)


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far, bytes.

    On Linux from VmHWM: the maximum that getrusage reports includes that of the process which
    started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_resident_peak() -> bool:
    """Count the peak of resident memory anew, from what is resident now (Linux, proc(5)).

    Returns:
        Whether the system did it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, had no memory left.

    On a CPU torch raises a plain `RuntimeError` when an allocation fails, and cuBLAS one of its
    own when it cannot allocate its workspace.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    says = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in says)


def total_bytes() -> int:
    """Memory that this process may use: the machine's, or its control group's limit if lower."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / name
        if path.exists() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)
