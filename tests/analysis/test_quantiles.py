"""Quantiles and tails against the library's own distributions."""

import numpy as np
import pytest
from scipy import stats

from analysis.quantiles import fisher_quantile, fisher_tail, normal_quantile, student_quantile

PROBABILITIES = (0.025, 0.5, 0.9, 0.975, 0.999)


@pytest.mark.parametrize("freedom", [1, 2, 7.5, 40, 1e6, np.inf])
@pytest.mark.parametrize("p", PROBABILITIES)
def test_students_quantiles_are_the_librarys(p: float, freedom: float) -> None:
    expected = stats.t.ppf(p, freedom)
    assert student_quantile(p, freedom) == pytest.approx(expected, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_normal_quantiles_are_the_librarys(p: float) -> None:
    assert normal_quantile(p) == stats.norm.ppf(p)


@pytest.mark.parametrize(("above", "below"), [(1, 1), (1, 23), (3, 8.5), (5, 1e6)])
@pytest.mark.parametrize("p", PROBABILITIES)
def test_fishers_quantiles_and_tails_are_the_librarys(p: float, above: float, below: float) -> None:
    quantile = fisher_quantile(p, above, below)
    assert quantile == pytest.approx(stats.f.ppf(p, above, below), rel=1e-14)
    assert fisher_tail(quantile, above, below) == pytest.approx(1 - p, rel=1e-9)
    assert fisher_tail(quantile, above, below) == stats.f.sf(quantile, above, below)
