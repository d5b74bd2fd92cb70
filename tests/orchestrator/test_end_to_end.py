"""The whole product in real processes: kills, resume, one MLflow run per trial, real Ray."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.collect import WALL_CLOCK_COLUMNS

BUDGET = """\
name: tiny
budget: {{flops: 1e11}}
data: {{corpus: corpus.txt, validation_tokens: 4096}}
model: {{context: 32, family: gpt}}
training: {{batch_tokens: 128, min_steps: 40, learning_rate: 0.01}}
design: {{levels: [1.5e9, 4.5e9], sizes: 3, span: 2, tokens_per_parameter: 30}}
run: {{executor: {executor}, checkpoint_every: 0.2s}}
checks: {{diagnose: {diagnose}}}
"""
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "boil",
    "quiet",
    "vexing",
    "jam",
]


@dataclass(frozen=True)
class Calm:
    """What an undisturbed sweep of the budget ends with."""

    reply: dict[str, Any]
    table: list[dict[str, str]]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The sweep undisturbed, one trial after the other in its own process; trained once."""
    folder = with_corpus(tmp_path_factory.mktemp("calm"))
    reply = finish(sweep(folder, "run", "budget.yaml", "-y", "--json", "--outputs", "calm"))
    return Calm(reply=reply, table=table(folder, "calm"))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the corpus."""
    return with_corpus(tmp_path)


def with_corpus(folder: Path) -> Path:
    """The folder with a corpus; the names in it are relative, as a person would write them."""
    text = " ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(60_000))
    lines = (text[i : i + 400] for i in range(0, len(text), 400))
    (folder / "corpus.txt").write_text("\n".join(lines))
    return folder


def sweep(
    workplace: Path, *arguments: str, executor: str = "inline", diagnose: bool = False
) -> subprocess.Popen[str]:
    text = BUDGET.format(executor=executor, diagnose=str(diagnose).lower())
    (workplace / "budget.yaml").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=workplace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "SWEEP_DEBUG": "1"},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode in (0, 1), err
    return dict(json.loads(out))


def table(workplace: Path, outputs: str) -> list[dict[str, str]]:
    with (workplace / outputs / "tiny" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK_COLUMNS} for row in rows]


def children(workplace: Path, outputs: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{workplace / outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("isosweep")
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str], count: int) -> None:
    """Wait until `count` files match, or the process has ended."""
    while process.poll() is None and len(list(path.glob(pattern))) < count:
        time.sleep(0.01)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_sweep_killed_twice_ends_with_the_table_of_an_undisturbed_one(
    workplace: Path, calm: Calm
) -> None:
    arguments = ("run", "budget.yaml", "-y", "--json", "--outputs")
    count_of_trials = calm.reply["trials"]["completed"]
    assert count_of_trials >= 5
    trials = workplace / "hurt" / "tiny" / "trials"
    for pattern, count in (("*/metrics.jsonl", 1), ("*/result.json", 3)):
        process = sweep(workplace, *arguments, "hurt")
        wait_for(trials, pattern, process, count)
        assert process.poll() is None, "the sweep ended before it could be killed"
        kill_group(process)
    resumed = finish(sweep(workplace, *arguments, "hurt"))
    assert resumed["trials"] == calm.reply["trials"]
    assert table(workplace, "hurt") == calm.table
    runs = children(workplace, "hurt")
    assert len(runs) == count_of_trials
    assert len({run.data.tags["sweep.trial_id"] for run in runs}) == count_of_trials
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_ray_workers_give_the_table_that_this_process_gives_and_survive_a_killed_driver(
    workplace: Path, calm: Calm
) -> None:
    arguments = ("run", "budget.yaml", "-y", "--json", "--outputs", "ray")
    process = sweep(workplace, *arguments, executor="ray")
    wait_for(workplace / "ray" / "tiny" / "trials", "*/result.json", process, 2)
    kill_group(process)
    process = sweep(workplace, *arguments, executor="ray")
    out, err = process.communicate(timeout=240)
    code = {"complete": 0, "finished_with_failures": 1}[calm.reply["status"]]
    assert process.returncode == code, err
    reply = json.loads(out)
    assert reply["schema"] == "sweep.run/1"
    assert reply["fit"] == calm.reply["fit"]
    assert 0 < reply["charged_flops"] <= reply["budget_flops"]
    assert Path(reply["report"]).is_file()
    assert "ray" not in err.lower(), err
    assert table(workplace, "ray") == calm.table
    assert len(children(workplace, "ray")) == calm.reply["trials"]["completed"]


def test_ctrl_c_stops_a_real_sweep_with_its_code_and_the_next_run_finishes_it(
    workplace: Path,
) -> None:
    arguments = ("run", "budget.yaml", "-y", "--outputs", "out")
    process = sweep(workplace, *arguments, diagnose=True)
    wait_for(workplace / "out" / "tiny" / "trials", "*/result.json", process, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "sweep resume tiny --outputs out" in out
    assert "Traceback" not in err
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    again = finish(sweep(workplace, "resume", "tiny", "--outputs", "out", "--json"))
    assert again["trials"]["completed"] >= 5
    assert again["trials"]["running"] == again["trials"]["planned"] == 0
    examined = (workplace / "out" / "tiny" / "journal.jsonl").read_text().count("sweep_examined")
    assert examined == 1
