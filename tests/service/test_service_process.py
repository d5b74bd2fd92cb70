"""The real service: what it listens on, and a sweep that outlives a SIGKILL of it.

The second test trains, and runs with `make service-test` only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from orchestrator.client import Service, exit_code_of, follow, submit
from orchestrator.collect import WALL_CLOCK_COLUMNS
from orchestrator.errors import BadInput

TEXT = """\
name: tiny
budget: {flops: 3e10}
data: {corpus: "synthetic:markov?characters=100000", tokenizer: byte, validation_tokens: 2048}
model: {context: 32}
training: {batch_tokens: 256, min_steps: 20, learning_rate: 0.003}
design: {levels: [1e9, 3e9], sizes: 3, span: 2, tokens_per_parameter: 40}
run: {executor: inline}
checks: {diagnose: false}
tracking: {enabled: false}
"""
SWEEP = [sys.executable, "-m", "orchestrator"]


class Served:
    """A service in a process of its own."""

    def __init__(self, outputs: Path) -> None:
        self.process = subprocess.Popen(
            [*SWEEP, "serve", "--port", "0", "--outputs", str(outputs), "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        self.opened = json.loads("".join(lines))
        token = Path(self.opened["token_file"]).read_text().strip()
        self.service = Service(url=self.opened["url"], token=token)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "outputs"
    record = tmp_path / "outputs" / "tiny" / "driver.json"
    pid = json.loads(record.read_text())["pid"] if record.exists() else None
    if pid is not None and psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


def test_a_real_service_listens_on_loopback_alone_and_plans_in_a_process_of_its_own(
    outputs: Path,
) -> None:
    served = Served(outputs)
    try:
        sockets = psutil.Process(served.process.pid).net_connections(kind="inet")
        listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening] == ["127.0.0.1"]
        assert (outputs / ".server-token").stat().st_mode & 0o777 == 0o600
        plan = served.service.ask("POST", "/api/v1/plan", {"budget": TEXT})
        assert (plan["schema"], plan["name"]) == ("sweep.plan/1", "tiny")
        with pytest.raises(BadInput, match="SWP-1101"):
            served.service.ask("POST", "/api/v1/plan", {"budget": TEXT + "more: 1\n"})
        with pytest.raises(BadInput, match="SWP-6001"):
            Service(url=served.opened["url"], token="wrong").ask("GET", "/api/v1/sweeps")
    finally:
        served.kill()


def test_a_sweep_outlives_the_service_and_ends_with_the_undisturbed_table(
    outputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--whole-service", default=False):
        pytest.skip("make service-test")
    budget = tmp_path / "tiny.yaml"
    budget.write_text(TEXT)
    first = Served(outputs)
    document = submit(first.service, budget, TEXT)
    assert document["started"]
    seen: list[str] = []

    class Enough(Exception):
        """Two trials are done: the middle."""

    def show(words: str) -> None:
        seen.append(words)
        if sum("completed" in line for line in seen) == 2:
            raise Enough

    with pytest.raises(Enough):
        follow(first.service, "tiny", show=show)
    first.kill()
    second = Served(outputs)
    try:
        assert not submit(second.service, budget, TEXT)["started"], "its driver is at it"
        later: list[str] = []
        end = follow(second.service, "tiny", show=later.append)
        assert later[: len(seen)] == seen
        files = second.service.ask("GET", "/api/v1/sweeps/tiny/files")["files"]
        assert {"losses.csv", "fit.json", "report/report.html"} <= set(files)
    finally:
        second.kill()
    undisturbed = subprocess.run(
        [*SWEEP, "run", str(budget), "-y", "-q", "--outputs", str(tmp_path / "other")], check=False
    )
    assert exit_code_of(end) == undisturbed.returncode
    tables: list[Any] = [
        pd.read_csv(folder / "tiny" / "losses.csv").drop(columns=list(WALL_CLOCK_COLUMNS))
        for folder in (outputs, tmp_path / "other")
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
