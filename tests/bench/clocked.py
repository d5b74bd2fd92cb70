"""An executor with a clock of its own: trials end when they would, and nothing is trained."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from orchestrator.executors.base import ExecutorEvent, Finished, Job, Started
from trainer.config import TrainConfig
from trainer.result import RunResult


class Clocked:
    """Answers trials in the order in which so many slots would end them."""

    def __init__(
        self,
        seconds: Callable[[Job], float],
        result: Callable[[TrainConfig], RunResult],
        *,
        slots: int,
    ) -> None:
        self._seconds, self._result, self._slots = seconds, result, slots
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[float, int, Job]] = []
        self._started = 0
        self.now = self.busy = 0.0

    def __enter__(self) -> Clocked:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def kill(self, trial_id: str) -> None:
        pass

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        if self._waiting and len(self._running) < self._slots:
            job = self._waiting.popleft()
            self._started += 1
            seconds = self._seconds(job)
            self.busy += seconds
            heapq.heappush(self._running, (self.now + seconds, self._started, job))
            return Started(trial_id=job.trial_id)
        if not self._running:
            return None
        self.now, _, job = heapq.heappop(self._running)
        return Finished(trial_id=job.trial_id, result=self._result(job.config))

    @property
    def idle(self) -> float:
        """Share of the slots' time in which nothing ran."""
        return 1 - self.busy / (self._slots * self.now)
