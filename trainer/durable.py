"""Files that are either whole and old or whole and new, whatever is killed when."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace a file's content in one step: write beside it, flush to disk, rename.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        sync: also survive a power cut (fsync of file and folder), not only a killed process.

    Raises:
        OSError: naming the path and the bytes needed when the disk is full or not writable.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write {len(data)} bytes ({error.strerror})", str(path)
        ) from error
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
