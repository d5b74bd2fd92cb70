"""Trials one after the other in this process: for debugging, tests and machines without Ray."""

from __future__ import annotations

from collections import deque

from orchestrator.executors.base import ExecutorEvent, Job, Started
from orchestrator.executors.worker import run_job


class InlineExecutor:
    """Runs a job when the service listens for events."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._started: Job | None = None

    def __enter__(self) -> InlineExecutor:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def kill(self, trial_id: str) -> None:
        """Nothing: whoever could ask is the process that trains."""

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        """Announce the next job; at the next call run it to its end."""
        if self._started is not None:
            job, self._started = self._started, None
            return run_job(job)
        if not self._jobs:
            return None
        self._started = self._jobs.popleft()
        return Started(trial_id=self._started.trial_id)
