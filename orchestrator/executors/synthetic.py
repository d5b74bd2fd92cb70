"""Trials whose losses come from a known law and seeded noise: no torch, no files, no time.

What a design, the planner, the journal and the fit make of a truth that is known is how they are
judged before money is spent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from analysis.laws import Surface
from orchestrator.executors.base import ExecutorEvent, Finished, Job, Started
from trainer.config import TrainConfig
from trainer.flops import training_flops_per_token
from trainer.result import RunResult, RunStatus
from trainer.shapes import count_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the losses of a simulation follow."""

    law: Surface
    """Loss as a function of matmul parameters and tokens."""
    noise_sd: float
    """sd of ln L of one run."""
    seed: int
    """Which world: noise is a function of it and of the trial's identity, never of order."""

    def result(self, config: TrainConfig) -> RunResult:
        """The completed run of a configuration."""
        params = count_parameters(config.shape).matmul
        words = [self.seed, *np.frombuffer(bytes.fromhex(config.trial_id), dtype=np.uint32)]
        noise = np.random.default_rng([int(word) for word in words]).standard_normal()
        loss = float(self.law.loss(params, config.tokens)) * math.exp(self.noise_sd * noise)
        return RunResult(
            trial_id=config.trial_id,
            status=RunStatus.COMPLETED,
            loss=loss,
            loss_se=self.noise_sd * loss,
            bpb=loss / math.log(2),
            tokens=config.tokens,
            steps=config.steps,
            steps_executed=config.steps,
            flops=training_flops_per_token(config.shape).total * config.tokens,
            wall_s=0.0,
            tokens_per_s=0.0,
            device="synthetic",
        )


class SyntheticExecutor:
    """Answers every job at once, in the order of submission."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._events: deque[ExecutorEvent] = deque()

    def __enter__(self) -> SyntheticExecutor:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def submit(self, job: Job) -> None:
        """Answer a job."""
        for one in job.members:
            self._events.append(Started(trial_id=one.trial_id))
            result = self._truth.result(one.config)
            self._events.append(Finished(trial_id=one.trial_id, result=result))

    def kill(self, trial_id: str) -> None:
        """Nothing: no answer takes any time."""

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        """The next answer."""
        return self._events.popleft() if self._events else None
