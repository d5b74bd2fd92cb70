"""Published numbers, reproduced from the published tables."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.cost import SIX_N
from analysis.files import read_table
from analysis.fit import fit_surface
from analysis.isoflop import fit_levels
from analysis.laws import Surface
from analysis.uncertainty import bootstrap, log_ratios_at

PORIAN = {
    ("summary_df", "rw"): [0.8353, 0.7065, 0.6020, 0.5715, 0.4969],
    ("summary_df_att", "rw"): [0.7171, 0.6223, 0.5772, 0.5053],
    ("summary_df_kaplan_tuned_hparams", "rw"): [0.7115],
    ("summary_df_owt2", "owt2"): [0.8635, 0.6985, 0.6032, 0.5743, 0.5185],
}

TABLES = {
    "datablations_contour.csv": {},
    "epoch_chinchilla.csv": {},
    "gadre_overtraining.csv": {"loss": "loss_c4_val", "params_total": "N"},
    "gemstones_cool_begin.csv": {},
    "gemstones_cool_end.csv": {},
    "gemstones_hot_477.csv": {},
    "gemstones_hot_sampled_like_chinchilla.csv": {},
    "gemstones_slim_chinchilla.csv": {},
    "kyo_takano_chinchilla_subset.csv": {},
    "olmo_ladder_final.csv": {"loss": "loss_c4_en"},
    "openathena_epochai_chinchilla__massivetext__chinchilla.csv": {"excluded": "outlier"},
    "openathena_llama_3__exp_loss.csv": {},
    "openathena_llama_3__raw_loss.csv": {},
    "openathena_ml_scalefit__massivetext__chinchilla.csv": {"excluded": "outlier"},
    "scalebench_farseer_scaling_law.csv": {},
    "steplaw_dense_best_per_ND.csv": {"loss": "smooth_loss"},
}


@pytest.fixture(scope="module")
def epoch_draws(epoch_points):
    fit = fit_surface(*epoch_points, huber_delta=1e-3)
    return fit, bootstrap(fit, np.arange(240), resamples=4000, seed=42)


def test_case_bootstrap_gives_besiroglus_intervals(epoch_draws):
    _, draws = epoch_draws
    theta = draws.theta
    alpha, beta = theta[:, 3], theta[:, 4]
    # Generators differ, so the ends carry the Monte-Carlo error of 4,000 draws.
    expected = {
        "A": (np.exp(theta[:, 0] + alpha * draws.centre[0]), 285.2, 743.6, 0.03),
        "B": (np.exp(theta[:, 1] + beta * draws.centre[1]), 1042.4, 5810.3, 0.06),
        "E": (np.exp(theta[:, 2]), 1.7694, 1.8712, 0.004),
        "alpha": (alpha, 0.3168, 0.3733, 0.01),
        "beta": (beta, 0.3313, 0.4154, 0.015),
    }
    for name, (values, low, high, tolerance) in expected.items():
        found = np.percentile(values, [2.5, 97.5])
        assert found == pytest.approx([low, high], rel=tolerance), name
    a = beta / (alpha + beta)
    assert a.std() == pytest.approx(0.0200, rel=0.04)
    assert np.percentile(a, [10, 90]) == pytest.approx([0.4914, 0.5428], abs=0.002)
    assert draws.failed == 0.0


@pytest.mark.parametrize(
    ("C", "point", "low", "high"),
    [(1e21, 21.5, 16.9, 26.3), (5.88e23, 18.3, 9.9, 29.0), (1e26, 16.1, 6.4, 31.6)],
)
def test_case_bootstrap_gives_the_published_ratios(epoch_points, epoch_draws, C, point, low, high):
    _, draws = epoch_draws
    ratio = np.exp(log_ratios_at(draws.theta, draws.centre, C, SIX_N))
    # The published point is the least-absolute-deviations estimate, its interval Huber's.
    law = fit_surface(*epoch_points, huber_delta=1e-6).surface
    assert law.optimum(C).tokens_per_parameter == pytest.approx(point, rel=0.03)
    assert np.percentile(ratio, [10, 90]) == pytest.approx([low, high], rel=0.06)


def test_standard_errors_are_besiroglus(epoch_draws):
    theta = epoch_draws[1].theta
    assert 0.0145 < theta[:, 3].std() < 0.019
    assert 0.019 < theta[:, 4].std() < 0.0225
    assert 0.025 < np.exp(theta[:, 2]).std() < 0.029


def test_likelihood_ratio_against_hoffmanns_constants_is_84(epoch_points, hoffmann_tex):
    N, D, L = epoch_points

    def log_likelihood(law):
        # The fitted scale of the published likelihood makes it Laplacian.
        spread = np.mean(np.abs(np.log(law.loss(N, D)) - np.log(L)))
        return -len(L) * (np.log(2 * spread) + 1)

    best = fit_surface(*epoch_points, huber_delta=1e-6).surface
    assert log_likelihood(best) == pytest.approx(879.77, abs=0.1)
    ratio = 2 * (log_likelihood(best) - log_likelihood(hoffmann_tex))
    assert ratio == pytest.approx(84.0, rel=0.01)


def test_porians_fifteen_exponents(laws_dir):
    frame = pd.read_csv(laws_dir / "porian_optimal_pairs.csv")
    settings = ["hparams", "warmup", "decay", "param_count", "val"]
    for (table, dataset), expected in PORIAN.items():
        rows = frame[(frame["table"] == table) & (frame["dataset"] == dataset)]
        found = []
        for _, group in rows.groupby(settings, sort=False):
            good = group[np.isfinite(group["n_star_std"]) & np.isfinite(group["N_star"])]
            weights = 1 / good["n_star_std"]
            found.append(np.polyfit(np.log(good["C"]), np.log(good["N_star"]), 1, w=weights)[0])
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("law", "errors"),
    [
        (
            Surface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
            [-0.33, -1.30, -2.90, -5.10],
        ),
        (
            Surface(E=1.69, A=400.0, B=400.0, alpha=0.465, beta=0.155),
            [-1.67, -6.50, -13.91, -23.12],
        ),
    ],
    ids=["chinchilla", "asymmetric"],
)
def test_parabolas_extrapolate_with_the_published_bias(law, errors):
    found = []
    for reach in (2, 4, 8, 16):
        computes = np.geomspace(1e17, 1e21, 5)
        grid = np.geomspace(1 / reach, reach, 15)
        N = np.concatenate([law.optimum(C).params * grid for C in computes])
        C = np.repeat(computes, 15)
        levels = fit_levels(
            np.repeat(list("abcde"), 15),
            N,
            C,
            np.asarray(law.loss(N, C / (6 * N))),
            noise_sd=1e-9,
            logarithmic=False,
        )
        line = np.polyfit(np.log(computes), np.log([f.tokens_opt for f in levels]), 1)
        forecast = np.exp(np.polyval(line, np.log(1e24)))
        found.append(100 * (forecast / law.optimum(1e24).tokens - 1))
    assert found == pytest.approx(errors, abs=0.01)


def test_llama_3_budgets_give_the_published_token_law(laws_dir):
    frame = pd.read_csv(laws_dir / "llama3_isoflop_svg_raw.csv")
    C, D, L = (
        frame[c].to_numpy(dtype=float)
        for c in ("compute_budget", "training_tokens", "validation_loss")
    )
    labels = np.array([f"{c:g}" for c in C])
    levels = fit_levels(labels, C / (6 * D), C, L, noise_sd=1e-4, logarithmic=False)
    assert len(levels) == 10
    x, y = np.log([f.flops for f in levels]), np.log([f.tokens_opt for f in levels])
    slope, intercept = np.polyfit(x, y, 1)
    assert slope == pytest.approx(0.537, abs=0.002)
    assert np.exp(intercept) == pytest.approx(0.299, rel=0.01)
    assert np.exp(intercept + slope * np.log(3.8e25)) == pytest.approx(16.1e12, rel=0.01)


def test_olmo_ladder_extrapolates_to_the_known_losses(laws_dir):
    frame = pd.read_csv(laws_dir / "olmo_ladder_final.csv")
    frame = frame.drop_duplicates(["N", "xC"], keep="last")
    N, D, L = (frame[c].to_numpy(dtype=float) for c in ("N", "D", "loss_c4_en"))
    law = fit_surface(N, D, L, huber_delta=1e-3).surface
    assert (law.E, law.alpha, law.beta) == pytest.approx((1.8624, 0.2716, 0.1575), abs=5e-4)
    assert float(law.loss(6887575552, 3945065873408)) == pytest.approx(2.4827, abs=2e-3)
    assert float(law.loss(13202396160, 5000088518656)) == pytest.approx(2.4268, abs=2e-3)


def test_a_rectangle_predicts_loss_and_not_allocation(laws_dir):
    table = read_table(laws_dir / "olmo_ladder_final.csv", mapping={"loss": "loss_c4_en"})
    report = fit_table(table, target_flops=1e22, resamples=100, detail=False)
    surface = report.laws["chinchilla"]
    low, high = surface["interval"]["tokens_per_parameter"]
    assert high / low > 4
    assert report.status in ("weak", "not_identified")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_published_table_gets_an_answer_or_a_named_refusal(laws_dir, name):
    table = read_table(laws_dir / name, mapping=TABLES[name])
    report = fit_table(table, resamples=60, detail=False)
    record = json.dumps(report.to_dict(), allow_nan=False)
    assert "sweep.fit/1" in record
    if report.status == "not_identified":
        failed = [c for c in report.checks if not c.passed and c.severity == "refuse"]
        assert failed
        assert report.message.startswith("NOT IDENTIFIED. R")
    else:
        row = report.optimum[0]
        ratio = row.tokens / row.params
        assert row.interval.low <= ratio <= row.interval.high
        assert 0.5 < ratio < 500


def test_olmos_ratio_carries_the_choice_of_law_that_its_runs_leave_open(laws_dir):
    """Alone, the six-parameter law would claim 70 to 86; the five-parameter one says 127."""
    table = read_table(laws_dir / "olmo_ladder_final.csv", mapping={"loss": "loss_c4_en"})
    report = fit_table(table, target_flops=1e22, resamples=50)
    row = report.optimum[0]
    alone = report.to_dict()["uncertainty"]["methods"][0]["interval"]
    assert alone[1] / alone[0] < 1.4
    assert row.interval.low < 55 < 110 < row.interval.high
    assert "widened by the law's form" in row.interval.method
    assert report.status == "weak"
