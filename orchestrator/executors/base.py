"""What a service asks of an executor, whatever runs the trials: submit, listen, stop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.config import RunOptions, TrainConfig
from trainer.result import RunResult

STOP_FILE = "stop"
"""A file of this name in the sweep directory asks every running trial to checkpoint and end."""

TEMPORARY = "isosweep-"
"""How temporary folders of executors begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """Trials of one group are compared at rungs, and those that lag behind are ended early."""

    group: str
    """Only trials of one group are compared: losses of different sizes are not."""
    earlier: tuple[tuple[str, int, float], ...] = ()
    """What is known already: (trial, rung in percent of the steps, training loss)."""
    protected: bool = False
    """Whether it runs to its end all the same; the others are compared with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Where a job's files are when its worker shares no disk with the driver."""

    url: str
    """The storage."""
    sweep: str
    """The sweep's folder in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One trial, ready to be run anywhere."""

    trial_id: str
    """Identity."""
    config: TrainConfig
    """What is trained."""
    options: RunOptions
    """How it runs."""
    out_dir: Path
    """Its folder, absolute; reachable from the worker."""
    stop_file: Path
    """Its appearance asks the trial to checkpoint and end."""
    cpus: float
    """CPU cores it occupies."""
    gpus: float
    """GPUs it occupies, all on one node; fractions allowed."""
    processes: int = 1
    """Processes that train it together, each with its share of the cores and GPUs."""
    stored: Stored | None = None
    """Where its files are; None: at its folders, which the worker reaches."""
    race: Race | None = None
    """With whom it is compared on the way; None: it runs to its end."""
    stack: tuple[Job, ...] = ()
    """Trials of its shape, itself among them, that one process trains together as one stack, in
    their order; empty: it is trained alone. A member that is over already takes its place too: who
    was there decides the others' last bits."""

    @property
    def members(self) -> tuple[Job, ...]:
        """The trials of the job: those of its stack, or itself."""
        return self.stack or (self,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """An attempt of a trial began."""

    trial_id: str
    """Which trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A trial ended with a result."""

    trial_id: str
    """Which trial."""
    result: RunResult
    """Its result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """An attempt ended without a result: its worker died."""

    trial_id: str
    """Which trial."""
    reason: str
    """What is known of the cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """An attempt checkpointed and ended because it was asked to."""

    trial_id: str
    """Which trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocked:
    """An attempt ended because a disk or the storage refused; nothing is wrong with the trial."""

    trial_id: str
    """Which trial."""
    reason: str
    """The path, and how many bytes it needed."""
    by_storage: bool = False
    """Whether it was the storage (`run.storage`) that refused, or could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AtRung:
    """A trial passed a rung of its race."""

    trial_id: str
    """Which trial."""
    percent: int
    """The rung, percent of the steps."""
    loss: float
    """Its training loss there, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """A trial was ended at a rung, because it lagged behind."""

    trial_id: str
    """Which trial."""


ExecutorEvent = Started | Finished | Lost | Interrupted | Blocked | AtRung | Pruned


class Executor(Protocol):
    """Runs jobs and tells what becomes of them. A context manager: leaving it ends every worker.

    Every job submitted yields any number of `Started` and `AtRung`, and then exactly one of
    `Finished`, `Lost`, `Interrupted`, `Blocked` or `Pruned`; a lost job may be submitted again.
    A stack is one job and yields these for each of its members.
    """

    def __enter__(self) -> Executor:
        """Start what the executor needs; raises `EnvironmentUnusable` when it cannot."""
        ...

    def __exit__(self, *_: object) -> None:
        """End every worker and release every resource."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job; jobs start in the order of submission as resources allow."""
        ...

    def kill(self, trial_id: str) -> None:
        """End the worker of a trial that does not move any more; its job is then `Lost`."""
        ...

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        """The next thing that happened, or None after `timeout_s` seconds of nothing."""
        ...
