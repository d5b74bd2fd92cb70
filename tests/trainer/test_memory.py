"""The allocator's settings and the measured peak."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from trainer.memory import (
    forget_resident_peak,
    keep_freed_memory,
    peak_resident_bytes,
    total_bytes,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_the_allocator_takes_the_settings() -> None:
    assert keep_freed_memory()


def test_the_peak_grows_with_what_is_touched_and_never_falls() -> None:
    before = peak_resident_bytes()
    touched = np.ones(before // 8 + 2**21)
    during = peak_resident_bytes()
    assert during >= before + 2**23
    del touched
    # The kernel's counter is exact to some hundred pages only.
    assert peak_resident_bytes() >= during - 2**21


def test_the_peak_of_earlier_work_can_be_forgotten() -> None:
    before = peak_resident_bytes()
    touched = np.ones(before // 8 + 2**23)
    during = peak_resident_bytes()
    del touched
    if not forget_resident_peak():
        pytest.skip("this system does not let a process forget its peak")
    assert peak_resident_bytes() < during - 2**25


def test_the_memory_of_this_machine_holds_what_is_resident() -> None:
    assert peak_resident_bytes() < total_bytes() < 2**50
