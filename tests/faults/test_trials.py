"""What happens within a trial: memory, numbers that are none, checkpoints, threads."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.matrix import Trial, row
from faults.specimen import Command, Place, Zygote, table_print, until


@pytest.fixture
def victim(calm: Place) -> dict[str, str]:
    """A row of the undisturbed table: the trial that suffers."""
    return calm.rows()[1]


def of_others(place: Place, victim: str, tmp: Path) -> str:
    """Fingerprint of the table without one trial."""
    rows = [r for r in place.rows() if r["trial_id"] != victim]
    with tmp.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return table_print(tmp)


@row("host-memory")
def test_a_trial_that_asks_for_too_much_fails_alone(
    trial: Trial, place: Place, calm: Place
) -> None:
    last = calm.rows()[-1]["trial_id"]
    place.budget()
    place.finish(place.run(patches={"devour": {"victim": last}}))
    rows = {r["trial_id"]: r for r in place.rows()}
    assert "MemoryError" in rows[last]["excluded"]
    others = of_others(place, last, place.folder / "a.csv")
    assert others == of_others(calm, last, place.folder / "b.csv")
    trial.record("failed with its reason, the others identical")


@row("gpu-memory")
def test_the_micro_batch_is_halved_until_it_fits(trial: Trial, place: Place, calm: Place) -> None:
    place.budget()
    place.finish(place.run(patches={"little_memory": {"sequences": 4}}))
    first, other = calm.rows()[0], place.rows()[0]
    assert first["trial_id"] == other["trial_id"]
    deviation = abs(float(first["loss"]) - float(other["loss"]))
    assert deviation < 1e-3
    results = [e["data"]["result"] for e in place.events() if e["kind"] == "trial_finished"]
    for result in results:
        assert any("micro-batches of 4" in note for note in result["notes"])
    trial.record(f"batch kept, said in every result, loss within {deviation:.1e} nats")


@row("not-a-number")
def test_a_diverged_trial_is_listed_and_left_out(trial: Trial, place: Place, calm: Place) -> None:
    last = calm.rows()[-1]
    for number in range(trial.times):
        outputs = f"out{number}"
        factor = ("nan", "inf")[number % 2]
        step = trial.random.randint(1, int(last["steps"]) - 1)
        fault = {"victim": last["trial_id"], "step": step, "factor": factor}
        place.budget()
        reply = place.finish(place.run(outputs, patches={"poison": fault}))
        rows = {r["trial_id"]: r for r in place.rows(outputs)}
        assert reply["trials"]["diverged"] == 1
        assert f"at step {step}" in rows[last["trial_id"]]["excluded"]
        with_it, without_it = fits(place, outputs, last["trial_id"])
        assert with_it == without_it
    trial.record(f"{trial.times} of {trial.times} listed, fit equal to the last digit")


def fits(place: Place, outputs: str, victim: str) -> tuple[Any, Any]:
    """The fit of a table, and of the table without one row."""
    table = place.sweep_dir(outputs) / "losses.csv"
    without = place.folder / "without.csv"
    lines = table.read_text().splitlines(keepends=True)
    without.write_text("".join(line for line in lines if not line.startswith(victim)))
    found = []
    for path in (table, without):
        command = place.sweep("fit", "--table", str(path), "--json", "--target-flops", "1e11")
        command.wait()
        reply = command.reply
        found.append((reply["laws"], reply["isoflop"], reply["optimum"], reply["n_points"]))
    return found[0], found[1]


@row("spike")
def test_one_bad_step_does_not_make_a_bad_trial(trial: Trial, place: Place, calm: Place) -> None:
    last = calm.rows()[-1]
    fault = {"victim": last["trial_id"], "step": 20, "factor": "10"}
    place.budget()
    reply = place.finish(place.run(patches={"poison": fault}))
    assert reply["trials"]["completed"] == len(calm.rows())
    assert place.print_of() == calm.print_of()
    trial.record("completed, held-out losses identical")


@pytest.fixture(scope="module")
def killed(zygote: Zygote, calm: Place) -> Iterator[Place]:
    """A sweep whose last trial was killed with two checkpoints written and steps to go."""
    folder = Path(tempfile.mkdtemp(prefix="flt-"))
    place = Place(folder, zygote, calm.folder / "out" / "mlflow.db")
    place.budget()
    command = place.run(patches={"linger": {"seconds": 0.01}})
    trial = place.sweep_dir() / "trials" / calm.rows()[-1]["trial_id"]
    assert command.reaches(lambda: len(list(trial.glob("checkpoints/*.json"))) >= 2, "two")
    command.kill()
    assert not (trial / "result.json").exists()
    yield place
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def torn(place: Place, killed: Place, calm: Place) -> Callable[[str], Path]:
    """Copies of the killed trial's folder in a workplace of their own."""
    kept = killed.sweep_dir() / "trials" / calm.rows()[-1]["trial_id"]
    data = next((killed.folder / "out" / "data").glob("*/manifest.json")).parent
    (place.folder / "tokens").symlink_to(data)

    def copy(name: str) -> Path:
        shutil.copytree(kept, place.folder / name)
        return place.folder / name

    return copy


