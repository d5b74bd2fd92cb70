"""Intervals by hand: which method, which quantile, which ends."""

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator
from scipy.stats import t as student_t

from analysis.akima import fit_levels_akima
from analysis.cost import SIX_N
from analysis.fit import fit_surface
from analysis.isoflop import fit_levels, fit_line
from analysis.uncertainty import (
    bootstrap,
    clusters,
    delta_sd,
    log_ratios_at,
    ratio_gradient,
    ratio_interval,
)


@pytest.fixture(scope="module")
def fitted(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    N, D, L = (frame[c].to_numpy() for c in ("params_matmul", "tokens", "loss"))
    return fit_surface(N, D, L, huber_delta=np.inf), N


def test_delta_interval_uses_students_quantile_with_runs_minus_parameters(fitted):
    fit, _ = fitted
    found = ratio_interval(fit, None, 1e20, SIX_N, confidence=0.9)
    ratio = fit.surface.optimum(1e20).tokens_per_parameter
    half = student_t.ppf(0.95, 28 - 5) * delta_sd(fit, 1e20, SIX_N)
    assert np.log(found.high / ratio) == pytest.approx(half, rel=1e-6)
    assert np.log(ratio / found.low) == pytest.approx(half, rel=1e-6)
    assert found.method == "delta"


def test_ratio_gradient_matches_the_closed_form(fitted):
    fit, _ = fitted
    law = fit.surface
    total = law.alpha + law.beta
    gradient = ratio_gradient(fit, 1e20, SIX_N)
    # ln r = Lambda - 2 ln N*, so d/d ln A = -2/(alpha + beta) and d/d ln B the opposite.
    assert gradient[:3] == pytest.approx([-2 / total, 2 / total, 0.0], abs=1e-6)


def test_a_much_wider_bootstrap_replaces_the_delta_method_with_its_percentiles(fitted):
    from dataclasses import replace

    fit, N = fitted
    draws = bootstrap(fit, clusters(N), resamples=400, seed=1)
    trusting = replace(fit, covariance=fit.covariance / 100)
    found = ratio_interval(trusting, draws, 1e20, SIX_N, confidence=0.8)
    values = np.exp(log_ratios_at(draws.theta, draws.centre, 1e20, SIX_N))
    assert found.method == f"{draws.kind} bootstrap"
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [10, 90])))


def level(besiroglu, positions, noise=0.001):
    C = 1e19
    N = besiroglu.optimum(C).params * np.asarray(positions)
    L = np.asarray(besiroglu.loss(N, C / (6 * N)))
    return fit_levels(np.full(len(N), "a"), N, np.full(len(N), C), L, noise_sd=noise)[0]


def test_a_vertex_beyond_the_second_size_is_an_edge_not_an_optimum(besiroglu):
    # The optimum lies between the first two sizes: inside the range, but bracketed by one run.
    assert level(besiroglu, [0.8, 1.5, 2.5, 4.0, 6.0]).verdict == "edge"
    assert level(besiroglu, [0.3, 0.6, 1.0, 2.0, 4.0]).verdict == "accepted"


def test_a_valley_shallower_than_the_noise_is_flat(besiroglu):
    assert level(besiroglu, [0.5, 0.75, 1.0, 1.4, 2.0], noise=0.02).verdict == "flat"


def test_vertex_sd_matches_the_spread_over_noise(besiroglu):
    C, noise = 1e19, 0.002
    N = besiroglu.optimum(C).params * np.geomspace(0.25, 4, 7)
    clean = np.asarray(besiroglu.loss(N, C / (6 * N)))
    rng = np.random.default_rng(0)
    found = [
        fit_levels(
            np.full(7, "a"),
            N,
            np.full(7, C),
            clean * np.exp(noise * rng.standard_normal(7)),
            noise_sd=noise,
        )[0]
        for _ in range(400)
    ]
    spread = np.std([np.log(f.params_opt) for f in found])
    assert np.median([f.sd_ln_params for f in found]) == pytest.approx(spread, rel=0.1)


def test_akima_keeps_interior_draws_only_and_inflates_its_error_by_their_share(besiroglu):
    C, noise = 1e19, 0.005
    N = besiroglu.optimum(C).params * np.array([0.85, 1.3, 1.8, 2.6, 4.0])
    L = np.asarray(besiroglu.loss(N, C / (6 * N)))
    (found,) = fit_levels_akima(
        np.full(5, "a"), N, np.full(5, C), L, noise_sd=noise, draws=300, seed=7
    )
    x = np.log(N)
    grid = np.linspace(x[0], x[-1], 101)
    minima = []
    for draw in np.random.default_rng([7, 0]).standard_normal((5, 300)).T:
        minima.append(int(Akima1DInterpolator(x, np.log(L) + noise * draw)(grid).argmin()))
    interior = [grid[i] for i in minima if 0 < i < 100]
    assert 0.5 < len(interior) / 300 < 0.95
    assert np.log(found.params_opt) == pytest.approx(np.median(interior))
    assert found.sd_ln_params == pytest.approx(np.std(interior) / (len(interior) / 300))


def test_a_line_through_scattered_vertices_takes_its_error_from_the_scatter(besiroglu):
    from dataclasses import replace

    base = level(besiroglu, np.geomspace(0.25, 4, 7))
    sizes = 1e8 * np.array([1.0, 1.9, 3.0, 6.2])
    tight = tuple(
        replace(base, flops=1e18 * 10 ** (0.5 * i), params_opt=s, sd_ln_params=1e-3)
        for i, s in enumerate(sizes)
    )
    loose = tuple(replace(f, sd_ln_params=0.5) for f in tight)
    assert fit_line(tight, noise_freedom=20).freedom == 2
    assert fit_line(tight, noise_freedom=20).sd_at(1e20) > 0.05
    assert fit_line(loose, noise_freedom=20).freedom == 20
    assert fit_line(tight[:1]) is None
