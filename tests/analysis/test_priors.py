"""Priors: what they add to the fit, that they are off unless asked for, and that they are told."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from analysis.answer import fit_table
from analysis.cost import SIX_N
from analysis.fit import centred, drawn_penalty, fit_surface, tied_exponents
from analysis.laws import CHINCHILLA, SKALING, Surface
from analysis.newton import Penalty, derivatives
from analysis.priors import Prior, parse_prior
from analysis.profile import profile_ratio
from analysis.resampling import leverages
from analysis.table import read_rows
from analysis.uncertainty import bootstrap

LAW = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
ALPHA = Prior(parameter="alpha", mean=0.30, sd=0.01)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(3)
    C = np.repeat(10 ** np.array([18, 18.5, 19, 19.5]), 6)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / 4, 4, 6), 4)
    D = C / (6 * N)
    return N, D, np.asarray(LAW.loss(N, D)) * np.exp(0.004 * rng.standard_normal(len(C)))


def test_a_prior_is_one_more_measurement_of_its_parameter(points):
    """The same minimum by another optimiser, on residuals with the prior's own below them."""
    plain = fit_surface(*points, huber_delta=np.inf)
    priors = [ALPHA, Prior(parameter="E", mean=1.7, sd=0.05)]
    fit = fit_surface(*points, huber_delta=np.inf, priors=priors)
    data = fit.data

    def residuals(theta):
        own = CHINCHILLA.log_loss(theta, data.n, data.d) - data.y
        known = [(theta[3] - 0.30) / 0.01, (theta[2] - np.log(1.7)) / (0.05 / 1.7)]
        return np.concatenate([own, plain.noise_sd * np.array(known)])

    found = least_squares(residuals, plain.theta, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert fit.theta == pytest.approx(found.x, abs=1e-6)
    assert fit.objective == pytest.approx(found.cost, rel=1e-9)
    assert fit.misfit < fit.objective
    assert fit.certificate.agreeing > 1


def test_its_information_adds_to_that_of_the_runs(points):
    plain = fit_surface(*points, huber_delta=np.inf)
    at_estimate = Prior(parameter="alpha", mean=plain.surface.alpha, sd=0.02)
    fit = fit_surface(*points, huber_delta=np.inf, priors=[at_estimate])
    assert fit.theta == pytest.approx(plain.theta, abs=1e-6)
    precision = 1 / plain.covariance[3, 3] + 1 / 0.02**2
    assert fit.covariance[3, 3] == pytest.approx(1 / precision, rel=1e-6)
    assert leverages(fit).sum() < leverages(plain).sum() == pytest.approx(5)


@pytest.mark.parametrize("delta", [np.inf, 1e-3])
def test_a_wide_prior_changes_nothing_and_a_sharp_one_decides(points, delta):
    plain = fit_surface(*points, huber_delta=delta).surface
    wide = Prior(parameter="beta", mean=0.1, sd=1e4)
    sharp = Prior(parameter="beta", mean=0.42, sd=1e-5)
    assert (
        pytest.approx(plain.E, rel=1e-5)
        == fit_surface(*points, huber_delta=delta, priors=[wide]).surface.E
    )
    assert fit_surface(*points, huber_delta=delta, priors=[sharp]).surface.beta == pytest.approx(
        0.42, abs=1e-4
    )


def test_gradient_and_hessian_of_the_objective_with_priors_are_exact(points):
    data = centred(*points)
    theta = np.array([[0.3, 0.2, 0.5, 0.33, 0.36, 0.1]])
    penalty = Penalty(centre=np.full(6, 0.2), weight=np.array([0, 0, 3.0, 2.0, 1.0, 0]))
    weights = np.ones((1, data.size))

    def at(t):
        return derivatives(SKALING, data, t, weights, np.inf, penalty=penalty)

    value, gradient, hessian = at(theta)
    for j in range(6):
        step = np.zeros((1, 6))
        step[0, j] = 1e-5
        up, down = at(theta + step), at(theta - step)
        assert (up[0] - down[0]) / 2e-5 == pytest.approx(gradient[:, j], rel=1e-5, abs=1e-8)
        assert (up[1] - down[1]) / 2e-5 == pytest.approx(hessian[:, j], rel=1e-5, abs=1e-6)
    assert value > derivatives(SKALING, data, theta, weights, np.inf)[0]


def test_resampling_shakes_the_prior_too(points):
    fit = fit_surface(*points, priors=[ALPHA])
    shaken = drawn_penalty(fit, 4000, seed=0)
    assert shaken.centre[:, 3].std() == pytest.approx(0.01, rel=0.05)
    assert (shaken.centre[:, [0, 1, 2, 4]] == fit.penalty.centre[[0, 1, 2, 4]]).all()
    spread = bootstrap(fit, np.arange(24), resamples=300).theta[:, 3].std()
    assert spread == pytest.approx(np.sqrt(fit.covariance[3, 3]), rel=0.4)


def test_equal_exponents_take_a_prior_and_the_six_parameter_laws_exponents_do_not(points):
    tied = fit_surface(*points, restriction=tied_exponents(), priors=[ALPHA]).surface
    assert tied.alpha == pytest.approx(tied.beta)
    six, free = (fit_surface(*points, form=SKALING, priors=p) for p in ([ALPHA], []))
    assert six.priors == ()
    assert six.surface == free.surface
    floor = Prior(parameter="E", mean=1.5, sd=1e-4)
    assert (
        pytest.approx(1.5, abs=1e-3) == fit_surface(*points, form=SKALING, priors=[floor]).surface.E
    )


def test_a_prior_narrows_the_profile(points):
    plain = profile_ratio(fit_surface(*points), 1e20, SIX_N)
    fit = fit_surface(*points, priors=[Prior(parameter="alpha", mean=0.3478, sd=0.002)])
    under = profile_ratio(fit, 1e20, SIX_N)
    widths = [np.log(p.interval[1] / p.interval[0]) for p in (plain, under)]
    assert widths[1] < 0.9 * widths[0]


def test_the_report_tells_of_the_prior_and_of_the_answer_without_it(points):
    N, D, L = points
    table = read_rows(pd.DataFrame({"params_body": N, "tokens": D, "loss": L}))
    options = {"target_flops": 1e20, "resamples": 50, "detail": False}
    plain = fit_table(table, **options).to_dict()
    assert "priors" not in plain
    report = fit_table(table, priors=[ALPHA], **options)
    record = report.to_dict()["priors"]
    assert record["given"] == [{"parameter": "alpha", "mean": 0.30, "sd": 0.01}]
    assert record["without"]["tokens_per_parameter"] == plain["optimum"][0]["tokens_per_parameter"]
    assert record["without"]["status"] == plain["status"]
    assert report.optimum[0].tokens < plain["optimum"][0]["tokens"]
    (told,) = [w for w in report.warnings if "prior" in w]
    assert "alpha = 0.3 +- 0.01 (Gaussian); without it the runs say D/N" in told
    assert told in str(report)


def test_a_prior_makes_no_answer_more_than_weak(points):
    N, D, loss = (np.delete(v, np.r_[6:12, 18:24]) for v in points)
    loss = loss * np.exp(0.014 * np.random.default_rng(4).standard_normal(len(loss)))
    table = read_rows(pd.DataFrame({"params_body": N, "tokens": D, "loss": loss}))
    known = [
        Prior(parameter="alpha", mean=0.3478, sd=1e-3),
        Prior(parameter="beta", mean=0.3658, sd=1e-3),
        Prior(parameter="E", mean=1.8172, sd=1e-3),
    ]
    report = fit_table(table, priors=known, resamples=50, detail=False)
    assert report.to_dict()["priors"]["without"]["status"] != "identified"
    assert report.status == "weak"
    assert "a prior helped to decide it" in report.message


@pytest.mark.parametrize("sign", ["+-", "+/-", "±", " +- "])
def test_a_prior_is_read_from_text(sign):
    assert parse_prior(f"alpha=0.34{sign}5e-2") == Prior(parameter="alpha", mean=0.34, sd=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alpha=0.34", r"NAME=MEAN\+-SD"),
        ("alpha=1e+-2", "two numbers"),
        ("A=400+-10", "one of E, alpha, beta"),
        ("alpha=-0.3+-0.1", "mean of alpha must be positive"),
        ("E=1.8+-0", "standard deviation of E must be positive"),
    ],
)
def test_what_is_no_prior_is_refused_with_the_rule(text, words):
    with pytest.raises(ValueError, match=words):
        parse_prior(text)


def test_two_priors_on_one_parameter_and_too_few_runs_are_refused(points):
    with pytest.raises(ValueError, match="alpha has more than one prior"):
        fit_surface(*points, priors=[ALPHA, ALPHA])
    with pytest.raises(ValueError, match="5 runs leave none"):
        fit_surface(*(v[::5] for v in points), priors=[ALPHA])
