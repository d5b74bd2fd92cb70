"""The allocator's settings and the measured peak."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from trainer.memory import keep_freed_memory, peak_resident_bytes


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
