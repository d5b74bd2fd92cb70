"""Closed forms, derivatives and optima of the two surface laws."""

import math

import numpy as np
import pytest

from analysis.cost import SIX_N, read_cost
from analysis.laws import CHINCHILLA, FORMS, SKALING, Surface


@pytest.mark.parametrize(
    ("C", "N", "D", "ratio", "loss"),
    [
        (1e16, 7.6e6, 2.2e8, 28.9, 5.62),
        (1e17, 2.5e7, 6.7e8, 27.2, 4.34),
        (1e18, 8.1e7, 2.1e9, 25.7, 3.49),
        (1e19, 2.6e8, 6.4e9, 24.2, 2.93),
        (1e20, 8.5e8, 2.0e10, 22.9, 2.55),
        (1e21, 2.8e9, 6.0e10, 21.6, 2.31),
    ],
)
def test_closed_form_optimum_matches_the_reference_table(besiroglu, C, N, D, ratio, loss):
    found = besiroglu.optimum(C)
    assert found.params == pytest.approx(N, rel=0.02)
    assert found.tokens == pytest.approx(D, rel=0.03)
    assert found.tokens_per_parameter == pytest.approx(ratio, abs=0.15)
    assert found.loss == pytest.approx(loss, abs=0.006)


@pytest.mark.parametrize(
    ("law_name", "ratio", "tolerance"),
    [("hoffmann", 92.6, 0.3), ("hoffmann_tex", 58.9, 0.3), ("besiroglu", 18.4, 0.1)],
)
def test_published_constants_give_their_known_ratio_at_chinchilla_compute(
    request, law_name, ratio, tolerance
):
    law = request.getfixturevalue(law_name)
    assert law.optimum(5.76e23).tokens_per_parameter == pytest.approx(ratio, abs=tolerance)


@pytest.mark.parametrize(("factor", "waste"), [(2.0, 0.042), (3.0, 0.102), (4.0, 0.157)])
@pytest.mark.parametrize("C", [1e19, 5.8e23])
def test_a_wrong_ratio_wastes_the_published_share_of_compute(besiroglu, factor, waste, C):
    both_sides = besiroglu.compute_waste(np.array([factor, 1 / factor]))
    assert both_sides.mean() == pytest.approx(waste, abs=1.2e-3)
    # The same by solving for the compute that reaches that loss at its own optimum.
    best = besiroglu.optimum(C)
    shift = 1 / math.sqrt(factor)
    reached = float(besiroglu.loss(best.params * shift, best.tokens / shift))
    low, high = C / 4, C
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if besiroglu.optimum(middle).loss > reached else (low, middle)
    assert 1 - low / C == pytest.approx(float(besiroglu.compute_waste(factor)), rel=1e-6)


@pytest.mark.parametrize("k", [1.0, 0.48])
def test_numeric_optimum_along_6nd_is_the_closed_form(k):
    law = Surface(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.31, k=k)
    closed, numeric = law.optimum(3e20), law.optimum_along(3e20, SIX_N)
    assert numeric.params == pytest.approx(closed.params, rel=1e-6)
    assert numeric.loss == pytest.approx(closed.loss, rel=1e-12)


def test_numeric_optimum_beats_its_neighbours_along_a_real_cost_curve(hoffmann):
    def cost(N):
        return 6 * N + 5e4 * np.asarray(N) ** (2 / 3)

    best = hoffmann.optimum_along(1e18, cost)
    for shift in (0.98, 1.02):
        N = best.params * shift
        assert float(hoffmann.loss(N, 1e18 / cost(N))) > best.loss
    assert best.params < hoffmann.optimum(1e18).params


@pytest.mark.parametrize("form", [CHINCHILLA, SKALING], ids=lambda f: f.name)
def test_analytic_jacobian_matches_central_differences(form):
    rng = np.random.default_rng(3)
    n, d = rng.normal(size=9), rng.normal(size=9)
    theta = np.array([-0.9, -0.4, 0.5, 0.35, 0.3, -0.6])[: form.n_params]
    step = 1e-6
    for j in range(form.n_params):
        shift = np.zeros(form.n_params)
        shift[j] = step
        slope = (form.log_loss(theta + shift, n, d) - form.log_loss(theta - shift, n, d)) / (
            2 * step
        )
        np.testing.assert_allclose(form.jacobian(theta, n, d)[:, j], slope, atol=1e-8)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_theta_and_surface_are_inverse(name):
    form = FORMS[name]
    k = 0.5 if name == "skaling" else 1.0
    law = Surface(E=1.2, A=300.0, B=800.0, alpha=0.3, beta=0.35, k=k)
    back = form.to_surface(form.to_theta(law, centre=(18.0, 22.0)), centre=(18.0, 22.0))
    for field in ("E", "A", "B", "alpha", "beta", "k"):
        assert getattr(back, field) == pytest.approx(getattr(law, field), rel=1e-12)


