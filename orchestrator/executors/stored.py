"""Trials of workers that share no disk with the driver: everything goes through a storage.

The driver's executor sends the token files, hands jobs on without a single path of its own, and
brings what trials write (weights excepted) into the sweep's folder, where the service looks for it.
A worker keeps a scratch folder for the trial and sends it while it trains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from orchestrator.executors.base import (
    AtRung,
    Executor,
    ExecutorEvent,
    Job,
    Started,
    Stored,
)
from orchestrator.storage import (
    DATA,
    PREFIXES,
    STOP,
    TRIALS,
    Mirror,
    Signs,
    Storage,
    StorageRefused,
    bring_folder,
    patiently,
    send_folder,
    storage_refuses,
)
from trainer.data.manifest import MANIFEST_NAME

LEAST_PAUSE_S = 0.5
"""Least time between two looks at the storage."""
SHARE = 0.05
"""Most of a thread's time that it spends on the storage: a slow one is asked less often."""


class StoredExecutor:
    """Runs jobs in another executor, whose workers see nothing but the storage."""

    def __init__(self, inner: Executor, storage: Storage, *, sweep: str) -> None:
        """Describe it; nothing is sent before the context is entered.

        Args:
            inner: runs the jobs.
            storage: where files go.
            sweep: the folder of the sweep in it.
        """
        self._inner, self._storage, self._sweep = inner, storage, sweep
        self._jobs: dict[str, Job] = {}
        self._seen: dict[str, Signs] = {}
        self._sent: set[Path] = set()
        self._asked_to_stop = False
        self._over = threading.Event()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StoredExecutor:
        """Forget an earlier wish to end, and start the workers."""
        try:
            patiently(lambda: self._storage.below(self._sweep).remove(STOP))
        except StorageRefused as error:
            raise storage_refuses(str(error)) from error
        self._inner.__enter__()
        self._thread = threading.Thread(target=self._follow, name="storage", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the workers."""
        self._over.set()
        self._inner.__exit__(*exception)
        if self._thread is not None:
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Send the token files, once, and queue the job.

        Raises:
            EnvironmentUnusable: when the storage does not take them.
        """
        data = job.options.data_dir
        if data not in self._sent:
            there = self._storage.below(DATA, data.name)
            try:
                patiently(lambda: send_folder(data, there, last=MANIFEST_NAME))
            except StorageRefused as error:
                raise storage_refuses(str(error)) from error
            self._sent.add(data)
        with self._busy:
            self._jobs.update({one.trial_id: one for one in job.members})
        self._inner.submit(_without_paths(job, self._storage, self._sweep))

    def kill(self, trial_id: str) -> None:
        """End the worker of a trial."""
        self._inner.kill(trial_id)

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        """The next thing that happened; the files of a trial that is over are here first."""
        event = self._inner.next_event(timeout_s)
        if event is None or isinstance(event, Started | AtRung):
            return event
        with self._busy:
            job = self._jobs.pop(event.trial_id)
            with contextlib.suppress(StorageRefused):
                patiently(lambda: self._bring(job))
        return event

    def _follow(self) -> None:
        """Bring what running trials write, and tell them to end when the driver should."""
        spent = 0.0
        while not self._over.wait(max(LEAST_PAUSE_S, spent / SHARE)):
            begun = time.monotonic()
            jobs = list(self._jobs.values())
            for job in jobs:
                # What cannot be read now is read at the next look, or when the trial is over.
                with self._busy, contextlib.suppress(StorageRefused):
                    if job.trial_id in self._jobs:
                        self._bring(job)
            self._relay_stop(jobs)
            spent = time.monotonic() - begun

    def _relay_stop(self, jobs: list[Job]) -> None:
        if self._asked_to_stop or not any(job.stop_file.exists() for job in jobs):
            return
        with contextlib.suppress(StorageRefused):
            self._storage.below(self._sweep).put(STOP, b"")
            self._asked_to_stop = True

    def _bring(self, job: Job) -> None:
        there = self._storage.below(self._sweep, TRIALS, job.trial_id)
        seen = self._seen.setdefault(job.trial_id, {})
        signs = {name: sign for name, sign in there.listing().items() if not name.endswith(".pt")}
        for name in seen.keys() - signs.keys():
            (job.out_dir / name).unlink(missing_ok=True)
        for name, sign in signs.items():
            if seen.get(name) != sign:
                there.bring(name, job.out_dir / name)
        self._seen[job.trial_id] = signs


def _without_paths(job: Job, storage: Storage, sweep: str) -> Job:
    """The job as a worker gets it: nothing in it names a place of this machine."""
    stack = tuple(_without_paths(_alone(one), storage, sweep) for one in job.stack)
    options = dataclasses.replace(
        job.options,
        data_dir=Path(job.options.data_dir.name),
        prefix_dir=None if job.options.prefix_dir is None else Path(PREFIXES),
    )
    return dataclasses.replace(
        job,
        options=options,
        out_dir=Path(job.trial_id),
        stop_file=Path(STOP),
        stored=Stored(url=storage.url, sweep=sweep),
        stack=stack,
    )


def _alone(job: Job) -> Job:
    return dataclasses.replace(job, stack=())


@contextlib.contextmanager
def at_hand(job: Job) -> Iterator[tuple[Job, Callable[[], None]]]:
    """A job with its files in local folders, and what sends all that is new there.

    Raises:
        StorageRefused: when the storage cannot be read; what sends raises it too, when the storage
            does not take what was written.
    """
    if job.stored is None:
        yield job, lambda: None
        return
    storage = Storage(job.stored.url)
    sweep = storage.below(job.stored.sweep)
    scratch = Path(tempfile.mkdtemp(prefix="isosweep-trial-"))
    try:
        tokens = _tokens(storage, job.options.data_dir.name)
        members = tuple(_placed(one, scratch, tokens) for one in job.members)
        local = dataclasses.replace(members[0], stack=members if job.stack else ())
        mirrors = [Mirror(one.out_dir, sweep.below(TRIALS, one.trial_id)) for one in members]
        if job.options.prefix_dir is not None:
            shared = Path(PREFIXES, job.config.trajectory_id)
            there = storage.below(*shared.parts)
            mirrors.append(Mirror(scratch / shared, there, alone=False))
        for mirror in mirrors:
            patiently(mirror.bring)
        with _sending(mirrors, sweep, local.stop_file):
            yield local, lambda: _send_all(mirrors)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _placed(job: Job, scratch: Path, tokens: Path) -> Job:
    """A job as the trainer gets it, in folders of this node."""
    options = dataclasses.replace(
        job.options,
        data_dir=tokens,
        prefix_dir=None if job.options.prefix_dir is None else scratch / PREFIXES,
    )
    return dataclasses.replace(
        _alone(job), options=options, out_dir=scratch / job.trial_id, stop_file=scratch / STOP
    )


def _send_all(mirrors: list[Mirror]) -> None:
    for mirror in mirrors:
        patiently(mirror.push)


@contextlib.contextmanager
def _sending(mirrors: list[Mirror], sweep: Storage, stop_file: Path) -> Iterator[None]:
    """Send what is new now and then, and look for the wish to end, while the context lasts."""
    over = threading.Event()

    def follow() -> None:
        spent = 0.0
        while not over.wait(max(LEAST_PAUSE_S, spent / SHARE)):
            begun = time.monotonic()
            # A refusal is tried again; what is sent when a trial is over says when it is final.
            with contextlib.suppress(StorageRefused):
                for mirror in mirrors:
                    mirror.push()
                if sweep.has(STOP):
                    stop_file.touch()
            spent = time.monotonic() - begun

    thread = threading.Thread(target=follow, name="storage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tokens(storage: Storage, name: str) -> Path:
    """The token files on this node; brought by the first trial that needs them.

    Raises:
        StorageRefused: when they cannot be read.
    """
    root = _private(Path(tempfile.gettempdir()) / f"isosweep-{os.getuid()}") / DATA
    root.mkdir(exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        if not (root / name).exists():
            patiently(
                lambda: bring_folder(storage.below(DATA, name), root / name, last=MANIFEST_NAME)
            )
            _verify(root / name)
    return root / name


def _private(folder: Path) -> Path:
    """A folder of this user's alone, in a place where others may write."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StorageRefused(f"{folder} must belong to the user that runs the workers")
    return folder


def _verify(folder: Path) -> None:
    from trainer.data.errors import DataError
    from trainer.data.shards import TokenData

    try:
        TokenData.open(folder).verify()
    except DataError as error:
        shutil.rmtree(folder)
        raise StorageRefused(f"token files came over damaged: {error}") from error
