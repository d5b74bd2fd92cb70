"""Quantities as people write them."""

from __future__ import annotations

import pytest

from orchestrator.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_count,
    parse_flops,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50M", 5e7),
        ("1.5B", 1.5e9),
        ("2G", 2e9),
        ("10k", 1e4),
        ("1e9", 1e9),
        (7, 7.0),
        ("1_000", 1e3),
    ],
)
def test_counts_take_suffixes(text: object, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e18", 1e18), ("2 EFLOP", 2e18), ("500 PFLOPs", 5e17), ("1e18 FLOPs", 1e18), (3e12, 3e12)],
)
def test_compute_takes_units(text: object, value: float) -> None:
    assert parse_flops(text) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("90min", 5400),
        ("1h30m", 5400),
        ("2d", 172800),
        ("45s", 45),
        ("1.5 h", 5400),
    ],
)
def test_durations_take_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["5X", "M", "", "1 2", True, None, "inf", ".nan", "-inf"])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown suffix"):
        parse_count(text)


def test_a_rate_is_not_an_amount_of_compute() -> None:
    with pytest.raises(ValueError, match="is a rate"):
        parse_flops("10 TFLOPS")


@pytest.mark.parametrize("text", [24, "24", "h", "24 hours ago", True])
def test_a_duration_without_a_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_600_000, "12.6M"),
        (999_999, "1M"),
        (1234, "1.23k"),
        (48.8, "48.8"),
        (1.5e9, "1.5B"),
        (0, "0"),
    ],
)
def test_counts_are_written_with_three_digits(value: float, text: str) -> None:
    assert format_count(value) == text


def test_durations_and_sizes_are_written_for_people() -> None:
    assert format_duration(42.3) == "42 s"
    assert format_duration(250) == "4 min 10 s"
    assert format_duration(97200) == "1 d 3 h"
    assert format_duration(float("nan")) == "unknown"
    assert format_bytes(1.5 * 2**30) == "1.5 GiB"