def test_skaling_with_k_one_is_chinchilla(hoffmann):
    n, d = np.linspace(-2, 2, 7), np.linspace(1, -1, 7)
    five = CHINCHILLA.to_theta(hoffmann, centre=(20.0, 24.0))
    six = SKALING.to_theta(hoffmann, centre=(20.0, 24.0))
    np.testing.assert_allclose(
        SKALING.log_loss(six, n, d), CHINCHILLA.log_loss(five, n, d), rtol=1e-13
    )


def test_exponents_of_the_frontier_sum_to_one(besiroglu):
    assert besiroglu.exponent_N == pytest.approx(0.5126, abs=1e-4)
    assert besiroglu.exponent_N + besiroglu.exponent_D == pytest.approx(1.0, abs=1e-15)


def test_a_law_with_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match="A, B, alpha, beta, k > 0"):
        Surface(E=1.0, A=-1.0, B=1.0, alpha=0.3, beta=0.3)
    with pytest.raises(ValueError, match="finite"):
        Surface(E=float("nan"), A=1.0, B=1.0, alpha=0.3, beta=0.3)


def test_cost_curve_is_read_from_the_runs_and_fades_to_6n():
    N = np.geomspace(1e6, 1e8, 12)
    true = 6 * N * (1 + 3 * (N / 1e6) ** (-1 / 3))
    cost = read_cost(N, np.full(12, 1e9), true * 1e9)
    assert not cost.is_six_n
    np.testing.assert_allclose(cost(N), true, rtol=0.01)
    far = np.array([1e11])
    assert float(cost(far)[0] / (6 * far[0])) == pytest.approx(1 + 3 * 1e5 ** (-1 / 3), rel=0.05)


def test_cost_curve_of_6nd_runs_is_the_rule_itself():
    N, D = np.geomspace(1e6, 1e8, 5), np.geomspace(1e9, 1e8, 5)
    assert read_cost(N, D, 6 * N * D).is_six_n


# Byte-level llamas of context 128: sizes that three isoFLOP levels met, one of them off the family
# line, and their FLOPs per token over 6N; then larger ones of the same line.
MET = {
    2880: 1.711,
    3712: 2.103,
    6528: 1.941,
    8256: 2.116,
    12930: 1.95,
    15040: 1.681,
    20000: 1.768,
    26880: 1.686,
    34720: 1.619,
    45820: 1.536,
    66880: 1.459,
    122900: 1.4,
}
LARGER = {1.67e5: 1.344, 2.6e5: 1.316, 4.08e5: 1.251, 8.1e5: 1.197, 3.03e6: 1.119}


def test_steps_of_a_lattice_of_shapes_do_not_bend_the_cost_curve(hoffmann):
    N, over = np.array(list(MET)), np.array(list(MET.values()))
    cost = read_cost(N, np.full(len(N), 1e7), 6e7 * N * over)
    far, known = np.array(list(LARGER)), np.array(list(LARGER.values()))
    np.testing.assert_allclose(cost(far) / (6 * far), known, rtol=0.05)
    # Over the whole line ln f rises by 0.87 per ln N around 7e4; a parabola through the steps says
    # 0.80, and that alone moves the optimal D/N by a fifth.
    assert float(cost.slope(np.log(7e4))) == pytest.approx(0.87, abs=0.04)


def test_cost_below_the_rule_stays_positive_and_is_continued_towards_it():
    # N counts an embedding of 5e4 vectors that no product meets.
    N = np.geomspace(3e7, 3e9, 9)
    width = (N / 100) ** (1 / 3)
    true = 6 * (N - 5e4 * width)
    cost = read_cost(N, np.full(9, 1e9), true * 1e9)
    np.testing.assert_allclose(cost(N), true, rtol=0.05)
    ends = np.array([1e3, 1e6, 1e12])
    share = cost(ends) / (6 * ends)
    assert (share > 0).all()
    assert share[0] <= share[1] < 1
    assert share[2] == pytest.approx(1.0, abs=0.01)


def test_cost_of_mixed_excess_is_the_runs_own_inside_their_range():
    N = np.geomspace(1e6, 1e8, 12)
    true = 6 * N * np.linspace(0.8, 1.2, 12)
    cost = read_cost(N, np.full(12, 1e9), true * 1e9)
    assert cost.power is None
    np.testing.assert_allclose(cost(N), true, rtol=0.01)
    assert float(cost(np.array([1e12]))[0] / 6e12) == pytest.approx(1.0, abs=0.02)
