"""A trial that one call trains in two processes: same loss, deaths on either side, nothing left."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from trainer.config import RunOptions, TrainConfig
from trainer.run import run_trial
from trainer.together import CompanionDied, run_together


def companions(of: int) -> list[psutil.Process]:
    family = psutil.Process(of).children(recursive=True)
    return [p for p in family if "trainer.together" in " ".join(p.cmdline())]


def test_two_processes_give_the_loss_of_one_and_leave_nothing_behind(
    make_config: Callable[..., TrainConfig], options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(steps=20)
    alone = run_trial(config, options, tmp_path / "alone")
    both = run_together(config, options, tmp_path / "both", 2)
    assert both.loss == pytest.approx(alone.loss, rel=1e-5)
    assert both.versions["processes"] == "2"
    assert (both.steps_executed, both.attempts) == (20, 1)
    assert companions(os.getpid()) == []
    assert "WORLD_SIZE" not in os.environ
    # What is over is not trained again, by however many processes.
    assert run_together(config, options, tmp_path / "both", 2) == both
    assert run_together(config, options, tmp_path / "alone", 1) == alone


def test_a_companion_that_dies_is_no_error_of_the_trial_and_it_goes_on(
    make_config: Callable[..., TrainConfig], options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(steps=60)
    options = dataclasses.replace(options, checkpoint_every_s=1e-6)
    killed = []

    def kill_once(progress: object) -> None:
        if not killed:
            killed.extend(companions(os.getpid()))
            for process in killed:
                process.kill()

    with pytest.raises(CompanionDied, match=r"process 1 of the run ended \(-9\)"):
        run_together(config, options, tmp_path / "both", 2, on_progress=kill_once)
    assert len(killed) == 1
    again = run_together(config, options, tmp_path / "both", 2)
    assert again.attempts == 2
    calm = run_trial(config, options, tmp_path / "calm")
    assert again.loss == pytest.approx(calm.loss, rel=1e-5)


def test_a_killed_leader_takes_its_companion_with_it(
    make_config: Callable[..., TrainConfig], options: RunOptions, tmp_path: Path
) -> None:
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from trainer.config import RunOptions, TrainConfig\n"
        "from trainer.together import run_together\n"
        "config = TrainConfig.from_json(Path(sys.argv[1]).read_text())\n"
        "run_together(config, RunOptions(data_dir=Path(sys.argv[2])), Path(sys.argv[3]), 2)\n"
    )
    (tmp_path / "config.json").write_text(make_config(steps=10**6).to_json())
    arguments = [str(tmp_path / "config.json"), str(options.data_dir), str(tmp_path / "out")]
    leader = subprocess.Popen([sys.executable, "-c", script, *arguments])
    try:
        while not (tmp_path / "out" / "metrics.jsonl").exists():
            assert leader.poll() is None
            time.sleep(0.02)
        (companion,) = companions(leader.pid)
    finally:
        leader.kill()
        leader.wait()
    companion.wait(120)
