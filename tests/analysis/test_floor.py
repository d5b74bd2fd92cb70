"""The profile likelihood of the irreducible loss."""

import numpy as np
import pytest

from analysis.fit import fit_surface, pinned_exponents, tied_exponents
from analysis.floor import MAX_POINTS, profile_floor
from analysis.laws import Surface
from analysis.newton import Restriction, minimise
from analysis.priors import Prior
from analysis.quantiles import student_quantile

LAW = Surface(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.33)


def runs(*, noise=0.005, sizes=6, lengths=6, reach=100.0, seed=0):
    N, D = np.meshgrid(
        np.geomspace(1e6, 1e6 * reach, sizes), np.geomspace(2e7, 2e7 * reach, lengths)
    )
    rng = np.random.default_rng(seed)
    L = LAW.loss(N, D) * np.exp(noise * rng.standard_normal(N.shape))
    return N.ravel(), D.ravel(), L.ravel()


def test_where_the_law_is_nearly_linear_it_is_the_interval_of_the_covariance():
    fit = fit_surface(*runs(), restriction=pinned_exponents(0.34, 0.33))
    low, high = profile_floor(fit, confidence=0.9)
    half = student_quantile(0.95, fit.degrees_of_freedom) * np.sqrt(fit.covariance[2, 2])
    assert low == pytest.approx(fit.surface.E * np.exp(-half), rel=2e-3)
    assert high == pytest.approx(fit.surface.E * np.exp(half), rel=2e-3)


@pytest.mark.parametrize("restriction", [None, tied_exponents()], ids=["free", "tied"])
def test_at_each_end_the_best_law_with_that_floor_misses_by_the_threshold(restriction):
    fit = fit_surface(*runs(reach=1000.0), restriction=restriction)
    ends = profile_floor(fit, confidence=0.9)
    size, p = fit.data.size, fit.n_free
    basis = np.eye(5) if restriction is None else restriction.basis
    for end in ends:
        fixed = Restriction(
            basis=basis[basis[:, 2] == 0], offset=np.array([0, 0, np.log(end), 0, 0])
        )
        start = fit.theta.copy()
        start[2] = np.log(end)
        least = minimise(fit.form, fit.data, start, delta=fit.huber_delta, restriction=fixed)
        statistic = (least.objective[0] / fit.misfit - 1) * (size - p)
        assert np.sqrt(statistic) == pytest.approx(student_quantile(0.95, size - p), rel=0.02)
    assert ends[0] < LAW.E < ends[1]


def test_a_higher_confidence_is_wider():
    fit = fit_surface(*runs(reach=1000.0))
    (low, high), (lower, higher) = (profile_floor(fit, confidence=c) for c in (0.8, 0.95))
    assert lower < low < high < higher


def test_weights_that_are_all_alike_change_nothing():
    N, D, L = runs(reach=1000.0)
    plain, doubled = (profile_floor(fit_surface(N, D, L, weights=np.full(36, w))) for w in (1, 2))
    np.testing.assert_allclose(doubled, plain, rtol=1e-4)


def test_a_prior_narrows_it():
    loose, known = (
        fit_surface(*runs(reach=10.0), priors=priors)
        for priors in ((), [Prior(parameter="E", mean=1.7, sd=0.005)])
    )
    wide, narrow = (np.ptp(np.log(profile_floor(fit))) for fit in (loose, known))
    # The runs say next to nothing beside it, so the interval is the prior's own.
    assert narrow < 0.1 * wide
    assert narrow == pytest.approx(2 * student_quantile(0.95, 31) * 0.005 / 1.7, rel=0.05)


def test_runs_of_little_reach_bound_the_floor_from_above_only():
    N, D, L = runs(reach=4.0, noise=0.02)
    low, high = profile_floor(fit_surface(N, D, L))
    assert low == 0.0
    assert LAW.E < high < L.min()


def test_nine_intervals_of_ten_hold_the_floor():
    held = 0
    for seed in range(30):
        low, high = profile_floor(fit_surface(*runs(sizes=4, lengths=5, seed=seed)))
        held += low < LAW.E < high
    assert held >= 24


def test_there_is_none_without_noise_to_judge_by_or_with_very_many_runs():
    N, D, L = runs()
    assert profile_floor(fit_surface(N[:5], D[:5], L[:5])) is None
    many = fit_surface(*(np.tile(v, MAX_POINTS // len(N) + 1) for v in (N, D, L)))
    assert profile_floor(many) is None
