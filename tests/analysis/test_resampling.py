"""Bootstraps of the noise on a kept design: what they draw, and how wide they come out."""

import numpy as np
import pytest

from analysis.answer import fit_table
from analysis.cost import SIX_N
from analysis.fit import fit_surface, refit, tied_exponents
from analysis.newton import minimise
from analysis.resampling import leverages, residual_bootstrap, wild_bootstrap
from analysis.table import read_rows
from analysis.uncertainty import clusters, delta_sd, log_ratios_at


def fitted(frame, **options):
    N, D, L = (frame[c].to_numpy() for c in ("params_matmul", "tokens", "loss"))
    return fit_surface(N, D, L, huber_delta=np.inf, **options)


@pytest.fixture(scope="module")
def fit(isoflop_frame, besiroglu):
    return fitted(isoflop_frame(besiroglu))


def spread(draws):
    return float(np.std(log_ratios_at(draws.theta, draws.centre, 1e20, SIX_N)))


def test_refits_to_given_losses_are_fits_to_those_losses(fit, isoflop_frame, besiroglu):
    frames = [isoflop_frame(besiroglu, seed=s) for s in (5, 6, 7)]
    losses = np.stack([np.log(f["loss"].to_numpy()) for f in frames])
    solved = refit(fit, np.ones_like(losses), targets=losses)
    for frame, theta in zip(frames, solved.theta, strict=True):
        # Twice the published convergence: both walk down the same valley.
        assert theta == pytest.approx(fitted(frame).theta, rel=1e-5, abs=1e-5)


def test_a_batch_of_targets_is_cut_into_the_same_blocks_as_its_starts(fit):
    shift = np.linspace(-0.1, 0.1, 3000)[:, None]
    losses = fit.data.y + shift
    start = np.broadcast_to(fit.theta, (3000, 5))
    solved = minimise(fit.form, fit.data, start, targets=losses, delta=np.inf)
    # ln L + s is e^s L: the terms grow by e^s, the exponents stay.
    assert solved.theta[:, 2] == pytest.approx(fit.theta[2] + shift[:, 0], abs=1e-5)
    assert np.ptp(solved.theta[:, 3:], axis=0) == pytest.approx([0, 0], abs=1e-5)


def test_leverages_sum_to_the_number_of_fitted_parameters(fit, isoflop_frame, besiroglu):
    assert leverages(fit).sum() == pytest.approx(5.0)
    assert (leverages(fit) > 0).all()
    tied = fitted(isoflop_frame(besiroglu), restriction=tied_exponents())
    assert leverages(tied).sum() == pytest.approx(4.0)


def test_both_bootstraps_find_the_spread_of_the_ratio_over_repeated_noise(isoflop_frame, besiroglu):
    repeated, residual, wild = [], [], []
    for seed in range(60):
        one = fitted(isoflop_frame(besiroglu, seed=seed))
        repeated.append(log_ratios_at(one.theta[None], one.data.centre, 1e20, SIX_N)[0])
        residual.append(spread(residual_bootstrap(one, resamples=200, seed=seed)))
        wild.append(spread(wild_bootstrap(one, resamples=200, seed=seed)))
    truth = float(np.std(repeated))
    assert np.median(residual) == pytest.approx(truth, rel=0.2)
    assert np.median(wild) == pytest.approx(truth, rel=0.2)


def test_the_residual_bootstrap_is_as_wide_as_the_delta_method_where_the_law_is_straight(
    isoflop_frame, besiroglu
):
    # So little noise that the law is linear over it: only the sqrt(m/(m - p)) can differ.
    one = fitted(isoflop_frame(besiroglu, noise=2e-4))
    wide = spread(residual_bootstrap(one, resamples=3000))
    assert wide / delta_sd(one, 1e20, SIX_N) == pytest.approx(1.0, abs=0.05)


