"""What is published about the other tables, reproduced from them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.families import MOE_EXPERTS, OVERTRAINING, fit_family
from analysis.fit import fit_surface
from analysis.laws import CHINCHILLA, SKALING

SCRIPT = Path(__file__).parents[1] / "bench" / "validate_tables.py"
_spec = importlib.util.spec_from_file_location("validate_tables", SCRIPT)
validate = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = validate
_spec.loader.exec_module(validate)


DATA = Path(__file__).parents[1] / "data"
GEMSTONES = {
    ("cool_begin", True): (0.0019515326, 0.0002035445),
    ("cool_begin", False): (0.0017125887, 0.0001795024),
    ("cool_end", True): (0.0019640865, 0.0002059406),
    ("cool_end", False): (0.001713242, 0.0001799117),
    ("hot", True): (0.0019816129, 0.0002076018),
    ("hot", False): (0.0017466699, 0.0001838567),
    ("hot_100b+", True): (0.0065925344, 0.00069233),
    ("hot_100b+", False): (0.0053939495, 0.0005719375),
    ("hot_100b+_512x", True): (7.92507e-05, 1.67819e-05),
    ("hot_120b+_only", True): (0.0038623994, 0.0004080789),
    ("hot_120b+_only", False): (0.002912928, 0.0003126897),
    ("hot_sampled_like_chinchilla", True): (0.0002173794, 2.25732e-05),
    ("lr_ablation_hot", True): (0.0019728624, 0.0002059023),
    ("lr_ablation_hot", False): (0.0018048408, 0.0001889824),
    ("lr_ablation_hot_sampled_like_chinchilla", True): (0.0002022731, 2.11338e-05),
    ("slim_chinchilla", True): (0.0001204363, 1.33978e-05),
}
"""Objectives of the 32 fits that Gemstones shipped, by table and by whether embeddings count, at
Huber widths 1e-3 and 1e-4, printed there to ten decimals."""


def gemstones(laws_dir, name):
    """The runs of one shipped fit: every fifth logged step, and the last, of the longer tables."""
    if name == "lr_ablation_hot_sampled_like_chinchilla":
        return pd.read_csv(DATA / "gemstones_lr_ablation_sampled.csv", comment="#")
    source = {"hot": "hot_477", "lr_ablation_hot": "lr_ablation_hot_477"}.get(name, name)
    source = "hot_100bplus_477" if name.startswith("hot_1") else source
    frame = pd.read_csv(laws_dir / f"gemstones_{source}.csv")
    if source.endswith("477"):
        frame = frame[(frame["step"] % 2385 == 0) | (frame["step"] == 23840)]
    if name.endswith("120b+_only"):
        return frame[frame["D"] > 120e9]
    return frame[frame["width"] == 512] if name.endswith("512x") else frame


def columns(frame, *names):
    return tuple(frame[name].to_numpy(dtype=float) for name in names)


@pytest.mark.parametrize(
    ("name", "embedded"), GEMSTONES, ids=[n + " " * (not e) for n, e in GEMSTONES]
)
def test_no_fit_ends_above_one_that_gemstones_shipped(laws_dir, name, embedded):
    frame = gemstones(laws_dir, name)
    N, D, L = columns(frame, "N", "D", "loss")
    if not embedded:
        N = N - 50304 * frame["width"].to_numpy(dtype=float)
    for delta, shipped in zip((1e-3, 1e-4), GEMSTONES[name, embedded], strict=True):
        fit = fit_surface(N, D, L, huber_delta=delta)
        assert fit.objective <= shipped + 5e-11
        assert fit.objective == pytest.approx(shipped, rel=0.25 if "512x" in name else 0.03)
        # Runs of one width alone have no exponent of N, at whatever value the minimum lies.
        assert fit.at_bound == (("alpha",) if "512x" in name else ())


@pytest.mark.parametrize(
    ("name", "exponent", "ratio"),
    [("gemstones_slim_chinchilla", 0.722, 3.95), ("gemstones_cool_end", 0.661, 16.5)],
)
def test_gemstones_tables_have_their_known_minimum_at_the_tiny_width(
    laws_dir, name, exponent, ratio
):
    # The shipped fits (0.632 and 9.3; 0.699 and 13.7) stopped short of it.
    points = columns(pd.read_csv(laws_dir / f"{name}.csv"), "N", "D", "loss")
    law = fit_surface(*points, huber_delta=1e-4).surface
    assert law.exponent_N == pytest.approx(exponent, abs=1e-3)
    assert law.optimum(1e21).tokens_per_parameter == pytest.approx(ratio, rel=0.01)


def test_five_cheap_models_forecast_gadres_two_dear_ones(laws_dir):
    frame = pd.read_csv(laws_dir / "gadre_overtraining.csv")
    frame = frame[frame["train_data"] == "rpj"]
    small = (frame["N"] < 5e8) & np.isclose(frame["chinchilla_mult"], 1.0)
    longest = (frame["N"] < 2e7) & np.isclose(frame["chinchilla_mult"], 16.0)
    cheap = frame[small | longest]
    assert len(cheap) == 5
    N, D, L = columns(cheap, "N", "D", "loss_c4_val")
    fit = fit_family(OVERTRAINING, L, C=6 * N * D, M=D / N, logarithmic=False, starts=24)
    overtrained = frame[(frame["N"] > 1e9) & (frame["N"] < 2e9) & (frame["chinchilla_mult"] == 32)]
    largest = frame[frame["N"] > 6e9]
    for held, error in ((overtrained, 0.0071), (largest, 0.0073)):
        N, D, L = columns(held, "N", "D", "loss_c4_val")
        found = OVERTRAINING.loss(fit.theta, C=6 * N * D, M=D / N) / L - 1
        assert np.abs(found) == pytest.approx([error], abs=1e-4)


def test_step_laws_best_runs_follow_the_six_parameter_law(laws_dir):
    frame = pd.read_csv(laws_dir / "steplaw_dense_best_per_ND.csv")
    N, D, L = columns(frame, "N", "D", "smooth_loss")
    five, six = (fit_surface(N, D, L, form=f, huber_delta=1e-3) for f in (CHINCHILLA, SKALING))
    assert np.abs(five.residuals).mean() == pytest.approx(0.0028, abs=1e-4)
    assert np.abs(six.residuals).mean() == pytest.approx(0.0009, abs=1e-4)
    top = 6 * float((N * D).max())
    assert six.surface.optimum(top).tokens_per_parameter == pytest.approx(28.9, abs=0.2)
    # Published is 2.0 for five parameters: a ratio that the objective moves threefold. It lies at
    # the far end of a curved valley, where every start must arrive.
    assert five.certificate.agreeing == five.certificate.starts
    squares = fit_surface(N, D, L, huber_delta=np.inf)
    ratios = [f.surface.optimum(top).tokens_per_parameter for f in (five, squares)]
    assert ratios == pytest.approx([2.05, 6.43], rel=0.01)


def test_step_laws_rules_are_within_a_factor_two_of_every_cells_best(laws_dir):
    frame = pd.read_csv(laws_dir / "steplaw_dense_all.csv")
    best = frame.loc[frame.groupby(["N", "D"])["smooth_loss"].idxmin()]
    N, D, rate, sequences = columns(best, "N", "D", "lr", "bs")
    for found in (
        rate / (1.79 * N**-0.713 * D**0.307),
        2048 * sequences / (0.58 * D**0.571),
    ):
        assert np.abs(np.log(found)).max() < np.log(2)
        assert abs(np.log(found).mean()) < np.log(1.3)


def test_porians_tuned_runs_give_the_published_ratio(laws_dir):
    frame = pd.read_csv(laws_dir / "porian_optimal_pairs.csv")
    rows = frame[(frame["table"] == "summary_df") & (frame["hparams"] == "tuned")]
    rows = rows[np.isfinite(rows["n_star_std"])]
    C, N, sd = columns(rows, "C", "N_star", "n_star_std")
    line = np.polyfit(np.log(C), np.log(N), 1, w=1 / sd)
    params = float(np.exp(np.polyval(line, np.log(5.88e23))))
    assert params == pytest.approx(7.7e10, rel=0.01)
    assert 5.88e23 / (6 * params**2) == pytest.approx(16.5, rel=0.01)


def test_expert_law_describes_scalebenchs_copy_of_the_routing_table(laws_dir):
    frame = pd.read_csv(laws_dir / "scalebench_moe_scaling_law.csv")
    N, X, L = columns(frame, "dense_parameter_count", "num_experts", "loss_validation")
    found = MOE_EXPERTS.loss(np.array(MOE_EXPERTS.published), N=N, X=X)
    assert np.median(np.abs(np.log(found) - np.log(L))) < 0.03


@pytest.mark.parametrize("case", [c for c in validate.CASES if c.ratio], ids=lambda c: c.label)
def test_the_fit_has_the_published_optimum_or_refuses_with_a_rule(laws_dir, case):
    found = validate.outcome(laws_dir, case, resamples=100)
    assert found.verdict in ("inside", "refused")
    if found.verdict == "refused":
        assert found.words.startswith("R")
    else:
        assert case.law is None or found.law == case.law


def test_every_published_table_is_validated(laws_dir):
    named = {case.name for case in validate.CASES} | set(validate.NOT_FITTED)
    assert {path.name for path in laws_dir.glob("*.csv")} == named


def refusal(why, *, verdict="refused", ratio=20.0):
    case = validate.Case(name="t.csv", ratio=ratio, why_refused=why)
    words = "R2: D/N outside; R4: the interval spans 69x"
    return case, validate.Outcome(status="not_identified", verdict=verdict, words=words)


def test_a_published_optimum_that_is_refused_is_listed_with_its_rules_and_its_reason():
    lines = validate.refusals([refusal("too far"), refusal("", ratio=None)])
    assert lines[-1] == "- t.csv (R2, R4): too far."


@pytest.mark.parametrize("found", [refusal(""), refusal("too far", verdict="inside")])
def test_a_refusal_without_a_reason_or_a_reason_without_a_refusal_is_a_fault(found):
    with pytest.raises(ValueError, match=r"t\.csv: verdict"):
        validate.refusals([found])
