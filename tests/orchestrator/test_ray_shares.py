"""Trials that ask for more than others: several processes, shares of a GPU.

A Ray of their own: warm workers of another size would hold the cores that these trials wait for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executors.base import Finished, Started
from orchestrator.executors.ray_tune import RayTuneExecutor
from orchestrator.executors.worker import run_job
from tests.orchestrator.test_ray_executor import data_dir, events_of, job

__all__ = ["data_dir"]


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayTuneExecutor]:
    """A private Ray as sweeps have it whose sizes ask for different shares. No GPU is real."""
    log = tmp_path_factory.mktemp("log")
    with RayTuneExecutor(slots=4, cpus=4, gpus=2, log_dir=log, warm=False) as ray:
        yield ray


def test_trials_of_several_gpus_of_one_and_of_a_part_of_one_share_a_ray(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    plain = job(data_dir, tmp_path / "ray", steps=40, seed=20)
    both = dataclasses.replace(plain, cpus=2.0, gpus=2.0, processes=2)
    half, other, one = (
        dataclasses.replace(job(data_dir, tmp_path, steps=5, seed=seed), gpus=gpus)
        for seed, gpus in ((21, 0.5), (22, 0.5), (23, 1.0))
    )
    submitted = (half, both, other, one)
    for asked in submitted:
        executor.submit(asked)
    events = events_of(executor, len(submitted))
    assert all(isinstance(event, Started | Finished) for event in events)
    results = {event.trial_id: event.result for event in events if isinstance(event, Finished)}
    assert set(results) == {asked.trial_id for asked in submitted}
    for asked in submitted:
        placed = executor._placed[asked.trial_id]
        resources = placed.placement_group_factory.required_resources
        assert resources == {"CPU": asked.cpus, "GPU": asked.gpus}
        assert str(placed) == asked.trial_id

    # A trial of two processes has the loss of one that is trained alone.
    assert results[both.trial_id].versions["processes"] == "2"
    alone = run_job(dataclasses.replace(plain, out_dir=tmp_path / "alone"))
    assert isinstance(alone, Finished)
    assert results[both.trial_id].loss == pytest.approx(alone.result.loss, rel=1e-5)
