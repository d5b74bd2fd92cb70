"""Designs: variance formulas, greedy picks, the least possible variance."""

import numpy as np
import pytest

from analysis.doe import choose_runs, make_design
from analysis.laws import SKALING


def isoflop_runs(law, computes, sizes=7, reach=4.0):
    N = np.concatenate(
        [law.optimum(C).params * np.geomspace(1 / reach, reach, sizes) for C in computes]
    )
    C = np.repeat(np.asarray(computes, dtype=float), sizes)
    return N, C / (6 * N), C


def problem(law, **options):
    N, D, C = isoflop_runs(law, [1e17, 10**17.5, 1e18, 10**18.5])
    return make_design(law, target_flops=10**19.5, N=N, D=D, **options), (N, D), C


def test_predicted_sd_matches_the_spread_of_simulated_fits(besiroglu):
    from analysis.fit import fit_surface

    design, (N, D), _ = problem(besiroglu, noise_sd=0.001)
    rng = np.random.default_rng(0)
    L = np.asarray(besiroglu.loss(N, D))
    values = []
    for _ in range(120):
        noisy = L * np.exp(0.001 * rng.standard_normal(len(N)))
        fit = fit_surface(N, D, noisy, huber_delta=np.inf)
        values.append(np.log(fit.surface.optimum(10**19.5).tokens_per_parameter))
    assert np.std(values) == pytest.approx(design.sd_ln_ratio(N, D), rel=0.2)


def test_rank_one_updates_equal_the_covariance_computed_afresh(besiroglu):
    design, (N, D), _ = problem(besiroglu, form=SKALING)
    picks = choose_runs(design, (N[:14], D[:14]), (N[14:], D[14:]), count=5)
    chosen = 14 + np.array([p.index for p in picks])
    rows = np.concatenate([np.arange(14), chosen])
    assert picks[-1].sd_after == pytest.approx(design.sd_ln_ratio(N[rows], D[rows]), rel=1e-9)


def test_picks_do_not_depend_on_the_order_of_pending_runs(besiroglu):
    design, (N, D), _ = problem(besiroglu)
    one = choose_runs(design, (N[:10], D[:10]), (N, D), count=4)
    two = choose_runs(design, (N[9::-1], D[9::-1]), (N, D), count=4)
    assert [p.index for p in one] == [p.index for p in two]


def test_several_laws_choose_by_the_mean_of_their_gains(besiroglu):
    from dataclasses import replace

    five, (N, D), C = problem(besiroglu)
    far = replace(five, target_flops=1e22)
    done = (N[::3], D[::3])

    def first(*laws, weights):
        return choose_runs(laws, done, (N, D), count=1, weights=weights, costs=np.ones_like(C))[0]

    gains = {}
    for law in (five, far):
        before = law.sd_ln_ratio(*done)
        gains[law.target_flops] = np.array(
            [
                2 * np.log(before / law.sd_ln_ratio(np.append(done[0], n), np.append(done[1], d)))
                for n, d in zip(N, D, strict=True)
            ]
        )
    mean = 0.3 * gains[10**19.5] + 0.7 * gains[1e22]
    pick = first(five, far, weights=(0.3, 0.7))
    assert pick.index == int(mean.argmax())
    assert pick.gain == pytest.approx(mean.max(), rel=1e-6)
    assert first(five, far, weights=(1.0, 0.0)).index == int(gains[10**19.5].argmax())


def test_a_dearer_budget_exponent_picks_cheaper_runs(besiroglu):
    design, (N, D), C = problem(besiroglu)
    start = (N[::3], D[::3])
    greedy = choose_runs(design, start, (N, D), count=3, rho=1.0)
    blind = choose_runs(design, start, (N, D), count=3, rho=0.0)
    assert sum(C[p.index] for p in greedy) < sum(C[p.index] for p in blind)
    assert blind[-1].sd_after < greedy[-1].sd_after


def test_picks_stay_inside_the_budget(besiroglu):
    design, (N, D), C = problem(besiroglu)
    picks = choose_runs(design, (N, D), (N, D), count=50, budget=5e18, max_repeats=3)
    assert 0 < sum(C[p.index] for p in picks) <= 5e18
    assert choose_runs(design, (N, D), (N, D), count=3, budget=1.0) == ()
