"""The journal: durable, one writer, torn tails cut, damage refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import StateRefused
from orchestrator.journal import JOURNAL, Journal, read_state, write_atomic
from orchestrator.state import EventKind


def opened(sweep_dir: Path) -> None:
    with Journal(sweep_dir, clock=lambda: 1.0) as journal:
        journal.append(EventKind.SWEEP_OPENED, name="x", budget_flops=1.0)
        journal.append(EventKind.SWEEP_FITTED, status="weak", message="m")


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    opened(tmp_path)
    state = read_state(tmp_path)
    assert state.opened is not None
    assert state.opened["name"] == "x"
    assert state.fit == {"status": "weak", "message": "m"}
    with Journal(tmp_path) as journal:
        assert journal.append(EventKind.SWEEP_FINISHED, exit_code=0).seq == 2
    assert read_state(tmp_path).finished


@pytest.mark.parametrize("keep", [1, 10, -1])
def test_a_torn_last_line_is_cut_off_and_the_journal_goes_on(tmp_path: Path, keep: int) -> None:
    opened(tmp_path)
    path = tmp_path / JOURNAL
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:keep])
    assert read_state(tmp_path).fit is None
    with Journal(tmp_path) as journal:
        assert journal.state.fit is None
        journal.append(EventKind.SWEEP_FINISHED, exit_code=0)
    assert read_state(tmp_path).finished
    assert path.read_bytes().count(b"\n") == 2


def test_a_changed_line_in_the_middle_is_refused_with_its_number(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"name":"x"', b'"name":"y"'))
    with pytest.raises(StateRefused, match=r"must be whole") as error:
        read_state(tmp_path)
    assert error.value.faults[0].place.endswith(f"{JOURNAL}:1")


def test_a_removed_line_is_noticed(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / JOURNAL
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(second + b"\n" + first + b"\n")
    with pytest.raises(StateRefused, match="must be whole"):
        read_state(tmp_path)


def test_a_second_driver_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrator.journal import Journal\n"
        "with Journal(Path(sys.argv[1])): pass"
    )
    with Journal(tmp_path):
        second = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode != 0
    assert f"held by process {os.getpid()}" in second.stderr
    opened(tmp_path)


def test_a_folder_without_a_journal_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match="holds a journal"):
        read_state(tmp_path)


def test_state_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    opened(folder)
    write_atomic(folder / "plan.json", "{}")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (JOURNAL, "plan.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_non_finite_numbers_never_enter_the_journal(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(EventKind.SWEEP_OPENED, name="x", budget_flops=float("nan"))
    assert (tmp_path / JOURNAL).read_bytes() == b""


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_bytes_are_a_journal_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / JOURNAL).write_bytes(data)
    try:
        read_state(folder)
    except StateRefused as error:
        assert error.faults[0].code == "SWP-5003"


def test_lines_are_readable_json_with_a_checksum(tmp_path: Path) -> None:
    opened(tmp_path)
    record = json.loads((tmp_path / JOURNAL).read_text().splitlines()[0])
    assert record["kind"] == "sweep_opened"
    assert len(record["crc"]) == 8
