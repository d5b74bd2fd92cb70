"""Trials one after the other in this process: for debugging, tests and machines without Ray."""

from __future__ import annotations

from collections import defaultdict, deque

from orchestrator.executors.base import AtRung, ExecutorEvent, Job, Pruned, Started
from orchestrator.executors.worker import run_all
from orchestrator.pruning import goes_on


class _Behind(BaseException):
    """Ends a trial at a rung; no `Exception`, which would be the trial's own failure."""


class InlineExecutor:
    """Runs a job when the service listens for events."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._started: Job | None = None
        self._events: deque[ExecutorEvent] = deque()
        self._rungs: defaultdict[tuple[str, int], dict[str, float]] = defaultdict(dict)

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
        if self._events:
            return self._events.popleft()
        if self._started is not None:
            job, self._started = self._started, None
            self._run(job)
            return self._events.popleft()
        if not self._jobs:
            return None
        self._started = self._jobs.popleft()
        self._events += [Started(trial_id=one.trial_id) for one in self._started.members]
        return self._events.popleft()

    def _run(self, job: Job) -> None:
        try:
            run_all(
                job,
                self._events.append,
                at_rung=lambda percent, loss: self._compare(job, percent, loss),
            )
        except _Behind:
            self._events.append(Pruned(trial_id=job.trial_id))

    def _compare(self, job: Job, percent: int, loss: float) -> None:
        assert job.race is not None
        for trial_id, rung, earlier in job.race.earlier:
            self._rungs[job.race.group, rung].setdefault(trial_id, earlier)
        there = self._rungs[job.race.group, percent]
        before = [value for trial_id, value in there.items() if trial_id != job.trial_id]
        there[job.trial_id] = loss
        self._events.append(AtRung(trial_id=job.trial_id, percent=percent, loss=loss))
        if not job.race.protected and not goes_on(loss, before):
            raise _Behind
