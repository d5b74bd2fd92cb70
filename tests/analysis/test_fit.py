"""The surface fit: published objectives, recovery, certificates, batched refits."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.fit import (
    centred,
    data_driven_delta,
    fit_surface,
    pinned_exponents,
    refit,
    tied_exponents,
)
from analysis.laws import CHINCHILLA, SKALING, Surface
from analysis.newton import derivatives, minimise
from analysis.starts import projected_starts, thinned_starts

GLOBAL_MINIMUM = 0.0010182740178006
"""Sum of Huber (delta 1e-3) on the 240 Chinchilla points, to the last digit known."""


def grid_points(law, computes=None, sizes=16):
    computes = np.geomspace(1e17, 1e22, 8) if computes is None else computes
    N = np.concatenate([law.optimum(C).params * np.geomspace(0.1, 10, sizes) for C in computes])
    D = np.repeat(computes, sizes) / (6 * N)
    return N, D, np.asarray(law.loss(N, D))


def test_published_objective_is_reached_on_the_chinchilla_points(epoch_points):
    fit = fit_surface(*epoch_points, huber_delta=1e-3)
    assert fit.objective <= GLOBAL_MINIMUM + 1e-12
    law = fit.surface
    expected = {"A": 477.83, "B": 2143.42, "E": 1.81721, "alpha": 0.347310, "beta": 0.367172}
    for name, value in expected.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-4)
    assert law.exponent_N == pytest.approx(0.513900, rel=1e-4)


@pytest.mark.parametrize(
    ("C", "ratio"), [(1e19, 24.31), (1e21, 21.38), (5.76e23, 17.92), (1e25, 16.55)]
)
def test_chinchilla_points_give_the_known_ratio(epoch_points, C, ratio):
    law = fit_surface(*epoch_points, huber_delta=1e-3).surface
    assert law.optimum(C).tokens_per_parameter == pytest.approx(ratio, abs=0.01)


def test_every_start_agrees_on_the_chinchilla_minimum(epoch_points):
    certificate = fit_surface(*epoch_points, huber_delta=1e-3).certificate
    assert certificate.agreeing == certificate.starts >= 8
    assert certificate.minima == 1
    assert certificate.gradient < 1e-6


@pytest.mark.parametrize("form", [CHINCHILLA, SKALING], ids=lambda form: form.name)
@pytest.mark.parametrize("delta", [None, 1e-3], ids=["own width", "published width"])
def test_very_many_runs_are_fitted_from_few_starts_to_the_minimum_of_all(
    besiroglu, monkeypatch, form, delta
):
    N, D, L = grid_points(besiroglu, computes=np.geomspace(1e17, 1e22, 100), sizes=60)
    L = L * np.exp(np.random.default_rng(0).normal(0, 0.01, len(L)))
    few = fit_surface(N, D, L, form=form, huber_delta=delta)
    monkeypatch.setattr("analysis.fit.MANY_POINTS", len(N))
    every = fit_surface(N, D, L, form=form, huber_delta=delta)
    assert few.certificate.starts < every.certificate.starts
    assert few.objective == pytest.approx(every.objective, rel=1e-10)
    assert few.theta == pytest.approx(every.theta, rel=1e-5, abs=1e-7)


def test_starts_for_very_many_runs_are_no_single_size_of_a_sorted_design(besiroglu):
    N, D, L = grid_points(besiroglu, computes=np.geomspace(1e17, 1e22, 3000), sizes=3)
    data = centred(N, D, L)
    first = projected_starts(data, np.ones(len(N)))
    ends = thinned_starts(CHINCHILLA, data, np.ones(len(N)), first, None)
    assert np.exp(ends[0, 2]) == pytest.approx(besiroglu.E, rel=1e-3)


def test_least_absolute_deviations_give_besiroglus_printed_estimates(epoch_points):
    law = fit_surface(*epoch_points, huber_delta=1e-6).surface
    expected = {"A": 482.01, "B": 2085.43, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585}
    for name, value in expected.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-3)


def test_heavy_tails_choose_the_published_objective_by_themselves(epoch_points):
    assert fit_surface(*epoch_points).huber_delta == 1e-3


def test_the_tails_of_the_residuals_choose_the_objective():
    rng = np.random.default_rng(0)
    gaussian = rng.normal(scale=0.004, size=4000)
    assert data_driven_delta(gaussian, 5) == np.inf
    contaminated = np.where(rng.random(4000) < 0.02, 2.3, 1.0) * gaussian
    assert data_driven_delta(contaminated, 5) == pytest.approx(1.345 * 0.004, rel=0.06)
    heavy = 0.004 * rng.standard_t(3, size=4000)
    assert data_driven_delta(heavy, 5) == 1e-3


def test_few_runs_with_one_bad_one_keep_the_efficient_width():
    """Twenty residuals of five parameters: too few to tell a tail from one bad run."""
    even = 0.004 * np.where(np.arange(21) % 2, 1.0, -1.0)
    even[0] = 0.1
    robust = 1.4826 * 0.004 * np.sqrt(20 / 15)
    assert data_driven_delta(even[:20], 5) == pytest.approx(1.345 * robust, rel=1e-12)
    assert data_driven_delta(even, 5) == 1e-3


def test_hoffmanns_constants_leave_the_known_residuals(epoch_points, hoffmann, hoffmann_tex):
    N, D, L = epoch_points
    printed = np.log(L) - np.log(hoffmann.loss(N, D))
    unrounded = np.log(L) - np.log(hoffmann_tex.loss(N, D))
    assert printed.mean() == pytest.approx(-1.67e-2, abs=2e-4)
    assert unrounded.mean() == pytest.approx(3.0e-3, abs=2e-4)


def test_skaling_fits_the_chinchilla_points_better_with_the_known_k(epoch_points):
    squares = fit_surface(*epoch_points, huber_delta=np.inf)
    wider = fit_surface(*epoch_points, form=SKALING, huber_delta=np.inf)
    assert wider.surface.k == pytest.approx(0.74, abs=0.01)
    assert wider.objective / squares.objective == pytest.approx(0.83, abs=0.015)


def test_noiseless_law_is_recovered_to_a_millionth(hoffmann):
    fit = fit_surface(*grid_points(hoffmann), huber_delta=1e-3)
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(fit.surface, name) == pytest.approx(getattr(hoffmann, name), rel=1e-6)


def test_noiseless_skaling_law_is_recovered():
    law = Surface(E=1.5, A=900.0, B=3000.0, alpha=0.4, beta=0.38, k=0.5)
    fit = fit_surface(*grid_points(law), form=SKALING, huber_delta=np.inf)
    for name in ("E", "A", "B", "alpha", "beta", "k"):
        assert getattr(fit.surface, name) == pytest.approx(getattr(law, name), rel=1e-4)


def test_tied_exponents_stay_tied_and_pinned_ones_stay_pinned(hoffmann):
    points = grid_points(hoffmann)
    tied = fit_surface(*points, restriction=tied_exponents())
    assert tied.surface.alpha == pytest.approx(tied.surface.beta, abs=1e-12)
    assert tied.n_free == 4
    pinned = fit_surface(*points, restriction=pinned_exponents(0.34, 0.28))
    assert (pinned.surface.alpha, pinned.surface.beta) == (0.34, 0.28)
    assert pytest.approx(1.69, rel=1e-6) == pinned.surface.E


@pytest.mark.parametrize("form", [CHINCHILLA, SKALING], ids=lambda f: f.name)
@pytest.mark.parametrize("delta", [1e-3, 1e-2, np.inf])
def test_gradient_and_hessian_match_central_differences(form, delta):
    rng = np.random.default_rng(5)
    law = Surface(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.31)
    N, D, L = grid_points(law, sizes=4)
    L = L * np.exp(0.01 * rng.standard_normal(len(L)))
    fit = fit_surface(N, D, L, form=form, huber_delta=np.inf)
    theta = fit.theta + 0.02 * rng.standard_normal(form.n_params)
    weights = rng.uniform(0.5, 2.0, size=(1, len(N)))

    def value(t):
        return derivatives(form, fit.data, t[None], weights, delta)

    _, gradient, hessian = value(theta)
    step = 1e-6
    for j in range(form.n_params):
        shift = np.zeros(form.n_params)
        shift[j] = step
        up, down = value(theta + shift), value(theta - shift)
        assert gradient[0, j] == pytest.approx((up[0][0] - down[0][0]) / (2 * step), abs=1e-7)
        slope = (up[1][0] - down[1][0]) / (2 * step)
        # Points that cross the Huber corner within the step would blur the difference.
        np.testing.assert_allclose(hessian[0, j], slope, rtol=2e-4, atol=2e-4)


def test_batched_refits_match_fits_from_scratch(epoch_points):
    fit = fit_surface(*epoch_points, huber_delta=1e-3)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(240, np.full(240, 1 / 240), size=12).astype(float)
    batch = refit(fit, weights)
    assert batch.converged.all()
    for row, objective in zip(weights, batch.objective, strict=True):
        alone = fit_surface(*epoch_points, huber_delta=1e-3, weights=row)
        assert objective <= alone.objective + 1e-9


def test_a_resample_is_the_same_as_repeating_rows(hoffmann):
    rng = np.random.default_rng(2)
    N, D, L = grid_points(hoffmann, sizes=5)
    L = L * np.exp(0.005 * rng.standard_normal(len(L)))
    rows = rng.integers(0, len(N), len(N))
    counts = np.bincount(rows, minlength=len(N)).astype(float)
    weighted = fit_surface(N, D, L, huber_delta=1e-3, weights=counts)
    repeated = fit_surface(N[rows], D[rows], L[rows], huber_delta=1e-3)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.surface.alpha == pytest.approx(repeated.surface.alpha, rel=1e-5)


def test_covariance_matches_the_spread_of_refits_to_fresh_noise(hoffmann):
    N, D, L = grid_points(hoffmann, computes=np.geomspace(1e18, 1e21, 4), sizes=7)
    noise = 0.001
    rng = np.random.default_rng(7)
    first = fit_surface(N, D, L * np.exp(noise * rng.standard_normal(len(N))), huber_delta=np.inf)
    thetas = []
    for _ in range(300):
        y = np.log(L) + noise * rng.standard_normal(len(N))
        data = replace(first.data, y=y)
        thetas.append(minimise(CHINCHILLA, data, first.theta[None], delta=np.inf).theta[0])
    spread = np.std(thetas, axis=0)
    expected = np.sqrt(np.diag(first.covariance)) * noise / first.noise_sd
    np.testing.assert_allclose(spread, expected, rtol=0.12)
