"""Other published laws: test vectors, recovery, their own tables."""

import numpy as np
import pandas as pd
import pytest

from analysis.cost import SIX_N
from analysis.families import (
    BATCH_STEPS,
    DATA_CONSTRAINED,
    FAMILIES,
    FARSEER,
    KAPLAN,
    MOE_EXPERTS,
    OVERTRAINING,
    SCHEDULE,
    annealing_areas,
    effective_data,
    fit_family,
    optimal_batch,
    optimum_along,
)
from analysis.fit import fit_surface, tied_exponents

INPUTS = {
    "N": np.geomspace(2e8, 5e9, 40),
    "D": np.geomspace(3e9, 2e11, 40)[::-1],
    "U": np.full(40, 2e10),
    "C": np.geomspace(1e18, 1e21, 40),
    "M": 20.0 * np.geomspace(0.1, 10, 40)[np.argsort(np.sin(np.arange(40)))],
    "X": np.tile([1.0, 8, 64, 256], 10),
    "G": np.tile([1.0, 2, 4, 8, 16], 8),
    "S": np.tile([0.0, 0.5, 0.75, 0.9], 10),
    "K": np.geomspace(1e3, 1e5, 40)[np.argsort(np.cos(np.arange(40)))],
    "S1": np.linspace(1.0, 30.0, 40),
    "S2": np.linspace(0.0, 0.4, 40) ** 2,
}


@pytest.mark.parametrize(
    ("N", "D", "U", "loss"),
    [
        (6.34e9, 242e9, 25e9, 2.2256440889984477),
        (8.67e9, 178e9, 25e9, 2.2269634075087867),
    ],
)
def test_data_constrained_law_gives_muennighoffs_test_vectors(N, D, U, loss):
    # The published vectors were computed with the constants of the repository, to more digits.
    theta = (6.255414, 7.3049974, 0.6254804, 0.3526596, 0.3526596, 15.387756, 5.309743)
    assert float(DATA_CONSTRAINED.loss(theta, N=N, D=D, U=U)) == pytest.approx(loss, abs=1e-12)


