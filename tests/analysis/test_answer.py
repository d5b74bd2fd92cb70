"""fit_table: recovery, refusals, the shape of fit.json."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.checks import Facts, run_checks
from analysis.files import read_fit, read_table, write_fit, write_table
from analysis.isoflop import fit_levels
from analysis.laws import Surface
from analysis.predict import compute_for, predict_loss
from analysis.table import TableError, read_rows

KEYS = {
    "schema",
    "status",
    "message",
    "n_points",
    "headline_law",
    "laws",
    "isoflop",
    "optimum",
    "conventions",
    "checks",
    "warnings",
}

QUICKSTART = {
    1e11: [(2.8e3, 2.406), (6.5e3, 2.324), (10e3, 2.266), (20e3, 2.336), (33e3, 2.526)],
    3.16e11: [(6.5e3, 2.171), (10e3, 2.063), (20e3, 2.037), (33e3, 2.061), (68e3, 2.372)],
    0.998e12: [(6e3, 2.12), (10e3, 1.970), (20e3, 1.836), (45e3, 1.854), (80e3, 1.96)],
}


def quickstart_frame():
    return pd.DataFrame(
        [
            {
                "level": i,
                "params_matmul": N,
                "params_total": 1.2 * N,
                "tokens": C / (6.4 * N),
                "flops": C,
                "loss": loss,
                "steps": 700,
            }
            for i, (C, runs) in enumerate(QUICKSTART.items())
            for N, loss in runs
        ]
    )


def test_a_clean_isoflop_sweep_is_identified_and_brackets_the_truth(isoflop_frame, besiroglu):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=500)
    assert report.status == "identified"
    assert report.headline_law == "chinchilla"
    row = report.optimum[0]
    truth = besiroglu.optimum(1e20).tokens_per_parameter
    assert row.interval.low < truth < row.interval.high
    assert row.interval.fold < 2.5


def test_quickstart_losses_with_interior_minima_are_not_refused():
    report = fit_table(read_rows(quickstart_frame()), target_flops=0.998e13, resamples=500)
    assert report.status in ("identified", "weak")
    assert len([level for level in report.isoflop if level.accepted]) == 3
    assert 30 < report.optimum[0].tokens / report.optimum[0].params < 400


def test_published_table_gives_the_published_ratio_by_default(laws_dir):
    table = read_table(laws_dir / "epoch_chinchilla.csv")
    report = fit_table(table, target_flops=5.76e23, resamples=300)
    record = report.to_dict()
    assert record["n_points"] == 240
    assert record["laws"]["chinchilla"]["objective"] <= 0.0010182740178006 + 1e-12
    assert record["optimum"][0]["tokens_per_parameter"] == pytest.approx(17.9, abs=0.3)
    assert record["status"] == "weak"


def test_report_holds_the_documented_keys_and_strict_json(isoflop_frame, besiroglu, tmp_path):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=200)
    record = read_fit(write_fit(report, tmp_path / "fit.json"))
    assert set(record) >= KEYS
    assert record["schema"] == "sweep.fit/1"
    row = record["optimum"][0]
    assert row["flops"] == 1e20
    assert set(row) >= {
        "params",
        "tokens",
        "tokens_per_parameter",
        "interval",
        "confidence",
        "near_optimal",
        "extrapolation",
        "loss",
    }
    assert set(row["near_optimal"]) == {"waste_1pct", "waste_5pct"}
    computes = [r["flops"] for r in record["optimum"]]
    assert computes == pytest.approx(
        [1e20, *report.isoflop_flops(), 9.487e19, 3.16e20, 9.487e20], rel=1e-3
    )
    law = record["laws"]["chinchilla"]
    assert set(law) >= {
        "E",
        "A",
        "B",
        "alpha",
        "beta",
        "exponent_N",
        "exponent_D",
        "objective",
        "huber_delta",
        "interval",
    }
    assert set(record["isoflop"][0]) >= {
        "level",
        "flops",
        "n_points",
        "params_opt",
        "tokens_opt",
        "tokens_per_parameter",
        "sd_ln_params",
        "accepted",
        "reason",
        "curve",
    }
    assert all(set(c) >= {"rule", "passed", "message"} for c in record["checks"])
    json.dumps(record, allow_nan=False)


def test_near_optimal_band_is_the_published_width(isoflop_frame, besiroglu):
    report = fit_table(read_rows(isoflop_frame(besiroglu, noise=1e-5)), resamples=0)
    row = report.optimum[0]
    ratio = row.tokens / row.params
    low, high = row.near_optimal["waste_1pct"]
    assert high / ratio == pytest.approx(1.40, abs=0.02)
    assert ratio / low == pytest.approx(1.40, abs=0.02)
    low, high = row.near_optimal["waste_5pct"]
    assert high / ratio == pytest.approx(2.14, abs=0.05)


def test_real_flops_move_the_optimum_off_the_6nd_closed_form(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu, noise=1e-6)
    excess = 1 + 0.5 * (frame["params_matmul"] / 1e8) ** (-1 / 3)
    frame["flops"] *= excess
    frame["level"] = frame["flops"].rank(method="first")  # the levels are no longer equal-compute
    report = fit_table(read_rows(frame), target_flops=1e20, resamples=0)
    numbers = report.conventions["matmul"]
    truth = besiroglu.optimum_along(
        1e20, lambda N: 6 * N * (1 + 0.5 * (np.asarray(N) / 1e8) ** (-1 / 3))
    )
    assert numbers["tokens_per_parameter"] == pytest.approx(truth.tokens_per_parameter, rel=0.05)
    assert numbers["tokens_per_parameter_6nd"] == pytest.approx(
        besiroglu.optimum(1e20).tokens_per_parameter, rel=0.02
    )
    assert numbers["cost"] == "measured FLOPs per token"


def test_every_convention_of_the_table_gets_its_ratio(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    frame["params_total"] = frame["params_matmul"] * 1.3
    report = fit_table(read_rows(frame), target_flops=1e20, resamples=0)
    ratio = {k: v["tokens_per_parameter"] for k, v in report.conventions.items()}
    assert ratio["matmul"] == pytest.approx(1.3 * ratio["total"], rel=1e-6)


def test_countings_that_advise_the_same_tokens_add_nothing_to_the_band(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    frame["params_total"] = frame["params_matmul"] * 1.3
    report = fit_table(read_rows(frame), target_flops=1e20, resamples=0)
    advice = [v["tokens_per_parameter_as_reported"] for v in report.conventions.values()]
    assert advice[0] == pytest.approx(report.conventions["matmul"]["tokens_per_parameter"])
    assert advice[1] == pytest.approx(advice[0], rel=1e-6)
    assert report.detail["model_form"]["sd_ln_ratio_counting"] == pytest.approx(0.0, abs=1e-6)


def test_countings_that_bend_the_law_widen_the_band(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    # Embeddings outweigh the rest of the small models, so the other count has another exponent.
    frame["params_total"] = frame["params_matmul"] * (
        1 + 2 * (frame["params_matmul"] / 1e8) ** (-2 / 3)
    )
    report = fit_table(read_rows(frame), target_flops=1e20, resamples=0)
    form = report.detail["model_form"]
    own, law, counting = (form[f"sd_ln_ratio_{k}"] for k in ("own", "form", "counting"))
    assert counting > 0.02
    low, high = form["interval"]
    assert np.log(high / low) == pytest.approx(
        2 * 1.645 * np.sqrt(own**2 + law**2 + counting**2), rel=1e-6
    )


def refusal(frame, **options):
    report = fit_table(read_rows(frame), resamples=200, **options)
    assert report.status == "not_identified"
    assert report.headline_law is None
    assert report.optimum == ()
    assert report.message.startswith("NOT IDENTIFIED")
    return {c.rule for c in report.checks if not c.passed and c.severity == "refuse"}


def test_one_ratio_is_refused(besiroglu):
    N = np.geomspace(1e7, 1e9, 12)
    frame = pd.DataFrame(
        {"params": N, "tokens": 20 * N, "loss": np.asarray(besiroglu.loss(N, 20 * N))}
    )
    assert "R3" in refusal(frame)


def test_one_size_is_refused(besiroglu):
    D = np.geomspace(1e9, 1e11, 12)
    frame = pd.DataFrame({"params": 1e8, "tokens": D, "loss": np.asarray(besiroglu.loss(1e8, D))})
    assert "R1" in refusal(frame)


def test_minima_at_the_edge_are_refused(isoflop_frame, besiroglu):
    assert "R2" in refusal(isoflop_frame(besiroglu, offset=12.0))


def test_two_levels_of_few_runs_are_refused(isoflop_frame, besiroglu):
    assert "R1" in refusal(isoflop_frame(besiroglu, computes=(1e18, 1e19), sizes=5))


def test_mixed_tokenizers_are_refused(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    frame["tokenizer"] = ["bytes", "gpt2"] * (len(frame) // 2)
    assert "R8" in refusal(frame)


def test_many_epochs_are_refused(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    frame["epochs"] = np.linspace(0.5, 9, len(frame))
    assert "R8" in refusal(frame)


def test_a_far_target_is_refused_and_a_tenfold_one_is_not(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    assert "R3" in refusal(frame, target_flops=1e23)
    table = read_rows(frame)
    assert fit_table(table, target_flops=10 * frame["flops"].max()).status == "identified"


def test_an_interval_over_sixteen_fold_is_refused_and_nothing_else_is_wrong(
    isoflop_frame, besiroglu
):
    """Five per cent of noise: a 95 % interval of 42-fold, and no other rule refuses."""
    assert refusal(isoflop_frame(besiroglu, noise=0.05, seed=1), target_flops=1e20) == {"R4"}
    report = fit_table(
        read_rows(isoflop_frame(besiroglu, noise=0.03)), target_flops=1e20, resamples=200
    )
    assert report.status == "weak"
    assert "R4: the 95 % interval of D/N at the target spans" in report.message


@pytest.mark.parametrize(
    ("fold", "passed", "severity"),
    [
        (3.99, True, "warn"),
        (4.01, False, "warn"),
        (15.9, False, "warn"),
        (16.1, False, "refuse"),
        (None, False, "refuse"),
    ],
)
def test_intervals_are_weak_beyond_fourfold_and_refused_beyond_sixteenfold(fold, passed, severity):
    facts = Facts(
        n_points=28,
        n_distinct=28,
        n_sizes=20,
        n_tokens=28,
        levels_tested=4,
        levels_accepted=4,
        levels_at_edge=0,
        span_flops=30.0,
        span_ratio=256.0,
        ratio_range=(1.0, 256.0),
        extrapolation=3.0,
        ratio=16.0,
        fold95=fold,
        headline="chinchilla",
    )
    (check,) = (c for c in run_checks(facts) if c.rule == "R4")
    assert (check.passed, check.severity) == (passed, severity)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 11])
def test_tiny_tables_are_refused_not_crashed(rows):
    report = fit_table(read_rows(quickstart_frame().iloc[:rows]), resamples=50)
    assert report.status == "not_identified"
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_table_with_every_row_excluded_is_refused():
    report = fit_table(read_rows(quickstart_frame().assign(excluded="diverged")))
    assert report.status == "not_identified"
    assert "no run is left" in report.message


@pytest.mark.parametrize(
    "losses", [np.full(15, 2.0), np.linspace(1, 9, 15), np.geomspace(1, 2, 15)]
)
def test_senseless_losses_never_give_a_confident_number(losses):
    frame = quickstart_frame().assign(loss=losses)
    report = fit_table(read_rows(frame), resamples=100)
    assert report.status == "not_identified"
    json.dumps(report.to_dict(), allow_nan=False)


def test_excluded_rows_do_not_change_the_fit_and_are_counted(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    bad = frame.iloc[:1].assign(trial_id="bad", loss=np.nan, excluded="diverged")
    with_bad = read_rows(pd.concat([frame.assign(excluded=""), bad]))
    one = fit_table(with_bad, resamples=0)
    two = fit_table(read_rows(frame), resamples=0)
    assert one.laws["chinchilla"] == two.laws["chinchilla"]
    assert any("1 of 29 rows are excluded" in w for w in one.warnings)


def test_the_same_seed_gives_the_same_report(isoflop_frame, besiroglu):
    table = read_rows(isoflop_frame(besiroglu))
    one, two = (fit_table(table, resamples=100, seed=3).to_dict() for _ in range(2))
    assert one == two
    assert fit_table(table, resamples=100, seed=4).to_dict()["laws"] != one["laws"]


def test_symmetric_parabola_is_unbiased_and_asymmetric_bias_is_the_known_one():
    from analysis.laws import Surface

    def bias(alpha, beta, reach, points):
        law = Surface(E=1.7, A=400.0, B=400.0, alpha=alpha, beta=beta)
        C = 1e19
        best = law.optimum(C).params
        N = best * np.geomspace(1 / reach, reach, points)
        L = np.asarray(law.loss(N, C / (6 * N)))
        # The published figure fits the loss itself; its logarithm is a smooth change of it.
        p, q, _ = np.polyfit(np.log(N / best), L, 2)
        return float(np.exp(-q / (2 * p)) - 1)

    assert bias(0.31, 0.31, 4, 15) == pytest.approx(0.0, abs=1e-9)
    assert bias(0.34, 0.28, 2, 15) == pytest.approx(0.0033, abs=2e-4)


def test_a_level_with_its_minimum_at_the_edge_says_so(besiroglu):
    C = 1e19
    N = besiroglu.optimum(C).params * np.geomspace(1.5, 12, 6)
    L = np.asarray(besiroglu.loss(N, C / (6 * N)))
    (level,) = fit_levels(np.full(6, "a"), N, np.full(6, C), L, noise_sd=0.002)
    assert not level.accepted
    assert "edge" in level.reason


def test_tables_survive_csv_and_parquet_bit_for_bit(isoflop_frame, besiroglu, tmp_path):
    table = read_rows(isoflop_frame(besiroglu))
    for name in ("losses.csv", "losses.parquet"):
        path = write_table(table, tmp_path / name)
        again = read_table(path)
        pd.testing.assert_frame_equal(again.frame, table.frame, check_exact=True)
        first = path.read_bytes()
        write_table(again, path)
        assert path.read_bytes() == first


def test_unreadable_files_are_table_errors(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(TableError, match="empty"):
        read_table(empty)
    broken = tmp_path / "broken.parquet"
    broken.write_text("not parquet")
    with pytest.raises(TableError, match="CSV, TSV or parquet"):
        read_table(broken)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")


def test_a_foreign_json_is_not_a_fit(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": "other/1"}')
    with pytest.raises(ValueError, match="expected schema"):
        read_fit(path)


def test_a_report_prints_what_is_wrong_in_words(isoflop_frame, besiroglu):
    good = str(fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=50))
    assert good.startswith("status: identified")
    assert "tokens per parameter at 1e+20 FLOPs" in good
    bad = str(fit_table(read_rows(isoflop_frame(besiroglu, offset=12.0)), resamples=50))
    assert "NOT IDENTIFIED" in bad
    assert "R2 (refuse): the minimum lies at the grid's edge" in bad


def test_a_report_becomes_a_latex_table(isoflop_frame, besiroglu):
    text = fit_table(read_rows(isoflop_frame(besiroglu)), resamples=0).to_latex()
    assert text.startswith(r"\begin{tabular}")
    assert text.count(r"\\") == 5
    assert "chinchilla" in text


@pytest.mark.parametrize("name", ["params", "tokens", "loss"])
def test_the_compute_of_an_optimum_is_found_again(isoflop_frame, besiroglu, name):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), target_flops=1e20, resamples=0)
    row = report.optimum[0]
    fit = report.fits["chinchilla"]
    flops = compute_for(fit, cost=report.cost, **{name: getattr(row, name)})
    assert flops == pytest.approx(1e20, rel=1e-6)


def test_an_unreachable_loss_is_refused(isoflop_frame, besiroglu):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), resamples=0)
    fit = report.fits["chinchilla"]
    with pytest.raises(ValueError, match="no compute between"):
        compute_for(fit, cost=report.cost, loss=0.5 * fit.surface.E)
    with pytest.raises(ValueError, match="exactly one"):
        compute_for(fit, cost=report.cost, loss=2.0, params=1e9)


def test_predicted_loss_intervals_bracket_the_truth(isoflop_frame, besiroglu):
    report = fit_table(read_rows(isoflop_frame(besiroglu)), resamples=0)
    best = besiroglu.optimum(1e20)
    found = predict_loss(report.fits["chinchilla"], best.params, best.tokens)
    assert found.confidence_interval[0] < best.loss < found.confidence_interval[1]
    assert found.prediction_interval[0] < found.confidence_interval[0]
    assert found.prediction_interval[1] > found.confidence_interval[1]
    assert found.extrapolation >= 1.0


def test_public_names_come_from_the_package_itself():
    import analysis

    assert analysis.fit_table is fit_table
    assert "fit_surface" in dir(analysis)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        analysis.nothing  # noqa: B018


def test_a_very_large_table_is_fitted_without_hold_outs(besiroglu):
    rng = np.random.default_rng(0)
    C = np.exp(rng.uniform(np.log(1e18), np.log(1e21), 25_000))
    N = np.sqrt(C / 120) * np.exp(rng.uniform(-1.5, 1.5, len(C)))
    D = C / (6 * N)
    L = np.asarray(besiroglu.loss(N, D)) * np.exp(0.005 * rng.standard_normal(len(C)))
    table = read_rows(pd.DataFrame({"params": N, "tokens": D, "loss": L}))
    report = fit_table(table, target_flops=1e22, resamples=5, detail=False)
    ratio = report.optimum[0].tokens / report.optimum[0].params
    assert ratio == pytest.approx(besiroglu.optimum(1e22).tokens_per_parameter, rel=0.05)


def test_a_sharp_isoflop_line_answers_where_the_surface_fit_hardly_does():
    report = fit_table(read_rows(quickstart_frame()), target_flops=0.998e13, resamples=300)
    assert report.headline_law == "isoflop"
    assert report.status == "weak"
    assert report.optimum[0].interval.method == "isoflop line"
    assert {"waste_1pct", "waste_5pct"} == set(report.optimum[0].near_optimal)


def test_two_interior_minima_still_give_a_weak_answer():
    frame = quickstart_frame()
    cheap = frame["level"] == 0
    frame.loc[cheap, "loss"] = 2.33 + 0.4 * (frame.loc[cheap, "loss"] - 2.33)
    report = fit_table(read_rows(frame), target_flops=0.998e13, resamples=300)
    assert sum(level.accepted for level in report.isoflop) == 2
    assert (report.status, report.headline_law) == ("weak", "tied")
    assert "cannot tell the two exponents apart" in report.message


def test_levels_that_are_a_minor_part_of_the_runs_do_not_refuse_for_their_edges() -> None:
    """Two levels that miss the optimum, and many runs between them that bracket it."""
    law = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
    rng = np.random.default_rng(3)
    off = [
        (math.sqrt(c / 120) * 4 * 1.5**k, c, level)
        for level, c in (("1", 1e17), ("2", 1e18))
        for k in range(5)
    ]
    free = [
        (math.sqrt(c / 120) * x, c, "") for c in np.geomspace(1e17, 3e18, 6) for x in (0.3, 1, 3)
    ]
    rows = [
        {
            "params": n,
            "tokens": c / (6 * n),
            "level": level,
            "loss": float(law.loss(n, c / (6 * n))) * math.exp(0.002 * rng.standard_normal()),
        }
        for n, c, level in off + free
    ]
    both = fit_table(read_rows(pd.DataFrame(rows)), target_flops=1e19, resamples=0)
    assert both.status != "not_identified"
    levels = fit_table(read_rows(pd.DataFrame(rows[:10])), target_flops=1e19, resamples=0)
    assert levels.status == "not_identified"
