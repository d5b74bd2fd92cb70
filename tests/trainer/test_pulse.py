"""The pulse says where a run is and how long it may be silent; silence leaves a stack dump."""

from __future__ import annotations

import time
from pathlib import Path

from trainer.pulse import MEDIANS, PULSE, STACKS, Heart, read_pulse


def test_a_heart_announces_itself_at_once_and_work_without_signs_by_what_steps_took(
    tmp_path: Path,
) -> None:
    heart = Heart(tmp_path, attempt=3, patience_s=50.0)
    first = read_pulse(tmp_path)
    assert first is not None
    assert (first.attempt, first.step, first.silence_s) == (3, 0, 50.0)
    heart._durations.extend([4.0, 5.0, 60.0])
    heart.expect(7, steps=10)
    second = read_pulse(tmp_path)
    heart.close()
    assert second is not None
    assert second.beat > first.beat
    assert second.silence_s == MEDIANS * 5.0 * 10


def test_silence_writes_where_every_thread_stands(tmp_path: Path) -> None:
    heart = Heart(tmp_path, attempt=1, patience_s=0.01)
    deadline = time.monotonic() + 60
    while not (tmp_path / STACKS.format(attempt=1)).read_text().count("most recent call first"):
        assert time.monotonic() < deadline
    heart.close()
    assert "test_silence_writes_where" in (tmp_path / STACKS.format(attempt=1)).read_text()


def test_a_run_that_never_stood_still_leaves_no_stacks(tmp_path: Path) -> None:
    heart = Heart(tmp_path, attempt=1, patience_s=600.0)
    heart.step(1)
    heart.close()
    assert not (tmp_path / STACKS.format(attempt=1)).exists()


def test_without_patience_nothing_is_written(tmp_path: Path) -> None:
    heart = Heart(tmp_path, attempt=1, patience_s=0.0)
    heart.step(1)
    heart.expect(1, steps=5)
    heart.close()
    assert list(tmp_path.iterdir()) == []


def test_a_pulse_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_pulse(tmp_path) is None
    (tmp_path / PULSE).write_text("{")
    assert read_pulse(tmp_path) is None
