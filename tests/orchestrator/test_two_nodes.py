"""A sweep on a Ray cluster of two nodes that share no disk with the driver; one of them is lost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from faults.patches import small_answer
from faults.specimen import SOURCE, corpus, table_print
from orchestrator import outcome
from orchestrator.budget import parse_budget
from orchestrator.session import RunRequest, run_budget
from orchestrator.trial_files import steps_executed

PATIENCE_S = 900.0
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # both nodes on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "600",
}
BUDGET = """\
name: tiny
budget: {{flops: 1e12}}
data: {{corpus: corpus.txt, validation_tokens: 2048}}
model: {{context: 32, family: gpt}}
training: {{batch_tokens: 512, min_steps: 30, learning_rate: 0.01}}
design: {{levels: [4e10], sizes: 3, span: 2, tokens_per_parameter: 12}}
run: {{executor: {executor}, checkpoint_every: 0.2s{more}}}
checks: {{diagnose: false}}
tracking: {{enabled: false}}
"""
DRIVER = """\
from faults.patches import small_answer
small_answer()
from orchestrator.cli import main
main()
"""


def until(condition: Callable[[], object], process: subprocess.Popen[str], log: Path) -> None:
    """Wait for what a process brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {log.read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def nodes() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Folder of a running cluster (a short path: Ray's sockets need one), and its process."""
    folder = Path(tempfile.mkdtemp(prefix="two-"))
    script = Path(__file__).with_name("two_nodes.py")
    with (folder / "log").open("w") as log:
        cluster = subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, **RAY},
        )
    try:
        until((folder / "address").exists, cluster, folder / "log")
        yield folder, cluster
    finally:
        with contextlib.suppress(ProcessLookupError):
            cluster.terminate()
        cluster.wait(PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def trained_on(folder: Path, node: str) -> set[str]:
    """Trials that a node has at hand."""
    return {
        path.name for path in (folder / node).glob("isosweep-trial-*/*") if len(path.name) == 16
    }


def test_a_sweep_over_two_nodes_that_loses_one_ends_with_the_undisturbed_table(
    nodes: tuple[Path, subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cluster = nodes
    corpus(tmp_path)
    storage = folder / "storage"
    address = (folder / "address").read_text()
    more = f", slots: 2, address: '{address}', storage: 'file://{storage}'"
    (tmp_path / "budget.yaml").write_text(BUDGET.format(executor="ray", more=more))
    said = tmp_path / "said"
    paths = os.pathsep.join((str(SOURCE), str(SOURCE / "tests")))
    here = {"PYTHONPATH": paths, **RAY}
    with said.open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, "run", "budget.yaml", "-y", "--outputs", "two"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, **here, "SWEEP_DEBUG": "1"},
        )
    seen: dict[str, set[str]] = {"first": set(), "second": set()}
    lost: list[str] = []

    def both_train_and_a_checkpoint_of_the_second_is_safe() -> bool:
        for node, trials in seen.items():
            trials |= trained_on(folder, node)
        if not seen["first"]:
            return False
        for trial_id in trained_on(folder, "second"):
            stored = storage / "tiny" / "trials" / trial_id
            if list(stored.glob("checkpoints/*.json")) and not (stored / "result.json").exists():
                lost.append(trial_id)
        return bool(lost)

    until(both_train_and_a_checkpoint_of_the_second_is_safe, driver, said)
    (folder / "lose").touch()
    assert driver.wait(PATIENCE_S) in (0, 1), said.read_text()
    assert cluster.poll() is None
    sweep_dir = tmp_path / "two" / "tiny"
    events = [json.loads(line) for line in (sweep_dir / "journal.jsonl").read_text().splitlines()]
    assert lost[0] in {e["data"]["trial_id"] for e in events if e["kind"] == "trial_lost"}
    (moved,) = [
        e["data"]["result"]
        for e in events
        if e["kind"] == "trial_finished" and e["data"]["trial_id"] == lost[0]
    ]
    # From its checkpoint, not from its start; and the driver was told what all attempts cost.
    assert moved["attempts"] >= 2
    assert moved["steps"] <= moved["steps_executed"] < 2 * moved["steps"]
    assert steps_executed(sweep_dir / "trials" / lost[0]) == moved["steps_executed"]
    for name in ("RESAMPLES", "write_report"):  # put back afterwards
        monkeypatch.setattr(outcome, name, getattr(outcome, name))
    small_answer()
    text = BUDGET.format(executor="inline", more="")
    calm = RunRequest(
        budget=parse_budget(text),
        text=text,
        base=tmp_path,
        outputs=tmp_path / "calm",
        ask=False,
        quiet=True,
    )
    assert run_budget(calm, Console(stderr=True)) is not None
    prints = {table_print(tmp_path / name / "tiny" / "losses.csv") for name in ("two", "calm")}
    assert len(prints) == 1
