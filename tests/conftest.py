"""What every test leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def trainers_log() -> Iterator[None]:
    """A command that runs in this process quietens the trainer's log; the next test hears it."""
    log = logging.getLogger("trainer")
    level = log.level
    yield
    log.setLevel(level)
