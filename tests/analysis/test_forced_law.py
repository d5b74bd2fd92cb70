"""A law that the caller asks for, the dearest level held out, and ratios in bytes."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.bytes import bytes_per_token
from analysis.holdout import forecast_top
from analysis.table import read_rows


@pytest.fixture(scope="module")
def table(isoflop_frame, besiroglu):
    return read_rows(isoflop_frame(besiroglu))


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ("chinchilla", "by the surface fit, the law that was asked for, to 28 runs"),
        ("skaling", "six-parameter law, the law that was asked for"),
        ("tied", "equal exponents were asked for, not found"),
        ("pinned", "the exponents are a published law's, not these runs'"),
        ("isoflop", "a line through minima gives no more than a weak answer"),
    ],
)
def test_the_law_that_was_asked_for_answers_and_is_named(table, law, words):
    report = fit_table(table, target_flops=1e20, resamples=50, law=law)
    assert report.headline_law == law
    assert words in report.message
    assert any(f"chosen by the caller ({law})" in w for w in report.warnings)
    row = report.optimum[0]
    if law != "isoflop":
        expected = report.laws[law]["tokens_per_parameter"]
        assert row.tokens / row.params == pytest.approx(expected, rel=1e-9)
    if law in ("tied", "pinned", "isoflop"):
        assert report.status == "weak"


def test_asking_for_the_law_that_the_data_choose_changes_words_only(table):
    free = fit_table(table, target_flops=1e20, resamples=50).to_dict()
    asked = fit_table(table, target_flops=1e20, resamples=50, law="chinchilla").to_dict()
    assert free["headline_law"] == "chinchilla"
    for key in ("status", "optimum", "laws", "checks", "uncertainty", "profile"):
        assert asked[key] == free[key]


def test_a_law_that_the_runs_cannot_carry_is_refused_by_its_name(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    report = fit_table(read_rows(frame.assign(level=range(len(frame)))), law="isoflop", resamples=0)
    assert report.status == "not_identified"
    assert report.optimum == ()
    assert report.message.endswith("Asked: isoflop.")
    assert any("cannot be fitted with it" in w for w in report.warnings)


def test_an_unknown_law_is_an_error_that_lists_the_known_ones(table):
    with pytest.raises(ValueError, match="one of chinchilla, skaling, tied, pinned, isoflop; got"):
        fit_table(table, law="chinchila")


def test_the_dearest_level_is_forecast_from_the_cheaper_ones(isoflop_frame, besiroglu):
    computes = tuple(10 ** (18 + 0.5 * i) for i in range(5))
    clean = isoflop_frame(besiroglu, computes=computes, noise=0.002, seed=4)
    whole = read_rows(clean)
    found = forecast_top(whole, fit_table(whole, resamples=0), resamples=100)
    assert (found.n_held_out, found.n_fitted, found.law) == (7, 28, "chinchilla")
    assert found.flops == pytest.approx(1e20)
    assert found.rms < 0.005
    assert abs(found.bias) <= found.rms
    assert found.inside >= 0.7
    low, high = found.interval
    assert low < found.measured_tokens_per_parameter < high
    assert found.message.startswith("the 7 dearest runs (1e+20 FLOPs), held out and forecast")
    assert found.message.endswith("inside")
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_dearest_level_off_the_law_is_scored_as_missed(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu, noise=0.001)
    top = frame["level"] == 3
    frame.loc[top, "loss"] *= 1.05
    table = read_rows(frame)
    found = forecast_top(table, fit_table(table, resamples=0), resamples=0)
    assert found.bias == pytest.approx(-math.log(1.05), abs=0.01)
    assert found.inside == 0.0


def test_without_levels_the_dearest_fifth_is_held_out(besiroglu):
    rng = np.random.default_rng(0)
    C = np.exp(rng.uniform(np.log(1e18), np.log(1e21), 60))
    N = np.sqrt(C / 120) * np.exp(rng.uniform(-1.5, 1.5, 60))
    D = C / (6 * N)
    L = np.asarray(besiroglu.loss(N, D)) * np.exp(0.003 * rng.standard_normal(60))
    table = read_rows(pd.DataFrame({"params": N, "tokens": D, "loss": L}))
    found = forecast_top(table, fit_table(table, resamples=0), resamples=0)
    assert found.n_held_out == 12
    assert found.rms < 0.01
    assert "no interior minimum was measured" in found.message


def test_one_level_has_nothing_to_forecast_it_from(isoflop_frame, besiroglu):
    table = read_rows(isoflop_frame(besiroglu, computes=(1e19,)))
    with pytest.raises(ValueError, match="needs cheaper runs; 7 of 7 runs are in it"):
        forecast_top(table, fit_table(table, resamples=0))


def test_too_few_cheaper_runs_carry_no_law_and_it_is_said(isoflop_frame, besiroglu):
    table = read_rows(isoflop_frame(besiroglu, computes=(1e18, 1e19), sizes=3))
    found = forecast_top(table, fit_table(table, resamples=0), resamples=0)
    assert found.law is None
    assert "the 3 cheaper runs carry no law" in found.message


def test_loss_and_bits_per_byte_together_give_the_ratio_in_bytes(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    plain = fit_table(read_rows(frame), target_flops=1e20, resamples=0).to_dict()["optimum"]
    frame["bpb"] = frame["loss"] / (math.log(2) * 4.3)
    rows = fit_table(read_rows(frame), target_flops=1e20, resamples=0).to_dict()["optimum"]
    for row, bare in zip(rows, plain, strict=True):
        assert row["bytes_per_parameter"] == pytest.approx(4.3 * row["tokens_per_parameter"])
        assert row["bytes_per_parameter_interval"] == pytest.approx(
            [4.3 * row["interval"][0], 4.3 * row["interval"][1]]
        )
        assert row["bpb"] == pytest.approx(row["loss"] / math.log(2) / 4.3)
        assert "bpb" not in bare
        assert {k: row[k] for k in bare} == bare


def test_two_tokenizers_have_no_bytes_a_token_and_a_warning(isoflop_frame, besiroglu):
    frame = isoflop_frame(besiroglu)
    sizes = np.where(np.arange(len(frame)) % 2, 4.3, 3.9)
    table = read_rows(frame.assign(bpb=frame["loss"] / (math.log(2) * sizes)))
    assert bytes_per_token(table) is None
    report = fit_table(table, target_flops=1e20, resamples=0)
    assert any("3.9 to 4.3 bytes a token" in w for w in report.warnings)
    assert "bytes_per_parameter" not in report.to_dict()["optimum"][0]
