"""The batch script of the Slurm page: told to end, it puts its job back; ended, it does not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "slurm.md"
SWEEP = """\
#!/bin/bash
trap 'exit 143' TERM
touch ready
{body}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the page's script and a stand-in for `scontrol`."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = re.search(r"```text\n(#!/bin/bash\n.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert script is not None
    (tmp_path / "job.sh").write_text(script[1])
    control = tmp_path / "bin" / "scontrol"
    control.parent.mkdir()
    control.write_text('#!/bin/sh\necho "$@" > requeued\n')
    control.chmod(0o755)
    return tmp_path


def start(job: Path, body: str) -> subprocess.Popen[bytes]:
    sweep = job / ".venv" / "bin" / "sweep"
    sweep.parent.mkdir(parents=True)
    sweep.write_text(SWEEP.format(body=body))
    sweep.chmod(0o755)
    path = f"{job / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "77", "SCRATCH": str(job)}
    return subprocess.Popen(["bash", "job.sh"], cwd=job, env=environment)


def test_a_job_that_is_told_to_end_stops_its_sweep_and_goes_back_into_the_queue(job: Path) -> None:
    with start(job, "while :; do sleep 0.1; done") as process:
        while not (job / "ready").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert (job / "requeued").read_text() == "requeue 77\n"


@pytest.mark.parametrize("code", [0, 1, 4])
def test_a_sweep_that_ended_by_itself_is_not_put_back(job: Path, code: int) -> None:
    with start(job, f"exit {code}") as process:
        assert process.wait(timeout=60) == code
    assert not (job / "requeued").exists()
