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


def test_a_linear_cooldown_is_a_straight_line_to_the_floor() -> None:
    schedule = ScheduleConfig(name="wsd", cooldown_steps=10, cooldown="linear", floor=0.5)
    values = [multiplier(s, 30, schedule) for s in range(30)]
    assert values[:20] == [1.0] * 20
    assert values[24] == pytest.approx(0.75)
    assert values[29] == pytest.approx(0.5)


def test_linear_decay_over_a_fixed_length_follows_the_second_diary() -> None:
    # 0.001 at step 100, then down by 0.00099 over 50,000 steps; our update s is its step s + 1.
    schedule = ScheduleConfig(name="linear", warmup_steps=100, decay_steps=50_000, floor=0.01)
    rates = {s: 1e-3 * multiplier(s - 1, 60_000, schedule) for s in (1, 100, 629, 50_100, 60_000)}
    assert rates[1] == pytest.approx(1e-5)
    assert rates[100] == 1e-3
    assert rates[629] == pytest.approx(0.000990, abs=5e-7)
    assert rates[50_100] == pytest.approx(1e-5)
    assert rates[60_000] == pytest.approx(1e-5)


def test_linear_decay_without_a_length_ends_with_the_run() -> None:
    schedule = ScheduleConfig(name="linear", warmup_steps=10, floor=0.1)
    values = [multiplier(s, 110, schedule) for s in range(110)]
    assert values[9] == 1.0
    assert values[59] == pytest.approx(0.55)
    assert values[109] == pytest.approx(0.1)


def test_points_are_joined_by_straight_lines() -> None:
    knots = ((0, 0.0), (5000, 1.0), (6000, 0.5), (15000, 0.1))
    schedule = ScheduleConfig(name="points", points=knots)
    values = {s: multiplier(s - 1, 20_000, schedule) for s in (1, 2500, 5000, 5500, 15000, 20_000)}
    assert values == pytest.approx(
        {1: 0.0002, 2500: 0.5, 5000: 1.0, 5500: 0.75, 15000: 0.1, 20_000: 0.1}
    )
    late = ScheduleConfig(name="points", points=((10, 0.5), (20, 1.0)))
    assert multiplier(0, 30, late) == 0.5


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (ScheduleConfig(name="wsd", warmup_steps=6, cooldown_steps=5), "give them 10 steps"),
        (ScheduleConfig(name="cosine", warmup_steps=11), "must fit into the run"),
        (ScheduleConfig(name="cosine", warmup_steps=-1), "must fit into the run"),
        (ScheduleConfig(name="points"), "ascending steps"),
        (ScheduleConfig(name="points", points=((2, 1.0), (2, 0.5))), "ascending steps"),
        (ScheduleConfig(name="points", points=((11, 1.0),)), "within the 10 steps"),
        (ScheduleConfig(name="cosine", floor=1.5), r"floor must lie in \[0, 1\]"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule: ScheduleConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiplier(0, 10, schedule)
