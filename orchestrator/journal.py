"""The sweep's journal: append-only, one writer, durable; the truth that all else is drawn from.

One JSON object per line, each with the CRC-32 of the rest of its line. A line is durable (fsync)
before `append` returns. A torn last line, the mark of a crash, is cut off when the journal is
opened for writing; a damaged line anywhere else is refused, never skipped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from orchestrator.errors import EnvironmentUnusable, Fault, StateRefused
from orchestrator.state import Event, EventKind, SweepState, fold

JOURNAL = "journal.jsonl"
LOCK = ".lock"
HOLDER = ".lock.holder"
PATIENCE_S = 0.5
"""How long the lock is tried for: who asks whether a sweep is running holds it for an instant."""
_HEAD = len('{"crc":"01234567",')
"""Bytes before the part of a line that its checksum covers."""
DISK_REFUSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of a disk that takes no more."""


class Journal:
    """The open journal of a sweep directory; a second writer is refused."""

    def __init__(self, sweep_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.sweep_dir = sweep_dir
        self._clock = clock
        self._lock = FileLock(sweep_dir / LOCK, mode=0o600)
        self._file: int | None = None
        self._length = 0
        self._next = 0
        self.state = SweepState()
        """The state after every event so far."""

    def __enter__(self) -> Self:
        self.sweep_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        path = self.sweep_dir / JOURNAL
        self.state = fold(self._kept(path))
        if path.exists() and self._length < path.stat().st_size:
            os.truncate(path, self._length)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)
        (self.sweep_dir / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def append(self, kind: EventKind, **data: Any) -> Event:
        """Write one event durably and apply it to `state`.

        Raises:
            EnvironmentUnusable: when the disk refuses; the event then did not happen, and nothing
                of it is left in the file.
        """
        assert self._file is not None
        event = Event(seq=self._next, time=self._clock(), kind=kind, data=data)
        line = _line(event)
        try:
            written = os.write(self._file, line)
            if written < len(line):
                written += os.write(self._file, line[written:])  # raises where the disk is full
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._length)
            where = self.sweep_dir / JOURNAL
            raise disk_refuses(f"{where}: {len(line)} more bytes: {error.strerror}") from error
        self._length += len(line)
        self._next += 1
        self.state = fold([event], self.state)
        return event

    def _kept(self, path: Path) -> Iterator[Event]:
        """The events that are in the file already; where the next one goes follows them."""
        for event, end in _parse(path):
            self._next, self._length = event.seq + 1, end
            yield event

    def _take_lock(self) -> None:
        holder = self.sweep_dir / HOLDER
        try:
            self._lock.acquire(timeout=PATIENCE_S, poll_interval=0.01)
        except Timeout:
            who = holder.read_text() if holder.exists() else "another process"
            raise StateRefused(
                Fault(
                    code="SWP-5001",
                    rule=f"a sweep has one driver at a time; this one is held by {who}",
                    place=str(self.sweep_dir),
                    remedy="wait for it or stop it; `sweep status` shows how far it is",
                )
            ) from None
        write_atomic(holder, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")


def disk_refuses(what: str) -> EnvironmentUnusable:
    """The error of a disk that takes no more, be it full, read-only or broken."""
    return EnvironmentUnusable(
        Fault(
            code="SWP-3005",
            rule=f"the disk must take what a sweep writes; it refused {what}",
            place=what.split(": ")[0],
            remedy="make room (`sweep clean` removes checkpoints of finished trials), then "
            "`sweep resume`: nothing that was acknowledged is lost",
        )
    )


def is_held(sweep_dir: Path) -> bool:
    """Whether a process has the journal of an existing folder open for writing."""
    try:
        with FileLock(sweep_dir / LOCK, mode=0o600, blocking=False):
            return False
    except Timeout:
        return True


def read_state(sweep_dir: Path) -> SweepState:
    """The state of a sweep directory, without locking it.

    Raises:
        StateRefused: as `read_events`.
    """
    return fold(read_events(sweep_dir))


def read_events(sweep_dir: Path) -> Iterator[Event]:
    """The events of a sweep directory, without locking it; a torn last line is left alone.

    They come one at a time: a large journal's records need not all be held at once.

    Raises:
        StateRefused: when there is no journal, or it is damaged.
    """
    path = sweep_dir / JOURNAL
    if not path.exists():
        raise StateRefused(
            Fault(
                code="SWP-5002",
                rule="a sweep directory holds a journal, and this one has none",
                place=str(path),
                remedy="name the folder of a sweep that was started with `sweep run`",
            )
        )
    return (event for event, _ in _parse(path))


def read_new(sweep_dir: Path, *, offset: int, seq: int) -> tuple[list[Event], int]:
    """The events behind a place in a journal that grows, and the place behind them.

    Args:
        sweep_dir: the sweep; without a journal there is nothing new.
        offset: bytes that were read before, whole lines.
        seq: number of events in them.

    Raises:
        StateRefused: when a line but a torn last one is damaged.
    """
    path = sweep_dir / JOURNAL
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        *lines, _ = file.read().split(b"\n")
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        event = _event(line, seq + len(events))
        if event is None:
            if number < len(lines):
                raise _damaged(path, seq + number)
            break
        events.append(event)
        offset += len(line) + 1
    return events, offset


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _line(event: Event) -> bytes:
    record = {"seq": event.seq, "time": event.time, "kind": event.kind.value, "data": event.data}
    body = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body[1:])


