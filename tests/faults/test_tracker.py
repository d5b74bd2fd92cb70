"""MLflow away, slow, wrong or wiped: the sweep does not notice, and nothing is missing later."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.matrix import Trial, row
from faults.proxy import FaultyProxy
from faults.specimen import Place, expected_values, until

NAMES = ("train/", "validation/")


def missing(place: Place, outputs: str, database: Path | None = None) -> int:
    """Per-step values that MLflow lacks; fails on a trial with two runs or none."""
    runs = place.runs(outputs, database)
    rows = place.rows(outputs)
    assert sorted(run["trial_id"] for run in runs) == sorted(r["trial_id"] for r in rows)
    assert {run["parents"] for run in runs} == {1}
    lost = 0
    for run in runs:
        held = {value[:2] for value in run["values"] if value[0].startswith(NAMES)}
        lost += expected_values(place.sweep_dir(outputs), run["trial_id"]) - len(held)
    return lost


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def sync(place: Place, outputs: str) -> None:
    """`sweep sync`, which must succeed."""
    command = place.sweep("sync", "tiny", "--outputs", outputs, "--json")
    assert command.wait() == 0, command.err


@row("tracker-never")
def test_a_server_that_never_answers_costs_nothing(trial: Trial, place: Place, calm: Place) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    place.budget(tracking=True, uri=uri)
    reply = place.finish(place.run())
    assert reply["tracker"]
    assert place.print_of() == calm.print_of()
    figure = "table identical, the sweep says that MLflow is behind"
    if trial.full:
        delay = step_delay(place, uri)
        assert delay < 0.05, f"steps took {delay:+.1%} with the server away"
        figure += f"; step time {delay:+.1%} (median of 5 pairs)"
    trial.record(figure)


def step_delay(place: Place, uri: str) -> float:
    """By how much a dead server slows steps: the median of pairs that are run back to back."""
    delays = []
    for number in range(5):
        place.budget(tracking=False)
        place.finish(place.run(f"without{number}"))
        place.budget(tracking=True, uri=uri)
        place.finish(place.run(f"with{number}"))
        delays.append(step_time(place, f"with{number}") / step_time(place, f"without{number}") - 1)
    return statistics.median(delays)


def step_time(place: Place, outputs: str) -> float:
    """Seconds per token of the lower quartile of steps, the mean over trials."""
    found = []
    for file in sorted(place.sweep_dir(outputs).glob("trials/*/metrics.jsonl")):
        points = [json.loads(line) for line in file.read_text().splitlines()]
        rates = [p["tokens_per_s"] for p in points if p.get("tokens_per_s")]
        found.append(1 / statistics.quantiles(rates, n=4)[2])
    return statistics.fmean(found)


@row("tracker-wiped")
def test_a_wiped_store_is_built_again(trial: Trial, place: Place) -> None:
    place.budget(tracking=True)
    place.finish(place.run())
    before = {run["trial_id"]: run["values"] for run in place.runs()}
    for file in (place.folder / "out").glob("mlflow.db*"):
        file.unlink()
    sync(place, "out")
    after = {run["trial_id"]: run["values"] for run in place.runs()}
    assert after == before
    count = sum(len(values) for values in after.values())
    assert missing(place, "out") == 0
    trial.record(f"{count} of {count} values again, 0 lost")


@row("tracker-locked")
def test_a_locked_store_is_caught_up_with(trial: Trial, place: Place, calm: Place) -> None:
    place.budget(tracking=True)
    (place.folder / "out").mkdir()
    database = place.folder / "out" / "mlflow.db"
    database.write_bytes((calm.folder / "out" / "mlflow.db").read_bytes())
    holder = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    command = place.run()
    assert command.reaches(lambda: place.seen("out", "trials/*/result.json") >= 3, "three trials")
    holder.execute("ROLLBACK")
    holder.close()
    place.finish(command)
    assert place.print_of() == calm.print_of()
    sync(place, "out")
    assert missing(place, "out") == 0
    trial.record("table identical, 0 values lost")


@pytest.fixture
def server(tmp_path: Path, calm: Place) -> Iterator[tuple[int, Path]]:
    """A real MLflow server on a store that is ready."""
    database = tmp_path / "server.db"
    database.write_bytes((calm.folder / "out" / "mlflow.db").read_bytes())
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{database}"),
            *("--artifacts-destination", str(tmp_path / "artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(answers, "MLflow's server")
    yield port, database
    process.terminate()
    process.wait(60)


@row("tracker-faults")
def test_a_server_that_fails_in_every_way_is_caught_up_with(
    trial: Trial, place: Place, calm: Place, server: tuple[int, Path]
) -> None:
    port, database = server
    lost = 0
    modes = ("lost", "error", "slow", "reply-lost")[: trial.times]
    for mode in modes:
        with FaultyProxy(port, mode) as proxy:
            place.budget(tracking=True, uri=f"http://127.0.0.1:{proxy.port}")
            outputs = mode
            command = place.run(outputs)
            place.finish(command)
            assert place.print_of(outputs) == calm.print_of()
            assert proxy.faults > 0, "the fault was never met"
            proxy.heal()
            sync(place, outputs)
            lost += missing(place, outputs, database)
    assert lost == 0
    trial.record(f"{len(modes)} of {len(modes)} identical, {lost} values lost, no twin runs")
