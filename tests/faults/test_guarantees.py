"""The account of the matrix: what counts as held, what `make faults` exits with, what is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from faults import guarantees
from faults.matrix import ROWS


def entry(times: int, *, held: bool = True) -> dict[str, Any]:
    return {"held": held, "figure": "seen", "times": times, "seconds": 1.0, "date": "2026-11-29"}


def whole() -> dict[str, dict[str, Any]]:
    return {row.id: entry(row.full) for row in ROWS}


def exit_code(
    accounts: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> int:
    paths = []
    for number, account in enumerate(accounts):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(account))
    monkeypatch.setattr(sys, "argv", ["guarantees", *map(str, paths), *more])
    return guarantees.main()


def test_the_matrix_passes_only_if_every_row_held_at_its_full_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code([whole()], tmp_path, monkeypatch) == 0
    halves = [
        {row.id: entry(row.full) for row in ROWS if row.lane == lane} for lane in ("ray", "light")
    ]
    assert exit_code(halves, tmp_path, monkeypatch) == 0
    assert exit_code(halves[:1], tmp_path, monkeypatch) == 1
    assert exit_code([whole() | {"clock": entry(1, held=False)}], tmp_path, monkeypatch) == 1
    assert exit_code([whole() | {"worker-kill": entry(49)}], tmp_path, monkeypatch) == 1


def test_rows_that_a_run_did_not_reach_keep_their_earlier_figure_and_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    kept.write_text(json.dumps({"clock": {**entry(1), "date": "2026-01-02"}}))
    options = ("--kept", str(kept), "--write", str(page))
    assert exit_code([{"spike": entry(1)}], tmp_path, monkeypatch, *options) == 1
    text = page.read_text()
    assert "| 1 of 1 | 2026-01-02 | seen |" in text
    assert "| 1 of 1 | 2026-11-29 | seen |" in text
    assert "| 0 of 50 | – | not run yet |" in text
    assert set(json.loads(kept.read_text())) == {"clock", "spike"}


def test_a_row_that_failed_says_so_on_the_page() -> None:
    text = guarantees.page({"clock": entry(1, held=False)})
    assert "**failed** (seen)" in text