def _record(line: bytes) -> dict[str, Any]:
    """What stands in a line, which must be as `_line` wrote it, byte by byte.

    Raises:
        ValueError: when it is not.
    """
    head, body = line[:_HEAD], b"{" + line[_HEAD:]
    if head != b'{"crc":"%08x",' % zlib.crc32(body):
        raise ValueError("the line does not have its checksum")
    record: dict[str, Any] = json.loads(body)
    return record


def _parse(path: Path) -> Iterator[tuple[Event, int]]:
    """Events of a journal, each with the place in the file behind its line."""
    if not path.exists():
        return
    place = 0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        event = _event(line, number - 1) if line else None
        if event is None:
            if line and (kind := _unknown_kind(line)):
                raise _newer(path, number, kind)
            if any(lines[number:]):
                raise _damaged(path, number)
            break
        if number == len(lines):
            break  # without its newline the line was never acknowledged: it did not happen
        place += len(line) + 1
        yield event, place


def _event(line: bytes, seq: int) -> Event | None:
    try:
        record = _record(line)
        if record["seq"] != seq:
            return None
        return Event(
            seq=seq, time=record["time"], kind=EventKind(record["kind"]), data=record["data"]
        )
    except (ValueError, KeyError, TypeError):
        return None


def _unknown_kind(line: bytes) -> str:
    """The kind of a whole event that this release does not know; empty for any other line."""
    try:
        kind = str(_record(line)["kind"])
    except (ValueError, KeyError, TypeError):
        return ""
    return "" if kind in {item.value for item in EventKind} else kind


def _newer(path: Path, number: int, kind: str) -> StateRefused:
    return StateRefused(
        Fault(
            code="SWP-5007",
            rule="a sweep is read by the release that wrote it, or a newer one; this one does not "
            f"know the event `{kind[:80]}`",
            place=f"{path}:{number}",
            remedy="go on with the release that the sweep was run with (`sweep version` there)",
        )
    )


def _damaged(path: Path, number: int) -> StateRefused:
    return StateRefused(
        Fault(
            code="SWP-5003",
            rule="every line of the journal but a torn last one must be whole",
            place=f"{path}:{number}",
            remedy="restore the file from a backup, or start a new sweep: finished trials are "
            "found again in this one's folder and not paid twice",
        )
    )
