"""Faults put into a forked command before it starts: the product itself carries no hooks.

The last four are defects, one each of what guards a promise: with one of them put into every
command, the row that it guards must fail (`make faults-mutants`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_checkpoint(point: str, nth: int) -> None:
    """SIGKILL within the nth checkpoint: at its `write`, `fsync`, `rename` or `manifest`."""
    from trainer import checkpoint

    save, fsync, replace = checkpoint.save, os.fsync, Path.replace
    saves = 0
    seen = {"fsync": 0, "rename": 0}
    armed = False

    def dying_save(*arguments: Any, **options: Any) -> Any:
        nonlocal saves, armed
        saves += 1
        armed = saves == nth
        return save(*arguments, **options)

    def dying_fsync(descriptor: int) -> None:
        if armed and point == "write":
            _die()
        fsync(descriptor)
        if armed and point == "fsync":
            _die()

    def dying_replace(self: Path, target: Any) -> Any:
        answer = replace(self, target)
        if armed:
            seen["rename"] += 1
            if (point == "rename" and seen["rename"] == 1) or seen["rename"] == 2:
                _die()
        return answer

    checkpoint.save = dying_save  # type: ignore[assignment]
    os.fsync = dying_fsync  # type: ignore[assignment]
    Path.replace = dying_replace  # type: ignore[method-assign,assignment]


def small_answer() -> None:
    """Few refits and a report of one line, where neither is what a row is about."""
    from orchestrator import outcome

    def one_line(folder: Path, **_: Any) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text("a report\n")
        return folder / "report.html"

    outcome.RESAMPLES = 20
    outcome.write_report = one_line  # type: ignore[assignment]


def die_in_outcome(nth: int) -> None:
    """SIGKILL at the nth fsync or rename of the table, the fit and the report."""
    from orchestrator import service

    write = service.write_outcome
    count: list[int] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if count:
                count.append(1)
                if len(count) > nth:
                    _die()
            return function(*arguments, **options)

        return call

    def dying_write(*arguments: Any, **options: Any) -> Any:
        count.append(0)
        return write(*arguments, **options)

    service.write_outcome = dying_write  # type: ignore[assignment]
    os.fsync = counted(os.fsync)
    os.replace, os.rename = counted(os.replace), counted(os.rename)


def die_at(share: float) -> None:
    """SIGKILL of every attempt at this share of its trial."""

    def at_step(training: Any) -> None:
        if training.step >= share * training.config.steps:
            _die()

    _after_each_step(at_step)


def poison(victim: str, step: int, factor: str) -> None:
    """One step of one trial has a loss of `nan`, `inf`, or so many times its own."""

    def at_step(training: Any) -> None:
        if training.config.trial_id == victim and training.step == step:
            loss, norm = training._pending[-1]
            training._pending[-1] = (loss * float(factor), norm)

    _after_each_step(at_step)


def devour(victim: str) -> None:
    """One trial asks for more memory than any machine has."""
    import numpy as np

    def at_step(training: Any) -> None:
        if training.config.trial_id == victim and training.step == 5:
            np.empty(2**60, dtype=np.uint8)

    _after_each_step(at_step)


def leak(victim: str, secret: str) -> None:
    """One trial dies of an error that quotes a secret, as errors of libraries do."""

    def at_step(training: Any) -> None:
        if training.config.trial_id == victim and training.step == 5:
            raise RuntimeError(f"401 for http://me:{secret}@store, token {secret}")

    _after_each_step(at_step)


def little_memory(sequences: int) -> None:
    """The device runs out of memory above so many sequences at a time."""
    import torch

    from trainer.loop import Training

    accumulate = Training._accumulate

    def limited(self: Any, ids: Any) -> Any:
        if self.micro_batch > sequences:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return accumulate(self, ids)

    Training._accumulate = limited  # type: ignore[method-assign]


def linger(seconds: float) -> None:
    """Every step takes so much longer, so that there is time to do things to a trial."""
    _after_each_step(lambda _: time.sleep(seconds))


def slow_start() -> None:
    """Begin only when a file `go` is there."""
    while not Path("go").exists():
        time.sleep(0.01)


def _after_each_step(action: Callable[[Any], None]) -> None:
    from trainer.loop import Training

    advance = Training.advance

    def advanced(self: Any) -> None:
        advance(self)
        action(self)

    Training.advance = advanced  # type: ignore[method-assign]


def jumping_clock(seed: int) -> None:
    """The wall clock is off by up to two hours, differently at every look."""
    now, luck = time.time, random.Random(seed)
    time.time = lambda: now() + luck.uniform(-7200, 7200)


def power(sweep_dir: str, disk: str) -> None:
    """Keep beside the sweep what a disk would hold after the power went.

    The model is stricter than most file systems: bytes survive from fsync of the file, names (and
    renames) from fsync of their folder. Folders survive by themselves.
    """
    root, copy, fsync = Path(sweep_dir), Path(disk), os.fsync
    flushed: dict[int, bytes] = {}

    def keep(there: Path, content: bytes) -> None:
        # At once: the kill that stands for the cut must not find the copy half written.
        draft = Path(f"{copy}.{threading.get_ident()}")
        draft.write_bytes(content)
        draft.replace(there)

    def watching(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(root):
            return
        there = copy / path.relative_to(root)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            there.mkdir(parents=True, exist_ok=True)
            names = {item.name: item for item in path.iterdir() if item.is_file()}
            for gone in {item.name for item in there.iterdir() if item.is_file()} - set(names):
                (there / gone).unlink()
            for name, item in names.items():
                keep(there / name, flushed.get(item.stat().st_ino, b""))
            return
        flushed[os.fstat(descriptor).st_ino] = path.read_bytes() if path.exists() else b""
        if there.exists():
            keep(there, flushed[os.fstat(descriptor).st_ino])

    os.fsync = watching  # type: ignore[assignment]


def full_disk_for(suffix: str, needed: int) -> None:
    """The disk refuses files of one name once they would hold more than so many bytes."""
    import errno

    write = os.write

    def refusing(descriptor: int, data: bytes) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(suffix) and os.fstat(descriptor).st_size + len(data) > needed:
            room = max(0, needed - os.fstat(descriptor).st_size)
            if room:
                return write(descriptor, data[:room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    os.write = refusing  # type: ignore[assignment]


def mutant_no_fsync() -> None:
    """Nothing is ever flushed to the disk."""
    os.fsync = lambda _: None


def mutant_no_lock() -> None:
    """Every driver gets the lock."""
    from filelock import FileLock

    FileLock.acquire = lambda self, *_, **__: contextlib.nullcontext()  # type: ignore
    FileLock.release = lambda self, *_, **__: None  # type: ignore[method-assign]


def mutant_no_digest() -> None:
    """Every checkpoint has the digest that it should."""
    from trainer import checkpoint

    class Constant:
        def __init__(self, _: bytes) -> None:
            pass

        def hexdigest(self) -> str:
            return "0" * 64

    class Hashes:
        sha256 = Constant

    checkpoint.hashlib = Hashes  # type: ignore[assignment]


def mutant_no_key() -> None:
    """The tracker never finds a run that is there already."""
    from orchestrator.tracking.store import Store

    Store.find = lambda self, query: None  # type: ignore[method-assign]