def train(place: Place, folder: Path, **options: Any) -> Command:
    """Go on with one trial alone."""
    return place.command(
        "trainer.__main__:main",
        f"{folder.name}/config.json",
        "--data",
        "tokens",
        "--out",
        folder.name,
        "--checkpoint-every",
        "0.02",
        "--no-samples",
        "--quiet",
        **options,
    )


def loss_of(place: Place, folder: Path, **options: Any) -> dict[str, Any]:
    """The result of a trial that must complete."""
    command = train(place, folder, **options)
    assert command.wait() == 0, command.err
    return command.reply


@row("corrupt-checkpoint")
def test_a_bad_checkpoint_is_found_and_passed_over(
    trial: Trial, place: Place, calm: Place, torn: Callable[[str], Path]
) -> None:
    loss = float(calm.rows()[-1]["loss"])
    found = 0
    for number in range(trial.times):
        folder = torn(f"edit{number}")
        said = spoil(trial, folder / "checkpoints", number)
        result = loss_of(place, folder)
        assert result["loss"] == loss
        assert any("checkpoint passed over" in note for note in result["notes"]) or not said
        found += 1
        shutil.rmtree(folder)
    trial.record(f"{found} of {trial.times} found, {found} losses identical")


def spoil(trial: Trial, folder: Path, number: int) -> bool:
    """Damage the newest checkpoint; whether a manifest still says that there is one."""
    manifests = sorted(folder.glob("*.json"))
    newest, older = manifests[-1], manifests[-2]
    data = bytearray(newest.with_suffix(".pt").read_bytes())
    kind = ("flip", "flip", "cut", "empty", "missing", "other")[number % 6]
    if kind == "flip":
        # Behind the headers lie the numbers: torch reads a flip there without complaint.
        place = trial.random.randrange(len(data))
        data[place] ^= 1 << trial.random.randrange(8)
    elif kind == "cut":
        del data[trial.random.randrange(len(data)) :]
    elif kind == "empty":
        data.clear()
    elif kind == "other":
        data = bytearray(older.with_suffix(".pt").read_bytes())
    newest.with_suffix(".pt").write_bytes(bytes(data))
    if kind == "missing":
        newest.with_suffix(".pt").unlink()
    return True


@row("no-checkpoint")
def test_without_any_checkpoint_a_trial_begins_again_and_says_so(
    trial: Trial, place: Place, calm: Place, torn: Callable[[str], Path]
) -> None:
    folder = torn("edit")
    for path in (folder / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    result = loss_of(place, folder)
    assert result["loss"] == float(calm.rows()[-1]["loss"])
    assert any("training again from step 0" in note for note in result["notes"])
    assert result["steps_executed"] > result["steps"]
    trial.record("trained again from step 0, said so, loss identical")


@row("checkpoint-kill")
def test_a_kill_within_a_checkpoint_costs_that_checkpoint(
    trial: Trial, place: Place, calm: Place, torn: Callable[[str], Path]
) -> None:
    points = ("write", "fsync", "rename", "manifest")
    identical = 0
    for number in range(trial.times):
        folder = torn(f"kill{number}")
        nth = trial.random.randint(1, 3)
        fault = {"point": points[number % 4], "nth": nth}
        slow = {"seconds": 0.005}
        dying = train(place, folder, patches={"die_in_checkpoint": fault, "linger": slow})
        assert dying.wait() == -signal.SIGKILL, dying.err
        result = loss_of(place, folder)
        assert result["loss"] == float(calm.rows()[-1]["loss"])
        identical += 1
        shutil.rmtree(folder)
    trial.record(f"{identical} of {trial.times} identical")


@row("threads")
def test_another_thread_count_is_said_in_the_result(
    trial: Trial, place: Place, torn: Callable[[str], Path]
) -> None:
    folder = torn("threads")
    command = place.command(
        "trainer.__main__:main",
        *("threads/config.json", "--data", "tokens", "--out", "threads", "--threads", "2"),
        *("--no-samples", "--quiet"),
    )

    def said() -> bool:
        bill = json.loads((folder / "attempts.json").read_text())
        return any("the last bits may differ" in note for note in bill["notes"])

    until(said, "a note of the changed environment")
    command.kill()
    trial.record("said in the result")


@row("clock")
def test_a_jumping_clock_changes_nothing(trial: Trial, place: Place, calm: Place) -> None:
    place.budget()
    place.finish(place.run(patches={"jumping_clock": {"seed": 7}}))
    assert place.print_of() == calm.print_of()
    durations = [float(r["wall_s"]) for r in place.rows()]
    assert min(durations) >= 0
    trial.record(f"table identical, least duration {min(durations):.1f} s")
