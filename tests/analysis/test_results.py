"""Results for people in Python: words, plain values, LaTeX, a picture; and no heavy package."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit_surface, fit_table, predict_loss, predict_optimum, read_rows
from analysis.cost import SIX_N


@pytest.fixture(scope="module")
def report(isoflop_frame, besiroglu):
    return fit_table(read_rows(isoflop_frame(besiroglu)), resamples=20)


@pytest.fixture(scope="module")
def surface(report):
    return report.fits["chinchilla"]


def test_a_fitted_surface_prints_its_law_and_how_sure_it_is(surface):
    text = str(surface)
    assert text.startswith("chinchilla: L = E + A/N^alpha + B/D^beta")
    assert f"alpha {surface.surface.alpha:.4f}" in text
    assert "28 runs, objective" in text
    assert "standard errors: alpha" in text
    assert "NOT IDENTIFIED" not in text


def test_a_fitted_surface_says_what_was_minimised(surface):
    assert "(least squares in ln L)" in str(replace(surface, huber_delta=np.inf))
    assert "(Huber width 0.001 in ln L)" in str(replace(surface, huber_delta=1e-3))


def test_a_surface_that_the_runs_do_not_determine_says_so(besiroglu):
    N = np.array([1e8, 1e8, 2e8, 2e8, 4e8, 4e8])
    D = np.full(6, 1e10) * np.array([1, 1.001] * 3)
    fit = fit_surface(N, D, np.asarray(besiroglu.loss(N, D)) * np.array([1, 1.02] * 3))
    assert fit.at_bound
    assert "NOT IDENTIFIED" in str(fit)
    json.dumps(fit.to_dict(), allow_nan=False)


def test_results_as_plain_values_and_latex_hold_the_same_numbers(surface, report):
    record = surface.to_dict()
    assert record["alpha"] == surface.surface.alpha
    assert record["sd"]["alpha"] == pytest.approx(float(np.sqrt(surface.covariance[3, 3])))
    assert f"{surface.surface.alpha:.4f}" in surface.to_latex()
    assert report.to_dict()["laws"]["chinchilla"]["alpha"] == surface.surface.alpha


def test_predictions_print_their_intervals(surface):
    run = predict_loss(surface, 1e9, 2e10)
    assert str(run).startswith(f"loss {run.loss:.4f} [{run.prediction_interval[0]:.4f}, ")
    best = predict_optimum(surface, 1e20, cost=SIX_N, max_flops=1e19)
    assert "10 times the largest run" in str(best)


def test_a_result_draws_itself_into_a_file_or_onto_given_axes(report, surface, tmp_path: Path):
    axes = report.plot(path=tmp_path / "law.png")
    assert (tmp_path / "law.png").stat().st_size > 5000
    assert axes.get_xlabel() == "parameters N"
    drawn = axes.collections[0].get_offsets()
    np.testing.assert_allclose(drawn[:, 0], np.exp(surface.data.n + surface.data.centre[0]))
    from matplotlib.figure import Figure

    given = Figure().subplots()
    assert surface.plot(given) is given
    # The dashed line goes through the optima of the law at equal compute.
    sizes, losses = given.lines[-1].get_data()
    middle = surface.surface.optimum(float(np.exp(np.log([1e18, 10**19.5]).mean())))
    assert sizes[2] == pytest.approx(middle.params, rel=0.05)
    assert losses[2] == pytest.approx(middle.loss, rel=1e-3)


def test_a_refused_result_says_why_there_is_nothing_to_draw(isoflop_frame, besiroglu):
    empty = read_rows(isoflop_frame(besiroglu).assign(excluded="all"))
    with pytest.raises(ValueError, match="no run is left after exclusions"):
        fit_table(empty).plot()


def test_the_analysis_works_where_none_of_the_heavy_packages_is_installed(tmp_path: Path):
    script = """
import sys
ABSENT = {"orchestrator", "trainer", "torch", "ray", "mlflow", "optuna", "transformers",
          "datasets", "typer", "rich", "pydantic"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
import pandas as pd
from analysis import Surface, fit_table, read_table, write_fit, write_table, read_rows
import pandas as pd
law = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
C = np.repeat(10 ** np.array([18, 18.5, 19]), 6)
N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / 4, 4, 6), 3)
D = C / (6 * N)
write_table(read_rows(pd.DataFrame({"params": N, "tokens": D, "loss": law.loss(N, D)})), "t.csv")
report = fit_table(read_table("t.csv"), resamples=20)
report.plot(path="law.svg")
write_fit(report, "fit.json")
from analysis.report import write_report
write_report(__import__("pathlib").Path("report"), fit=report.to_dict(), table=read_table("t.csv"))
print(report.status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("identified", "weak")
    assert (tmp_path / "report" / "report.html").is_file()


def fitted_law(loss, *, detail=False):
    """The five-parameter law of thirty runs of this loss and a noise of a tenth of a per cent."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(len(N)))
    table = read_rows(pd.DataFrame({"params": N, "tokens": D, "loss": loss(N, D) * noise}))
    return fit_table(table, resamples=40, detail=detail).laws["chinchilla"]


def test_a_floor_at_its_limit_has_no_percentiles_and_the_other_parameters_have():
    law = fitted_law(lambda N, D: 30 / N**0.1 + 40 / D**0.1 - 0.5)
    assert law["at_bound"] == ["e"]
    assert "E" not in law["interval"]
    assert law["interval"]["alpha"][0] < law["alpha"] < law["interval"]["alpha"][1]


def test_where_an_exponent_is_at_its_limit_no_parameter_has_percentiles():
    law = fitted_law(lambda N, D: 2 + (N < 2e7) + 1000 / D**0.3)
    assert law["at_bound"] == ["alpha"]
    assert {"E", "A", "B", "alpha", "beta"}.isdisjoint(law["interval"])


def test_a_floor_at_its_limit_is_bounded_from_above_by_its_profile():
    law = fitted_law(lambda N, D: 30 / N**0.1 + 40 / D**0.1 - 0.5, detail=True)
    low, high = law["interval"]["E"]
    assert low == 0.0
    assert 0.0 < high < 1.0
    assert law["interval"]["E_method"] == "profile"


def test_the_floor_is_known_where_an_exponent_at_its_limit_is_not():
    law = fitted_law(lambda N, D: 2 + (N < 2e7) + 1000 / D**0.3, detail=True)
    assert law["at_bound"] == ["alpha"]
    low, high = law["interval"]["E"]
    assert 1.9 < low < 2.0 < high < 2.1
    assert law["interval"]["E_method"] == "profile"
    assert "alpha" not in law["interval"]


def test_a_floor_whose_refits_are_sound_has_their_percentiles():
    law = fitted_law(lambda N, D: 1.8 + 400 / N**0.34 + 1000 / D**0.3)
    assert law["at_bound"] == []
    low, high = law["interval"]["E"]
    assert 1.79 < low < law["E"] < high < 1.83
    assert law["interval"]["E_method"] == "pairs bootstrap"