def test_repeated_tokens_are_worth_the_published_share():
    constants = {"A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}

    def worth(epochs):
        _, tokens = effective_data(
            np.array(1e6),
            np.array(1e9 * epochs),
            np.array(1e9),
            **constants,
            r_tokens=15.387756,
            r_params=5.309743,
        )
        return float(tokens) / (1e9 * epochs)

    assert worth(1) == 1.0
    assert worth(4) == pytest.approx(0.93, abs=0.01)
    assert worth(16) == pytest.approx(0.66, abs=0.01)
    assert worth(40) == pytest.approx(0.38, abs=0.01)
    assert worth(1e6) * 1e6 == pytest.approx(16.4, abs=0.05)


def test_data_constrained_law_without_repeats_is_chinchillas_with_a_constant_ratio():
    best = optimum_along(
        DATA_CONSTRAINED, np.array(DATA_CONSTRAINED.published), 1e21, SIX_N, U=1e30
    )
    expected = np.exp((7.3049974 - 6.255414) / 0.3526596)
    assert best.tokens_per_parameter == pytest.approx(expected, rel=1e-3)


def test_kaplans_law_has_its_limits():
    theta = np.array(KAPLAN.published)
    assert float(KAPLAN.loss(theta, N=1e9, D=1e30)) == pytest.approx((8.8e13 / 1e9) ** 0.076)
    assert float(KAPLAN.loss(theta, N=1e30, D=1e10)) == pytest.approx((5.4e13 / 1e10) ** 0.095)


def test_farseers_published_constants_fit_its_table(laws_dir):
    frame = pd.read_csv(laws_dir / "scalebench_farseer_scaling_law.csv")
    N, D, L = (frame[c].to_numpy(dtype=float) for c in ("N", "D", "loss"))
    error = np.log(FARSEER.loss(np.array(FARSEER.published), N=N, D=D)) - np.log(L)
    assert np.sqrt(np.mean(error**2)) < 0.006
    assert abs(error.mean()) < 0.003


def test_overtraining_form_is_the_tied_surface(laws_dir):
    frame = pd.read_csv(laws_dir / "gadre_overtraining.csv")
    rows = frame[(frame["train_data"] == "c4_original") & (frame["chinchilla_mult"] >= 0.9)]
    N, D, L = (rows[c].to_numpy(dtype=float) for c in ("N", "D", "loss_c4_val"))
    surface = fit_surface(N, D, L, huber_delta=np.inf, restriction=tied_exponents())
    tied = fit_family(OVERTRAINING, L, C=6 * N * D, M=D / N, starts=6)
    assert tied.rms == pytest.approx(float(np.sqrt(np.mean(surface.residuals**2))), rel=1e-3)
    assert 2 * tied.theta[3] == pytest.approx(surface.surface.alpha, rel=1e-2)
    assert tied.rms < 0.03


def test_expert_law_describes_the_routing_table(laws_dir):
    frame = pd.read_csv(laws_dir / "routing_final.csv")
    rows = frame[(frame["router_type"] == "S-Base") | (frame["num_experts"] == 1)]
    rows = rows[rows["k"] == 1]
    N, X, L = (rows[c].to_numpy(dtype=float) for c in ("N_dense", "num_experts", "loss_validation"))
    error = np.log(MOE_EXPERTS.loss(np.array(MOE_EXPERTS.published), N=N, X=X)) - np.log(L)
    assert np.sqrt(np.mean(error**2)) < 0.03
    assert fit_family(MOE_EXPERTS, L, N=N, X=X, starts=3).rms < 0.018


def test_annealing_areas_of_a_constant_rate_have_no_second_area():
    S1, S2 = annealing_areas(np.full(5, 0.1))
    np.testing.assert_allclose(S1, [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_array_equal(S2, np.zeros(5))


def test_annealing_lowers_the_predicted_loss():
    constant, decayed = np.full(100, 1.0), np.r_[np.ones(80), np.linspace(1, 0, 20)]
    theta = np.array([2.0, 0.5, 0.5, 0.01])
    losses = []
    for rate in (constant, decayed):
        S1, S2 = annealing_areas(rate)
        losses.append(float(SCHEDULE.loss(theta, S1=S1[-1:], S2=S2[-1:])[0]))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_recovers_its_own_predictions(name):
    family = FAMILIES[name]
    inputs = {k: INPUTS[k] for k in family.inputs}
    theta = np.array(family.published)
    L = family.loss(theta, **inputs)
    assert np.isfinite(L).all()
    assert (L > 0).all()
    fit = fit_family(family, L, starts=2, **inputs)
    assert fit.rms < 1e-4


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_jacobian_is_its_difference_quotient(name):
    family = FAMILIES[name]
    rng = np.random.default_rng(5)
    inputs = {k: INPUTS[k] for k in family.inputs}
    if name == "data_constrained":
        # Both sides of its corners: fresh and repeated data, sizes the data suffice for or not.
        inputs = {**inputs, "U": np.geomspace(2e8, 4e11, 40)[np.argsort(np.sin(np.arange(40)))]}
    published = np.array(family.published)
    for theta in (published, published * (1 + 0.02 * rng.standard_normal(len(published)))):
        analytic = family.jacobian(theta, **inputs)
        assert analytic.shape == (40, len(family.parameters))
        for j, value in enumerate(theta):
            step = 1e-5 * max(abs(value), 1e-2)
            shift = np.eye(len(theta))[j] * step
            up, down = (np.log(family.loss(theta + s, **inputs)) for s in (shift, -shift))
            size = np.abs(analytic[:, j]).max()
            np.testing.assert_allclose(
                analytic[:, j], (up - down) / (2 * step), rtol=1e-6, atol=1e-6 * size
            )


def dear_small_models(N):
    """Training FLOPs per token of models whose heads and attention cost as much as 1e8 weights."""
    return 6.0 * (N + 30.0 * N**0.8)


@pytest.mark.parametrize("name", sorted(n for n, f in FAMILIES.items() if f.has_optimum))
def test_no_neighbour_on_the_cost_curve_beats_a_familys_optimum(name):
    family = FAMILIES[name]
    theta = np.array(family.published)
    fixed = {
        "data_constrained": {"U": 2e10},
        "moe_granularity": {"G": 8.0},
        "moe_sparsity": {"S": 0.75},
        "batch_steps": {"M": 5e5},
    }.get(name, {})
    C = 1e21
    best = optimum_along(family, theta, C, dear_small_models, **fixed)
    assert best.tokens * dear_small_models(best.params) == pytest.approx(C, rel=1e-12)
    assert 1e5 < best.params < 1e13
    for N in best.params * np.array([0.97, 1.03]):
        D = C / dear_small_models(N)
        inputs = {"N": N, "D": D, **fixed} if family.at is None else family.at(N, D, fixed)
        assert float(family.loss(theta, **inputs)) > best.loss


def test_batch_law_splits_tokens_into_the_best_batch_and_steps():
    theta = np.array(BATCH_STEPS.published)
    D = 1e10
    best = float(optimal_batch(theta, D))
    losses = [
        float(BATCH_STEPS.loss(theta, N=1e9, M=M, K=D / M)) for M in best * np.array([0.9, 1, 1.1])
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="needs the inputs N, D; got N, U"):
        KAPLAN.loss(np.array(KAPLAN.published), N=1.0, U=1.0)
    with pytest.raises(ValueError, match="9 parameters to fit; got 3 runs"):
        fit_family(FARSEER, np.ones(3), N=np.ones(3), D=np.ones(3))
    with pytest.raises(ValueError, match="no inputs N and D"):
        optimum_along(MOE_EXPERTS, np.array(MOE_EXPERTS.published), 1e20, SIX_N, X=8.0)
    with pytest.raises(ValueError, match="no minimum between N = 1e"):
        optimum_along(KAPLAN, np.array(KAPLAN.published), 1e20, SIX_N, low=1e12)
    with pytest.raises(ValueError, match="needs the batch M held fixed"):
        optimum_along(BATCH_STEPS, np.array(BATCH_STEPS.published), 1e20, SIX_N)