def test_ninety_per_cent_intervals_of_the_noise_bootstraps_cover(isoflop_frame, besiroglu):
    truth = np.log(besiroglu.optimum(1e20).tokens_per_parameter)
    hits = {"residual": [], "wild": []}
    for seed in range(80):
        one = fitted(isoflop_frame(besiroglu, seed=1000 + seed))
        for make in (residual_bootstrap, wild_bootstrap):
            draws = make(one, resamples=200, seed=seed)
            values = log_ratios_at(draws.theta, draws.centre, 1e20, SIX_N)
            low, high = np.percentile(values, [5, 95])
            hits[draws.kind].append(low <= truth <= high)
    # Binomial sd 3.4 %; percentiles of small samples are a little short.
    assert 0.80 <= np.mean(hits["residual"]) <= 0.97
    assert 0.80 <= np.mean(hits["wild"]) <= 0.97


def test_only_the_wild_bootstrap_sees_noise_that_sits_where_it_matters(isoflop_frame, besiroglu):
    clean = isoflop_frame(besiroglu, noise=0.0, sizes=15)
    edge = clean.groupby("level")["params_matmul"].rank().isin([1, 2, 14, 15]).to_numpy()
    rng = np.random.default_rng(3)
    repeated, residual, wild = [], [], []
    for seed in range(40):
        noise = np.where(edge, 0.012, 0.0005) * rng.standard_normal(len(clean))
        one = fitted(clean.assign(loss=clean["loss"] * np.exp(noise)))
        repeated.append(log_ratios_at(one.theta[None], one.data.centre, 1e20, SIX_N)[0])
        residual.append(spread(residual_bootstrap(one, resamples=100, seed=seed)))
        wild.append(spread(wild_bootstrap(one, resamples=100, seed=seed)))
    truth = float(np.std(repeated))
    assert abs(np.log(np.median(wild) / truth)) < 0.25
    assert np.median(residual) < 0.8 * truth


def test_clustered_signs_see_errors_that_runs_of_one_size_share(besiroglu):
    sizes = np.tile(besiroglu.optimum(1e19).params * np.geomspace(0.1, 10, 9), 3)
    C = np.repeat([1e18, 1e19, 1e20], 9)
    clean = np.asarray(besiroglu.loss(sizes, C / (6 * sizes)))
    repeated, alone, together = [], [], []
    for seed in range(40):
        shared = np.tile(0.01 * np.random.default_rng(seed).standard_normal(9), 3)
        one = fit_surface(sizes, C / (6 * sizes), clean * np.exp(shared), huber_delta=np.inf)
        repeated.append(log_ratios_at(one.theta[None], one.data.centre, 1e20, SIX_N)[0])
        alone.append(spread(wild_bootstrap(one, resamples=100)))
        draws = wild_bootstrap(one, groups=clusters(sizes), resamples=100)
        assert (draws.kind, draws.n_clusters) == ("wild cluster", 9)
        together.append(spread(draws))
    assert 1.3 * np.median(alone) < np.median(together) < np.std(repeated)


def test_residuals_of_as_many_runs_as_parameters_are_refused(isoflop_frame, besiroglu):
    one = fitted(isoflop_frame(besiroglu).iloc[[0, 5, 9, 15, 27]])
    with pytest.raises(ValueError, match="more runs than parameters: 5 runs, 5 parameters"):
        residual_bootstrap(one)
    with pytest.raises(ValueError, match="more runs than parameters: 5 runs, 5 parameters"):
        wild_bootstrap(one)


def test_the_report_offers_every_route_to_an_interval_and_says_which_it_took(
    isoflop_frame, besiroglu
):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=200)
    section = report.to_dict()["uncertainty"]
    names = [m["method"] for m in section["methods"]]
    assert names == ["delta", "pairs bootstrap", "residual bootstrap", "wild bootstrap"]
    assert (section["law"], section["taken"], section["target_flops"]) == (
        "chinchilla",
        "delta",
        1e20,
    )
    assert section["methods"][0]["sd_ln_ratio"] == pytest.approx(
        delta_sd(report.fits["chinchilla"], 1e20, report.cost)
    )
    truth = besiroglu.optimum(1e20).tokens_per_parameter
    for method in section["methods"][1:]:
        assert method["interval"][0] < truth < method["interval"][1]
        assert method["resamples"] == 200


def test_without_resamples_only_the_delta_method_is_listed(isoflop_frame, besiroglu):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=0)
    assert [m["method"] for m in report.detail["uncertainty"]["methods"]] == ["delta"]
