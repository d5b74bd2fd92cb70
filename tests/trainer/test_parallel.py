"""Two processes on half the batch each equal one process on all of it; row R7."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.config import RunOptions, TrainConfig
from trainer.parallel import Group
from trainer.result import RunResult
from trainer.run import run_trial

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(rank: int, size: int, port: int, arguments: list[str]) -> subprocess.Popen[str]:
    places = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "PATH": "",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT,
        env=places,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_equal_one_with_the_same_batch(
    make_config: Callable[..., TrainConfig], options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(steps=20)
    alone = run_trial(config, options, tmp_path / "alone")
    config_file = tmp_path / "config.json"
    config_file.write_text(config.to_json())
    arguments = [str(config_file), "--data", str(options.data_dir), "--device", "cpu", "--quiet"]
    arguments += ["--out", str(tmp_path / "both"), "--log-points", "10"]
    port = free_port()
    processes = [start(rank, 2, port, arguments) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    results = [RunResult.from_json(out) for out, _ in outputs]
    assert results[0] == results[1]
    assert results[0].loss == pytest.approx(alone.loss, rel=1e-5)
    assert results[0].versions["processes"] == "2"

    def losses(folder: str) -> list[float]:
        text = (tmp_path / folder / "metrics.jsonl").read_text()
        return [line["loss"] for line in map(json.loads, text.splitlines()) if "loss" in line]

    assert losses("both") == pytest.approx(losses("alone"), rel=1e-5)


def test_a_group_splits_a_batch_without_overlap() -> None:
    batch = torch.arange(12).view(6, 2)
    parts = [Group(rank, 3).share(batch) for rank in range(3)]
    assert sorted(row[0] for part in parts for row in part.tolist()) == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="a multiple of the 4 processes, got 6"):
        Group(0, 4).share(batch)


def test_a_group_of_one_changes_nothing() -> None:
    alone = Group()
    values = torch.ones(3)
    assert alone.leads
    assert alone.mean_(values) is values
    assert alone.any_of(True, False) == (True, False)
    assert alone.from_leader({"a": 1}) == {"a": 1}
