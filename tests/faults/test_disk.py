"""Disks that take no more: a small file system of its own where the system allows to mount one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.matrix import Trial, row
from faults.specimen import Place


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """A tmpfs at a folder; False where mounting is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@row("disk-checkpoint")
def test_a_full_disk_pauses_the_sweep_and_room_lets_it_go_on(
    trial: Trial, place: Place, calm: Place
) -> None:
    place.budget()
    with small_disk(place.folder / "small", "24m") as mounted:
        if not mounted:
            pytest.skip("mounting a small file system needs rights that this user lacks")
        outputs = "small/out"
        filler = place.folder / "small" / "filler"
        command = place.run(outputs, patches={"linger": {"seconds": 0.03}})
        assert command.reaches(lambda: place.seen(outputs, "trials/*/result.json") >= 2, "two"), (
            command.err
        )
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert command.wait() == 3, command.err
        assert "SWP-3005" in command.err
        assert "No space left" in command.err
        assert "small/out" in command.err
        assert "Traceback" not in command.err
        finished = place.happened(outputs, "trial_finished")
        filler.unlink()
        # The report needs more than the trials did.
        subprocess.run(["mount", "-o", "remount,size=64m", str(place.folder / "small")], check=True)
        place.finish(place.run(outputs))
        assert place.happened(outputs, "trial_finished") == len(calm.rows())
        assert place.print_of(outputs) == calm.print_of()
    trial.record(f"exit 3 (tmpfs of 24 MB), {finished} finished trials kept, table identical")


@row("disk-journal")
def test_a_full_disk_leaves_no_half_line_in_the_journal(
    trial: Trial, place: Place, calm: Place
) -> None:
    place.budget()
    whole = (calm.sweep_dir() / "journal.jsonl").stat().st_size
    needed = trial.random.randint(whole // 2, whole - 10)
    fault = {"suffix": "journal.jsonl", "needed": needed}
    command = place.run(patches={"full_disk_for": fault})
    assert command.wait() == 3, command.err
    assert "SWP-3005" in command.err
    assert "journal.jsonl" in command.err
    content = (place.sweep_dir() / "journal.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert all(json.loads(line) for line in content.splitlines())
    kept = place.happened("out", "trial_finished")
    place.finish(place.run())
    assert place.print_of() == calm.print_of()
    trial.record(f"exit 3, {kept} finished trials kept, no half line, table identical")
