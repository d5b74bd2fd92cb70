"""Knots of the learning-rate schedules; row R4."""

from __future__ import annotations

import itertools
import math

import pytest

from trainer.config import ScheduleConfig
from trainer.schedule import multiplier


def test_cosine_warms_up_linearly_and_ends_at_the_floor() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_steps=10, floor=0.1)
    values = [multiplier(s, 110, schedule) for s in range(110)]
    assert values[0] == 0.1
    assert values[4] == 0.5
    assert values[9] == 1.0
    assert values[59] == pytest.approx(0.55)
    assert values[109] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(values[9:]))


def test_wsd_is_flat_and_cools_down_by_one_minus_the_root() -> None:
    schedule = ScheduleConfig(name="wsd", warmup_steps=4, cooldown_steps=20)
    values = [multiplier(s, 100, schedule) for s in range(100)]
    assert values[3:80] == [1.0] * 77
    assert values[84] == pytest.approx(1 - math.sqrt(5 / 20))
    assert values[99] == 0.0


def test_a_run_without_warmup_starts_at_the_peak() -> None:
    assert multiplier(0, 10, ScheduleConfig(name="wsd", cooldown_steps=2)) == 1.0
    assert multiplier(0, 1, ScheduleConfig(name="wsd")) == 1.0
    assert multiplier(0, 1, ScheduleConfig(name="cosine", warmup_steps=1)) == 1.0


def test_wsd_runs_of_different_length_share_everything_before_the_cooldown() -> None:
    schedule = ScheduleConfig(name="wsd", warmup_steps=4, cooldown_steps=20)
    short = [multiplier(s, 100, schedule) for s in range(80)]
    assert short == [multiplier(s, 400, schedule) for s in range(80)]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (ScheduleConfig(name="wsd", warmup_steps=6, cooldown_steps=5), "give them 10 steps"),
        (ScheduleConfig(name="cosine", warmup_steps=11), "must fit into the run"),
        (ScheduleConfig(name="cosine", warmup_steps=-1), "must fit into the run"),
        (ScheduleConfig(name="cosine", floor=1.5), r"floor must lie in \[0, 1\]"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule: ScheduleConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiplier(0, 10, schedule)
