"""A trial is stuck when its pulse stands still for longer than it may, by the watcher's clock."""

from __future__ import annotations

import pytest

from orchestrator.vigil import START, Vigil
from trainer.pulse import Pulse


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def pulse(beat: int, *, silence_s: float = 10.0, step: int = 5) -> Pulse:
    return Pulse(attempt=1, beat=beat, step=step, silence_s=silence_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_trial_whose_pulse_changes_is_never_stuck(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    for beat in range(50):
        clock.now += 9
        assert vigil.stalled({"a": pulse(beat)}) == {}


def test_silence_longer_than_announced_is_found_with_its_step(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": None, "b": None})
    vigil.stalled({"a": pulse(1), "b": pulse(1, silence_s=1000)})
    clock.now += 11
    found = vigil.stalled({"a": pulse(1), "b": pulse(1, silence_s=1000)})
    assert set(found) == {"a"}
    assert (found["a"].step, found["a"].seconds) == (5, 11)


def test_the_pulse_of_a_former_attempt_is_no_sign_and_a_start_may_take_longer(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += START * 10
    assert vigil.stalled({"a": pulse(7)}) == {}
    clock.now += 1
    assert vigil.stalled({"a": pulse(7)})["a"].step is None


def test_a_trial_that_left_is_forgotten(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += 500
    vigil.stalled({})
    assert vigil.stalled({"a": pulse(7)}) == {}


def test_no_patience_means_no_vigil(clock: Clock) -> None:
    vigil = Vigil(patience_s=0, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += 1e9
    assert vigil.stalled({"a": pulse(7)}) == {}
