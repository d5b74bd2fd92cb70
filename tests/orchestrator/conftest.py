"""Fakes and small facts shared by the orchestrator's tests."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.budget import Budget, parse_budget
from orchestrator.data import PreparedData
from orchestrator.executors.base import ExecutorEvent, Finished, Interrupted, Job, Lost, Started
from orchestrator.hardware import Machine
from orchestrator.plan import make_plan
from orchestrator.setting import Setting
from orchestrator.throughput import CPU_CORE
from orchestrator.tracking.projection import Projection
from orchestrator.trial import Hardware
from trainer.config import TrainConfig
from trainer.data.facts import DataFacts
from trainer.result import RunResult, RunStatus
from trainer.shapes import count_parameters

FACTS = DataFacts(
    train_tokens=11_500_000,
    validation_tokens=480_000,
    vocab_size=256,
    bytes_per_token=1.0,
    digest="d" * 64,
    exact=True,
)
HARDWARE = Hardware(slots=2, throughput=CPU_CORE, precision="fp32")
BUDGET = """\
name: small
budget:
  flops: 8e12
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11, 3.2e11, 1.02e12], sizes: 5, span: 3, tokens_per_parameter: 150}
"""


def law(config: TrainConfig) -> float:
    """A loss with a minimum: Chinchilla's form with constants of a byte-level sweep."""
    n = count_parameters(config.shape).matmul
    return 0.9 + 60 * n**-0.45 + 500 * config.tokens**-0.45


def completed(config: TrainConfig, loss: float | None = None) -> RunResult:
    """A completed result of a configuration."""
    return RunResult(
        trial_id=config.trial_id,
        status=RunStatus.COMPLETED,
        loss=law(config) if loss is None else loss,
        loss_se=0.001,
        bpb=1.0,
        tokens=config.tokens,
        steps=config.steps,
        steps_executed=config.steps,
        flops=1.0,
        wall_s=2.0,
        tokens_per_s=1e5,
        device="fake",
    )


class FakeExecutor:
    """Runs jobs at once, by a script of what goes wrong."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.events: deque[ExecutorEvent] = deque()
        self.submitted: list[str] = []
        self.stacks: list[list[str]] = []
        self.losses: dict[str, int] = {}
        self.outcome: Callable[[Job], ExecutorEvent] = lambda job: Finished(
            trial_id=job.trial_id, result=completed(job.config)
        )
        self.before: Callable[[Job], None] = lambda job: None

    def __enter__(self) -> FakeExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, job: Job) -> None:
        self.submitted.append(job.trial_id)
        self.stacks.append([one.trial_id for one in job.stack])
        self.jobs.append(job)

    def kill(self, trial_id: str) -> None:
        pass

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        if self.events:
            return self.events.popleft()
        if not self.jobs:
            return None
        job = self.jobs.popleft()
        self.before(job)
        self.events += [Started(trial_id=one.trial_id) for one in job.members]
        # The death of a worker is that of all trials in it.
        died = any(self.losses.get(one.trial_id, 0) > 0 for one in job.members)
        for one in job.members:
            if job.stop_file.exists():
                self.events.append(Interrupted(trial_id=one.trial_id))
            elif died:
                self.losses[one.trial_id] = self.losses.get(one.trial_id, 0) - 1
                self.events.append(Lost(trial_id=one.trial_id, reason="its worker died"))
            else:
                self.events.append(self.outcome(one))
        return self.events.popleft()


@pytest.fixture
def facts() -> DataFacts:
    """Counts of a corpus like the embedded one."""
    return FACTS


@pytest.fixture
def hardware() -> Hardware:
    """Two CPU cores."""
    return HARDWARE


@pytest.fixture
def budget() -> Budget:
    """Three levels of five sizes."""
    return parse_budget(BUDGET)


@pytest.fixture
def fake_executor() -> FakeExecutor:
    """An executor whose trials cost nothing and follow `law`."""
    return FakeExecutor()


@pytest.fixture
def make_setting(tmp_path: Path) -> Callable[..., Setting]:
    """Build a `Setting` of a budget text in a temporary outputs folder."""

    def make(text: str = BUDGET, **facts_changes: object) -> Setting:
        budget = parse_budget(text)
        facts = dataclasses.replace(FACTS, **facts_changes)
        record = {
            "digest": facts.digest,
            "train_tokens": facts.train_tokens,
            "bytes_per_token": 1.0,
            "source": "embedded",
            "tokenizer": "byte",
        }
        return Setting(
            budget=budget,
            budget_text=text,
            base=tmp_path,
            plan=make_plan(budget, facts, HARDWARE),
            sweep_dir=tmp_path / "outputs" / budget.name,
            outputs=tmp_path / "outputs",
            data=PreparedData(folder=tmp_path / "data", facts=facts, record=record),
            hardware=HARDWARE,
            machine=Machine(cores=2, gpus=()),
        )

    return make


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store, made once: the migration takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    path = folder / "mlflow.db"
    Projection(uri=f"sqlite:///{path}", experiment="e", artifacts=folder, sweep_dir=folder)
    whole = folder / "whole.db"
    with (
        contextlib.closing(sqlite3.connect(path)) as database,
        contextlib.closing(sqlite3.connect(whole)) as copy,
    ):
        database.backup(copy)
    return whole
