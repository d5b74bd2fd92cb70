"""Numbers in a message: no exponents where a person counts in thousands."""

import numpy as np
import pytest

from analysis.checks import Facts, run_checks
from analysis.numerals import spell, spell_range


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000.0, "1,000"),
        (10_714.3, "10,700"),
        (2_345_678, "2,350,000"),
        (999.6, "1,000"),
        (183.2, "183"),
        (5.8, "5.8"),
        (10.0, "10"),
        (0.00123, "0.00123"),
        (np.float64(3800.0), "3,800"),
        (1e9, "1e+09"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_has_its_digits_and_commas(value, text):
    assert spell(value) == text


def test_digits_are_as_many_as_asked():
    assert spell(9012.0, 2) == "9,000"


def test_no_rule_speaks_in_exponents():
    facts = Facts(
        n_points=20,
        n_distinct=20,
        n_sizes=5,
        n_tokens=5,
        levels_tested=4,
        levels_accepted=4,
        levels_at_edge=0,
        span_flops=1e3,
        span_ratio=2e4,
        ratio_range=(1e3, 2e7),
        extrapolation=3.8e3,
        ratio=1234.0,
        fold95=1.07e4,
        headline="chinchilla",
        max_epochs=9e3,
    )
    words = " ".join(check.message for check in run_checks(facts))
    assert "e+0" not in words
    for said in (
        "spans 1,000x and D/N 20,000x",
        "3,800x the largest",
        "spans 10,700x",
        "9,000 pas",
    ):
        assert said in words


@pytest.mark.parametrize(
    ("ends", "text"), [((1.32926, 1.35941), "[1.329, 1.359]"), ((0.0, 1.35898), "(at most 1.359)")]
)
def test_an_interval_that_reaches_zero_is_a_bound(ends, text):
    assert spell_range(ends) == text
