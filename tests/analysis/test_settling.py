"""Fits whose minimum lies at the far end of a curved valley: every start must arrive there.

Few runs over a narrow range of sizes cannot tell E from a slow power of N. Newton's steps are short
then, and a fit that is cut off on its way has a plausible E and a ratio that is nobody's optimum.
"""

import numpy as np
import pytest
from scipy.optimize import least_squares

from analysis.cost import SIX_N
from analysis.fit import centred, fit_surface, tied_exponents
from analysis.laws import CHINCHILLA, SKALING, Surface
from analysis.newton import minimise
from analysis.profile import profile_ratio
from analysis.settling import settle
from analysis.starts import seeds

SLOW_POWER = {"E": 1e-4, "alpha": 0.06}
ORDINARY = {"E": 1.7, "alpha": 0.3}


def sixteen_runs(*, E, alpha, noise=0.004, seed=0):
    N, D = np.meshgrid(np.geomspace(2e8, 1e9, 4), np.geomspace(4e9, 1e11, 4))
    N, D = N.ravel(), D.ravel()
    law = Surface(E=E, A=2.0 * 4e8**alpha, B=0.3 * 2e10**0.4, alpha=alpha, beta=0.4)
    return N, D, law.loss(N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(16))


def least_by_trust_region(N, D, L, form, starts):
    """Half the least sum of squares in ln L that a bounded trust-region solver finds."""
    data = centred(N, D, L)
    level = data.y.mean()
    low = [level - 60, level - 60, level - 10, 0.005, 0.005, np.log(0.05)][: form.n_params]
    high = [level + 60, level + 60, level + 0.7, 8.0, 8.0, np.log(20.0)][: form.n_params]
    ends = [
        least_squares(
            lambda theta: form.log_loss(theta, data.n, data.d) - data.y,
            x0=np.clip(start, low, high),
            bounds=(low, high),
            x_scale="jac",
            max_nfev=2000,
        ).cost
        for start in starts
    ]
    return min(ends)


@pytest.mark.parametrize("form", [CHINCHILLA, SKALING], ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("truth", "noise", "seed"),
    [(SLOW_POWER, 0.004, 0), (ORDINARY, 0.01, 1), (ORDINARY, 0.01, 2)],
    ids=["a slow power", "an ordinary law", "an ordinary law again"],
)
def test_most_starts_agree_and_no_other_solver_finds_less(form, truth, noise, seed):
    N, D, L = sixteen_runs(**truth, noise=noise, seed=seed)
    fit = fit_surface(N, D, L, form=form, huber_delta=np.inf)
    assert fit.certificate.agreeing > fit.certificate.starts / 2
    data = centred(N, D, L)
    starts = [fit.theta, *seeds(form, data, np.ones(16), ())[:3]]
    assert fit.objective <= least_by_trust_region(N, D, L, form, starts) * (1 + 1e-7)


def test_an_irreducible_loss_that_the_runs_do_not_show_ends_at_its_limit_from_every_start():
    fit = fit_surface(*sixteen_runs(**SLOW_POWER), huber_delta=np.inf)
    assert fit.certificate.agreeing == fit.certificate.starts == 8
    assert fit.at_bound == ("e",)


def test_settling_raises_no_objective_and_moves_nothing_that_had_converged():
    data = centred(*sixteen_runs(**ORDINARY, noise=0.01, seed=2))
    ones = np.ones(16)
    starts = seeds(CHINCHILLA, data, ones, ())
    first = minimise(CHINCHILLA, data, starts, weights=ones, delta=np.inf, max_steps=12)
    assert 0 < first.converged.sum() < len(first.converged)
    settled = settle(CHINCHILLA, data, first, weights=ones, delta=np.inf)
    assert settled.converged.all()
    assert (settled.objective <= first.objective).all()
    np.testing.assert_array_equal(settled.theta[first.converged], first.theta[first.converged])


def test_tied_exponents_stay_tied_on_the_way():
    fit = fit_surface(*sixteen_runs(**SLOW_POWER), restriction=tied_exponents(), huber_delta=np.inf)
    assert fit.certificate.agreeing == fit.certificate.starts
    assert fit.theta[3] == pytest.approx(fit.theta[4], rel=1e-12)


def test_the_profile_of_a_ratio_follows_the_valley_to_its_floor():
    N, D, L = sixteen_runs(**SLOW_POWER)
    fit = fit_surface(N, D, L, huber_delta=np.inf)
    flops = float((6 * N * D).max())
    profile = profile_ratio(fit, flops, SIX_N)
    data, level = fit.data, fit.data.y.mean()

    def misfit(rho):
        n = 0.5 * (np.log(flops / 6) - rho) - data.centre[0]
        d = 0.5 * (np.log(flops / 6) + rho) - data.centre[1]

        def residual(phi):
            b, e, alpha, beta = phi
            a = b + np.log(beta / alpha) + alpha * n - beta * d
            return CHINCHILLA.log_loss(np.array([a, b, e, alpha, beta]), data.n, data.d) - data.y

        limits = ([-60, level - 10, 0.01, 0.01], [60, level + 0.7, 3, 3])
        starts = [np.clip(fit.theta[1:], *limits), [-2.0, 0.2, 0.3, 0.4], [-2.0, -3.0, 0.06, 0.5]]
        return min(
            least_squares(residual, x0=s, bounds=limits, x_scale="jac", max_nfev=3000).cost
            for s in starts
        )

    # Far outside every interval the last steps down the valley do not matter.
    least = np.array([misfit(rho) / fit.objective - 1 for rho in profile.log_ratio])
    near = least < 1
    assert near.sum() > 10
    assert (profile.excess[near] <= 1.03 * np.maximum(least[near], 0) + 0.003).all()
