"""One trial trained by several processes of one node, each with a part of every batch.

This process leads: it writes the trial's files and its result is the run's. It starts the others
itself (`python -m trainer.together`), which read what to train from stdin and end when that is
closed: a leader that is killed takes them with it. They find each other through a file, and talk
over the loopback interface alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from trainer import run
from trainer.config import RunOptions, TrainConfig
from trainer.parallel import MEETING
from trainer.result import Progress, RunResult

PATIENCE_S = 60.0
"""How long the others may take to end after the leader has."""
GRACE_S = 10.0
"""How long a leader may take to notice that another process died before it is ended too: it may be
waiting for it inside of a library, for half an hour."""
_INTERFACES = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


class CompanionDied(Exception):
    """Another process of the run died; tried again, the run goes on from its last checkpoint."""


def run_together(
    config: TrainConfig,
    options: RunOptions,
    out_dir: Path,
    processes: int,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Train one trial in several processes, as `run_trial` does in one.

    Args:
        config: what to train.
        options: where and how; `threads` is that of each process, and on GPUs each takes the one
            of its rank.
        out_dir: the trial's folder.
        processes: how many; `batch_sequences` must be a multiple of it. 1: this one alone.
        on_progress: as of `run_trial`.
        should_stop: as of `run_trial`.

    Raises:
        CompanionDied: when another process of the run ended before it was over.
        Exception: as `run_trial`.
    """
    if processes == 1 or (stored := run.stored_result(config, out_dir)) is None:
        with _companions(config, options, out_dir, processes) as died:
            try:
                return run.run_trial(
                    config, options, out_dir, on_progress=on_progress, should_stop=should_stop
                )
            except RuntimeError as error:
                # What the leader sees of it is a broken connection.
                if reason := died():
                    raise CompanionDied(reason) from error
                raise
    return stored


@contextlib.contextmanager
def _companions(
    config: TrainConfig, options: RunOptions, out_dir: Path, processes: int
) -> Iterator[Callable[[], str]]:
    """The other processes; yields what says which of them died, and how: empty while none did."""
    if processes == 1:
        yield lambda: ""
        return
    request = json.dumps(
        {
            "config": json.loads(config.to_json()),
            "options": dataclasses.asdict(options),
            "out_dir": str(out_dir),
        },
        default=str,
    )
    with tempfile.TemporaryDirectory(prefix="isosweep-") as folder, contextlib.ExitStack() as stack:
        place = {"WORLD_SIZE": str(processes), MEETING: f"{folder}/meeting", **_INTERFACES}
        others = [
            _Companion(rank, place, request, stack.enter_context(tempfile.TemporaryFile("w+")))
            for rank in range(1, processes)
        ]
        for other in others:
            stack.callback(other.end)
        stack.enter_context(_environment({**place, "RANK": "0", "LOCAL_RANK": "0"}))
        over = threading.Event()
        stack.callback(over.set)
        threading.Thread(target=_end_with_companions, args=(others, over), daemon=True).start()
        yield lambda: next((reason for other in others if (reason := other.death(1.0))), "")
        over.set()
        for other in others:
            other.wait()


class _Companion:
    def __init__(self, rank: int, place: dict[str, str], request: str, said: IO[str]) -> None:
        self._rank, self._said = rank, said
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer.together"],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
        )
        assert self._process.stdin is not None
        # Its stdin stays open: its end is the sign to go.
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)

    def death(self, patience_s: float = 0.0) -> str:
        """How it died, with its last words; empty when it lives or ended well."""
        # A connection may break before the process that broke it can be seen to be dead.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        if not self._process.returncode:
            return ""
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["it said nothing"]
        return f"process {self._rank} of the run ended ({self._process.returncode}): {lines[-1]}"

    def end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def _end_with_companions(others: list[_Companion], over: threading.Event) -> None:
    """End this process when another one has died and it does not notice."""
    while not over.wait(1.0):
        for other in others:
            if (reason := other.death()) and not over.wait(GRACE_S):
                sys.stderr.write(f"{reason}; the run ends\n")
                sys.stderr.flush()
                os._exit(1)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables while the context lasts; a worker trains other trials afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> int:
    """Train in step with the leader that is at the other end of stdin."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_leader, daemon=True).start()
    record = request["options"]
    folders = {name: Path(record[name]) for name in ("data_dir", "prefix_dir") if record[name]}
    options = RunOptions(**{**record, **folders, "prefix_steps": tuple(record["prefix_steps"])})
    config = TrainConfig.from_dict(request["config"])
    run.run_trial(config, options, Path(request["out_dir"]))
    return 0


def _leave_with_leader() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
