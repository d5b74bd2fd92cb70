"""Training curves: which of their points are data, the envelope's answer, and the refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.curves import read_envelope
from analysis.table import read_rows

SIZES = np.geomspace(3e7, 3e9, 13)
POINTS = 240


@pytest.fixture(scope="module")
def runs(besiroglu):
    """A table of one run a size, and its curves at a constant learning rate."""
    rows, curves = [], {}
    for i, N in enumerate(SIZES):
        D = np.geomspace(2 * N, 200 * N, POINTS)
        loss = np.asarray(besiroglu.loss(N, D))
        curves[f"t{i:02d}"] = {
            "tokens": D,
            "flops": 6 * N * D,
            "loss": loss,
            "learning_rate": np.full(POINTS, 3e-4),
        }
        rows.append({"trial_id": f"t{i:02d}", "params": N, "tokens": D[-1], "loss": loss[-1]})
    return read_rows(pd.DataFrame(rows)), curves


@pytest.fixture(scope="module")
def horizons(besiroglu):
    """A table of five decayed runs a size, and their curves: too high before the end."""
    rows, curves = [], {}
    for i, N in enumerate(SIZES):
        for j, D_end in enumerate(N * np.geomspace(4, 130, 5)):
            share = np.linspace(0.02, 1.0, 40)
            loss = np.asarray(besiroglu.loss(N, share * D_end)) * (1 + 0.05 * (1 - share))
            name = f"t{i:02d}-{j}"
            curves[name] = {
                "tokens": share * D_end,
                "flops": 6 * N * share * D_end,
                "loss": loss,
                "learning_rate": 3e-4 * 0.5 * (1 + np.cos(np.pi * share)),
            }
            rows.append({"trial_id": name, "params": N, "tokens": D_end, "loss": loss[-1]})
    return read_rows(pd.DataFrame(rows)), curves


def without_rates(curves):
    return {k: {q: v for q, v in c.items() if q != "learning_rate"} for k, c in curves.items()}


def test_whole_curves_at_a_constant_rate_give_the_frontier_of_their_law(runs, besiroglu):
    table, curves = runs
    found = read_envelope(table, curves)
    assert "13 whole curves at a constant learning rate" in found.reason
    assert found.fit.exponent_N == pytest.approx(besiroglu.exponent_N, abs=0.02)
    truth = besiroglu.optimum(1e21).tokens_per_parameter
    assert found.fit.tokens_per_parameter(1e21) == pytest.approx(truth, rel=0.1)
    low, high = found.fit.ratio_interval(1e21, confidence=0.9)
    assert low < truth < high < 2 * low


def test_the_lines_of_resampled_runs_lie_around_the_line_far_beyond_the_runs(runs):
    table, curves = runs
    fit = read_envelope(table, curves).fit
    low, high = fit.ratio_interval(1e30, confidence=0.02)
    assert np.sqrt(low * high) == pytest.approx(fit.tokens_per_parameter(1e30), rel=0.4)
    assert fit.tokens_per_parameter(1e30) < 0.8 * fit.tokens_per_parameter(1e20)


def test_of_decayed_curves_only_the_ends_are_data(horizons, besiroglu):
    table, curves = horizons
    found = read_envelope(table, curves)
    assert "points before an end are not data" in found.reason
    truth = besiroglu.optimum(1e20).tokens_per_parameter
    assert found.fit.tokens_per_parameter(1e20) == pytest.approx(truth, rel=0.15)
    worse = {k: {**c, "loss": np.r_[c["loss"][:-1] * 3, c["loss"][-1]]} for k, c in curves.items()}
    again = read_envelope(table, worse)
    assert again.fit.tokens_per_parameter(1e20) == found.fit.tokens_per_parameter(1e20)


def test_one_cosine_a_size_is_refused_in_words(horizons):
    table, curves = horizons
    found = read_envelope(table, {k: c for k, c in curves.items() if k.endswith("-4")})
    assert found.fit is None
    assert "run stopped in mid-decay" in found.reason
    assert "0 sizes have 3 horizons" in found.reason


def test_curves_without_a_learning_rate_are_refused_and_named(runs):
    table, curves = runs
    found = read_envelope(table, without_rates(curves))
    assert found.fit is None
    assert "a cosine's points before its end are not data" in found.reason
    assert set(found.left_out) == set(curves)


def test_curves_that_all_stopped_in_their_decay_are_refused_in_words(horizons):
    table, curves = horizons
    stopped = {
        k: {**c, "learning_rate": np.linspace(1.0, 0.5, len(c["learning_rate"])) * 3e-4}
        for k, c in curves.items()
    }
    found = read_envelope(table, stopped)
    assert found.fit is None
    assert "none of its points is data" in found.reason
    assert set(found.left_out) == set(curves)


def test_constant_and_decayed_curves_are_not_compared(runs, horizons):
    table, curves = horizons
    some = dict(curves)
    some["t00-0"] = {**some["t00-0"], "learning_rate": np.full(40, 3e-4)}
    found = read_envelope(table, some)
    assert found.fit is None
    assert "1 curves at a constant learning rate and 64 decayed ones" in found.reason


def test_a_run_that_stopped_in_its_decay_is_left_out_with_the_reason(horizons):
    table, curves = horizons
    rate = curves["t03-2"]["learning_rate"]
    some = {**curves, "t03-2": {**curves["t03-2"], "learning_rate": np.maximum(rate, 1.2e-4)}}
    found = read_envelope(table, some)
    assert found.fit is not None
    assert "40% of its peak" in found.left_out["t03-2"]


def test_warmup_is_not_part_of_a_constant_curve(runs):
    table, curves = runs
    warm = {
        k: {
            **c,
            "learning_rate": np.minimum(3e-4, 3e-4 * np.arange(1, POINTS + 1) / 30),
            "loss": np.where(np.arange(POINTS) < 26, 0.5, c["loss"]),
        }
        for k, c in curves.items()
    }
    bare = read_envelope(table, curves).fit
    assert read_envelope(table, warm).fit.exponent_N == pytest.approx(bare.exponent_N, abs=0.02)


def test_curves_of_runs_that_the_fit_leaves_out_are_left_out_too(runs):
    table, curves = runs
    keep = table.used["trial_id"].to_numpy() != "t05"
    found = read_envelope(table.select(keep, reason="diverged"), curves)
    assert found.left_out == {"t05": "not among the runs that the fit uses"}
    no_names = read_rows(pd.DataFrame({"params": SIZES, "tokens": 20 * SIZES, "loss": 2.0}))
    assert "no trial_id" in read_envelope(no_names, curves).reason


def test_three_sizes_have_no_line(runs):
    table, curves = runs
    found = read_envelope(table, {k: curves[k] for k in ("t00", "t01", "t02")})
    assert found.fit is None
    assert "the envelope has no line" in found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": None}, "loss is missing"),
        ({"loss": [1.0, 2.0]}, "equally long"),
        ({"tokens": np.zeros(POINTS)}, "tokens must be positive and finite"),
        ({"loss": np.full(POINTS, np.nan)}, "loss must be positive and finite"),
        ({"learning_rate": np.zeros(POINTS)}, "learning_rate must be positive and finite"),
    ],
)
def test_malformed_curves_are_errors_that_name_the_curve(runs, change, words):
    table, curves = runs
    broken = {q: v for q, v in {**curves["t00"], **change}.items() if v is not None}
    with pytest.raises(ValueError, match=f"curve t00: .*{words}"):
        read_envelope(table, {**curves, "t00": broken})


def test_the_report_carries_the_envelope_only_when_curves_are_given(horizons):
    table, curves = horizons
    plain = fit_table(table, target_flops=1e21, resamples=0).to_dict()
    assert "envelope" not in plain
    report = fit_table(table, target_flops=1e21, resamples=0, curves=curves).to_dict()
    found = report.pop("envelope")
    # It is one estimator more: on the sensitivity page and in T5, and nowhere else.
    shared = set(plain) - {"sensitivity", "validation"}
    assert {k: report[k] for k in shared} == {k: plain[k] for k in shared}
    assert (found["status"], found["target_flops"]) == ("fitted", 1e21)
    ratio = report["optimum"][0]["tokens_per_parameter"]
    assert found["interval"][0] < ratio < found["interval"][1]
    assert found["tokens_per_parameter"] == pytest.approx(ratio, rel=0.2)
    refused = fit_table(table, resamples=0, curves=without_rates(curves)).to_dict()["envelope"]
    assert (refused["status"], refused["exponent_N"]) == ("refused", None)
    json.dumps(refused, allow_nan=False)


def test_the_envelope_enters_the_sensitivity_table_and_the_agreement_of_estimators(runs, horizons):
    table = horizons[0]
    curves = {f"{name}-0": curve for name, curve in runs[1].items()}
    report = fit_table(table, curves=curves, resamples=20, target_flops=1e21)
    ratio = report.detail["envelope"]["tokens_per_parameter"]
    variants = {v["name"]: v for v in report.detail["sensitivity"]["variants"]}
    assert variants["envelope of training curves"]["tokens_per_parameter"] == ratio
    (agreement,) = [t for t in report.detail["validation"] if t["test"] == "T5"]
    assert f"envelope {ratio:.3g} (" in agreement["message"]
    # Half as much loss for the large models: curves of other runs than the table's.
    wrong = {
        name: {**curve, "loss": curve["loss"] * np.linspace(1, 0.4, len(curves))[i]}
        for i, (name, curve) in enumerate(curves.items())
    }
    apart = fit_table(table, curves=wrong, resamples=20, target_flops=1e21)
    (agreement,) = [t for t in apart.detail["validation"] if t["test"] == "T5"]
    assert agreement["passed"] is False
    assert any(line.startswith("T5:") for line in apart.warnings)


def test_the_end_of_a_decayed_run_is_its_row_of_the_table(horizons):
    table, curves = horizons
    # The training loss of the last batch is another number than the held-out loss.
    noisy = {k: {**c, "loss": c["loss"] * 1.3} for k, c in curves.items()}
    assert read_envelope(table, noisy).fit.log_N == read_envelope(table, curves).fit.log_N
    np.testing.assert_array_equal(
        read_envelope(table, noisy).fit.points, read_envelope(table, curves).fit.points
    )
