"""Trials that ask for more than others: several processes, shares of a GPU.

A Ray of their own: warm workers of another size would hold the cores that these trials wait for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.executors.base import Finished, Started
from orchestrator.executors.ray_tune import RayTuneExecutor
from orchestrator.executors.worker import run_job
from tests.orchestrator.test_ray_executor import data_dir, events_of, executor, job

__all__ = ["data_dir", "executor"]


def test_a_trial_of_two_processes_is_one_tune_trial_with_its_gpus_and_has_the_loss_of_one(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    plain = job(data_dir, tmp_path / "ray", steps=40, seed=20)
    both = dataclasses.replace(plain, cpus=2.0, gpus=2.0, processes=2)
    executor.submit(both)
    event = events_of(executor, 1)[-1]
    assert isinstance(event, Finished)
    assert event.result.versions["processes"] == "2"
    alone = run_job(dataclasses.replace(plain, out_dir=tmp_path / "alone"))
    assert isinstance(alone, Finished)
    assert event.result.loss == pytest.approx(alone.result.loss, rel=1e-5)
    shares = [
        dataclasses.replace(job(data_dir, tmp_path, steps=5, seed=seed), gpus=0.5)
        for seed in (21, 22)
    ]
    for share in shares:
        executor.submit(share)
    assert all(isinstance(event, Started | Finished) for event in events_of(executor, 2))
    asked = [
        executor._placed[one.trial_id].placement_group_factory.required_resources
        for one in (both, *shares)
    ]
    assert asked == [{"CPU": 2.0, "GPU": 2.0}, *[{"CPU": 1.0, "GPU": 0.5}] * 2]
    names = {str(executor._placed[one.trial_id]) for one in (both, *shares)}
    assert names == {one.trial_id for one in (both, *shares)}
