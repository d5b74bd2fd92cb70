"""A folder at an fsspec URL, in which drivers and workers without a common disk leave files.

    URL/data/<key>/                    token files, sent once
    URL/prefixes/<trajectory_id>/      states that runs of one trajectory share
    URL/<sweep>/trials/<trial_id>/     what a trial writes, sent while it runs
    URL/<sweep>/stop                   asks its trials to end

A file there is whole or absent. Among the files of a folder what proves others whole comes last: a
checkpoint's manifest after its data, a result after everything.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentUnusable, Fault
from trainer.durable import write_atomically

DATA, PREFIXES, TRIALS, STOP = "data", "prefixes", "trials", "stop"
PATIENCE_S = 60.0
"""How long an operation is tried again before the storage counts as gone."""
_SIGNS = ("size", "mtime", "created", "ETag", "etag", "LastModified", "last_modified", "generation")
"""What the listings of various storages tell a new content by."""

Signs = dict[str, tuple[Any, ...]]
"""By name: what changes when the content does."""


class StorageRefused(Exception):
    """The storage did not do what it was asked; `args[0]` says what."""


class Storage:
    """Files below a URL.

    Args:
        url: of any scheme that fsspec knows; credentials come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.url,)

    def below(self, *names: str) -> Storage:
        """A folder below this one."""
        return Storage("/".join((self.url, *names)))

    def check(self) -> None:
        """See that files can be written, read and removed.

        Raises:
            EnvironmentUnusable: when they cannot.
        """
        probe, content = f".probe-{time.time_ns():x}", b"isosweep"
        try:
            with self._reaching("write, read and remove"):
                system, root = self._system()
                self._put(system, f"{root}/{probe}", content)
                found = system.cat_file(f"{root}/{probe}")
                system.rm_file(f"{root}/{probe}")
            if found != content:
                raise StorageRefused(f"{self.url} gave back another content than was written")
        except StorageRefused as error:
            raise storage_refuses(str(error)) from error

    def put(self, name: str, content: bytes) -> None:
        """Write a small file whole.

        Raises:
            StorageRefused: when it cannot be written.
        """
        with self._reaching(f"write {name}"):
            system, root = self._system()
            self._put(system, f"{root}/{name}", content)

    def send(self, file: Path, name: str) -> None:
        """Write a file's present content, if the file is still there.

        Raises:
            StorageRefused: when it cannot be written.
        """
        with self._reaching(f"write {name}"):
            system, root = self._system()
            try:
                if _is_local(system):
                    self._put(system, f"{root}/{name}", file.read_bytes())
                else:
                    system.put_file(str(file), f"{root}/{name}")
            except FileNotFoundError:
                if file.exists():
                    raise

    def bring(self, name: str, file: Path) -> None:
        """Write a stored file to a local place, in one step.

        Raises:
            StorageRefused: when it cannot be read.
        """
        with self._reaching(f"read {name}"):
            system, root = self._system()
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(f".{file.name}.{time.time_ns():x}.tmp")
            try:
                system.get_file(f"{root}/{name}", str(beside))
                beside.replace(file)
            finally:
                beside.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageRefused: when it cannot be removed.
        """
        with self._reaching(f"remove {name}"), contextlib.suppress(FileNotFoundError):
            system, root = self._system()
            system.rm_file(f"{root}/{name}")

    def has(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            StorageRefused: when that cannot be told.
        """
        with self._reaching(f"look for {name}"):
            system, root = self._system()
            return bool(system.exists(f"{root}/{name}"))

    def listing(self) -> Signs:
        """Files of the folder and of those below it.

        Raises:
            StorageRefused: when it cannot be listed.
        """
        with self._reaching("list"):
            system, root = self._system()
            found = system.find(root, detail=True)
            start = len(root.rstrip("/")) + 1
            return {
                path[start:]: tuple(str(info.get(sign)) for sign in _SIGNS)
                for path, info in found.items()
                if not path.rsplit("/", 1)[-1].startswith(".")
            }

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        return system, root

    @staticmethod
    def _put(system: Any, path: str, content: bytes) -> None:
        # An object appears whole; a local file would not.
        if _is_local(system):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), content)
        else:
            system.pipe_file(path, content)

    @contextlib.contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every storage has errors of its own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StorageRefused(f"{self.url}: cannot {what}: {reason}") from error


class Mirror:
    """Keeps a folder at a storage equal to a local one.

    Args:
        folder: what this process writes.
        storage: where others find it.
        alone: whether nobody else writes there, so that what is gone here is removed there.
    """

    def __init__(self, folder: Path, storage: Storage, *, alone: bool = True) -> None:
        self._folder, self._storage, self._alone = folder, storage, alone
        self._sent: Signs = {}
        self._busy = threading.Lock()

    def bring(self) -> None:
        """Begin with what is there.

        Raises:
            StorageRefused: when it cannot be read.
        """
        for name in self._storage.listing():
            self._storage.bring(name, self._folder / name)
        self._sent = _local_signs(self._folder)

    def push(self) -> None:
        """Send what is new.

        What proves others whole is listed before anything is read, and sent last: what it proves
        is then complete, and at least as new.

        Raises:
            StorageRefused: when the storage does not take it; the next push goes on from there.
        """
        with self._busy:
            signs = _local_signs(self._folder)
            for name in sorted(self._sent.keys() - signs.keys(), key=_rank, reverse=True):
                if self._alone:
                    self._storage.remove(name)
                del self._sent[name]
            for name in sorted(signs, key=_rank):
                if self._sent.get(name) != signs[name]:
                    self._storage.send(self._folder / name, name)
                    self._sent[name] = signs[name]


def patiently(
    action: Callable[[], None],
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Do something with a storage, again while it is refused, for a minute at most.

    Raises:
        StorageRefused: when it was refused to the end.
    """
    begun, wait = clock(), 0.5
    while True:
        try:
            return action()
        except StorageRefused:
            if clock() - begun + wait > PATIENCE_S:
                raise
        pause(wait)
        wait *= 2


def send_folder(folder: Path, storage: Storage, *, last: str) -> None:
    """Send a folder that does not change, unless its last file says that it is there.

    Raises:
        StorageRefused: when the storage does not take it.
    """
    if storage.has(last):
        return
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    for name in sorted(names, key=lambda name: name == last):
        storage.send(folder / name, name)


def bring_folder(storage: Storage, folder: Path, *, last: str) -> None:
    """Bring a folder that does not change; it is there whole or not at all.

    Raises:
        StorageRefused: when it cannot be read.
    """
    if not storage.has(last):
        raise StorageRefused(f"{storage.url}: there is no {last}")
    beside = folder.with_name(f".{folder.name}.{time.time_ns():x}.tmp")
    try:
        for name in storage.listing():
            storage.bring(name, beside / name)
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def storage_refuses(what: str) -> EnvironmentUnusable:
    """The error of a storage that cannot be used."""
    return EnvironmentUnusable(
        Fault(
            code="SWP-3007",
            rule=f"run.storage must be readable and writable, here and on every node; {what}",
            place="run.storage",
            remedy="check the URL, that its package is installed (s3fs for s3://, gcsfs for gs://) "
            "and that the credentials are in the environment of driver and nodes",
        )
    )


def _rank(name: str) -> tuple[int, str]:
    """Order of sending."""
    if name == "result.json":
        return 3, name
    if "/step-" in f"/{name}":
        return (1 if name.endswith(".pt") else 2), name
    return 0, name


def _local_signs(folder: Path) -> Signs:
    signs: Signs = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith(".") and path.is_file():
                stat = path.stat()
                signs[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size)
    return signs


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)
