"""Kills of driver, worker and everything: the table is that of an undisturbed sweep."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from faults.matrix import Trial, row
from faults.rayspecimen import RaySweep
from faults.specimen import Place, until

OUTCOME_WRITES = 6
"""Renames and fsyncs of table, fit and report at which an outcome can die; one more without a
report from before."""


@row("driver-kill")
def test_a_killed_driver_costs_nothing_but_time(trial: Trial, place: Place, calm: Place) -> None:
    place.budget(tracking=True)
    identical = kills = duplicates = 0
    number = 0
    while kills < trial.times:
        outputs, number = f"out{number}", number + 1
        left = min(trial.random.randint(1, 4), trial.times - kills)
        command = place.run(outputs)
        for _ in range(left):
            lines = place.steps_logged(outputs) + trial.random.randint(1, 120)
            if not command.reaches(lambda n=lines, o=outputs: place.steps_logged(o) >= n, "steps"):
                break
            command.kill()
            kills += 1
            command = place.resume(outputs)
        place.finish(command)
        assert place.print_of(outputs) == calm.print_of(), f"{outputs} differs"
        identical = kills
        runs = place.runs(outputs)
        duplicates += len(runs) - len({run["trial_id"] for run in runs})
        assert len(runs) == len(place.rows(outputs))
        assert {run["status"] for run in runs} == {"FINISHED"}
    assert duplicates == 0
    trial.record(f"{identical} of {kills} identical, {duplicates} duplicate runs")


@row("outcome-kill")
def test_a_kill_within_the_report_leaves_no_torn_file(
    trial: Trial, place: Place, calm: Place
) -> None:
    place.budget()
    place.whole_answer = True
    place.finish(place.run())
    whole = answer(place.sweep_dir())
    kept = place.folder / "kept"
    shutil.copytree(place.folder / "out", kept)
    torn = 0
    for _ in range(trial.times):
        shutil.rmtree(place.folder / "out")
        shutil.copytree(kept, place.folder / "out")
        journal = place.sweep_dir() / "journal.jsonl"
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))
        first = trial.random.random() < 0.5
        if first:
            shutil.rmtree(place.sweep_dir() / "report")
        nth = trial.random.randint(1, OUTCOME_WRITES + first)
        dying = place.run(patches={"die_in_outcome": {"nth": nth}})
        assert dying.wait() == -signal.SIGKILL, dying.err
        for file in (place.sweep_dir() / "fit.json", place.sweep_dir() / "losses.csv"):
            torn += file.read_bytes() != whole[str(file.relative_to(place.sweep_dir()))]
        place.finish(place.run())
        assert answer(place.sweep_dir()) == whole
    assert torn == 0
    assert place.print_of() == calm.print_of()
    trial.record(f"{torn} of {trial.times} torn, every report written again byte for byte")


def answer(sweep_dir: Path) -> dict[str, bytes]:
    """Table, fit and report, byte for byte."""
    names = ["losses.csv", "fit.json"]
    names += [str(p.relative_to(sweep_dir)) for p in (sweep_dir / "report").rglob("*.*")]
    return {name: (sweep_dir / name).read_bytes() for name in sorted(names)}


@row("power-cut")
def test_what_was_announced_survives_a_power_cut(trial: Trial, place: Place, calm: Place) -> None:
    place.budget()
    announced = kept = 0
    for number in range(trial.times):
        outputs, disk = f"out{number}", place.folder / f"disk{number}"
        wanted = trial.random.randint(2, 4)
        sweep_dir = str(place.sweep_dir(outputs))
        command = place.run(outputs, patches={"power": {"sweep_dir": sweep_dir, "disk": str(disk)}})
        assert command.reaches(lambda c=command, n=wanted: c.err.count("held-out") >= n, "trials")
        said = command.err.count("held-out")
        command.kill()
        shutil.copytree(place.sweep_dir(outputs), place.folder / f"seen{number}")
        for path in sorted(place.sweep_dir(outputs).rglob("*")):
            if path.is_file():
                path.unlink()
        shutil.copytree(disk, place.sweep_dir(outputs), dirs_exist_ok=True)
        announced += said
        kept += min(said, place.happened(outputs, "trial_finished"))
        assert kept == announced, "a trial that was announced is not in the journal"
        place.finish(place.run(outputs))
        assert place.print_of(outputs) == calm.print_of()
    trial.record(f"{kept} of {announced} announced trials kept, {trial.times} tables identical")


@row("rerun")
def test_a_finished_sweep_run_again_trains_nothing(trial: Trial, place: Place) -> None:
    place.budget()
    place.whole_answer = True
    place.finish(place.run())
    before = {p: p.read_bytes() for p in place.sweep_dir().rglob("*") if p.is_file()}
    begun = time.monotonic()
    reply = place.finish(place.run())
    after = {p: p.read_bytes() for p in place.sweep_dir().rglob("*") if p.is_file()}
    assert reply["trained"] == 0
    assert {p for p in before | after if before.get(p) != after.get(p)} == set()
    trial.record(f"0 trained, 0 bytes changed, {time.monotonic() - begun:.1f} s")


@row("worker-kill")
def test_a_killed_worker_costs_nothing_but_time(trial: Trial, place: Place, calm: Place) -> None:
    kills = number = 0
    replayed = 0
    while kills < trial.times:
        sweep = RaySweep(place, f"out{number}")
        number += 1
        for _ in range(min(12, trial.times - kills)):
            if not sweep.hit(signal.SIGKILL, trial.random.randint(2, 25)):
                break
            kills += 1
        sweep.finish()
        assert place.print_of(sweep.outputs) == calm.print_of()
        replayed += sweep.replayed()
    trial.record(f"{kills} of {kills} identical, {replayed / kills:.0f} steps replayed per kill")


@row("kill-all")
def test_a_kill_of_everything_costs_nothing_but_time(
    trial: Trial, place: Place, calm: Place
) -> None:
    kills = number = 0
    while kills < trial.times:
        outputs, number = f"out{number}", number + 1
        for _ in range(min(3, trial.times - kills)):
            sweep = RaySweep(place, outputs)
            if not sweep.trains(trial.random.randint(2, 25)):
                break
            family = sweep.command.family()
            for process in [*family, *family]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            sweep.command.wait()
            kills += 1
        RaySweep(place, outputs).finish()
        assert place.print_of(outputs) == calm.print_of()
    assert RaySweep.left_behind(place) == []
    trial.record(f"{kills} of {kills} identical, 0 processes left")


@row("neighbours")
def test_a_sweep_minds_its_own_ray(trial: Trial, place: Place, calm: Place) -> None:
    stale = place.folder / "ray"
    stale.mkdir()
    (stale / "ray_current_cluster").write_text("127.0.0.1:1")
    with taken(6379, 8265, 5000):
        bystander = place.command("faults.bystander:main")
        # One that fell over at its start is said at once, with its reason.
        came = bystander.reaches((place.folder / "bystander").exists, "a neighbour's Ray")
        assert came, bystander.err
        pids = json.loads((place.folder / "bystander").read_text())
        sweeps = [RaySweep(place, outputs) for outputs in ("one", "two")]
        for sweep in sweeps:
            sweep.finish()
            assert place.print_of(sweep.outputs) == calm.print_of()
        assert all(psutil.pid_exists(pid) for pid in pids), "a neighbour's Ray was ended"
        bystander.signal(signal.SIGTERM)
        bystander.wait()
    trial.record(f"2 of 2 identical beside a Ray of {len(pids)} processes, which lives")


@contextlib.contextmanager
def taken(*ports: int) -> Iterator[None]:
    """Listen on ports of this machine; one that somebody holds already is as good."""
    with contextlib.ExitStack() as listeners:
        for port in ports:
            listener = listeners.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


@row("node-lost")
def test_a_lost_node_costs_nothing_but_time(trial: Trial, place: Place, calm: Place) -> None:
    cluster = place.command("faults.cluster:main")
    until(lambda: (place.folder / "cluster").exists() or cluster.ended, "a cluster of two nodes")
    assert not cluster.ended, cluster.err
    address = (place.folder / "cluster").read_text()
    sweep = RaySweep(place, "out0", run=f"stalled_after: 5min, slots: 2, address: '{address}'")
    assert sweep.trains(trial.random.randint(2, 25)), sweep.command.err
    (place.folder / "lose").touch()
    until(lambda: (place.folder / "lost").exists() or cluster.ended, "the end of a node")
    sweep.finish()
    assert place.print_of("out0") == calm.print_of()
    moved = place.happened("out0", "trial_lost")
    cluster.signal(signal.SIGTERM)
    cluster.wait()
    trial.record(f"identical, {moved} trials moved")


@row("old-state")
def test_a_sweep_of_an_earlier_release_goes_on(trial: Trial, place: Place) -> None:
    kept = Path(__file__).parent / "fixtures" / "release-0.1.0"
    shutil.copytree(kept, place.folder, dirs_exist_ok=True)
    journal = place.sweep_dir() / "journal.jsonl"
    events = place.events()
    done = {e["data"]["trial_id"]: e for e in events if e["kind"] == "trial_finished"}
    assert done
    lines = len(events)
    os.chmod(journal, 0o600)
    place.finish(place.run())
    later = [e for e in place.events()[lines:] if e["kind"].startswith("trial_")]
    assert later
    assert not {e["data"]["trial_id"] for e in later} & set(done)
    losses = {r["trial_id"]: float(r["loss"]) for r in place.rows()}
    for trial_id, event in done.items():
        assert losses[trial_id] == event["data"]["result"]["loss"]
    trial.record(f"{len(done)} finished trials kept, {len(losses)} in the table")
