"""Runs on text whose entropy rate is known: the fitted irreducible loss must hold it.

The losses are of nineteen small models on the `simple` corpus of a public training diary, each
token seen once (`tests/data/entropy_simple.yaml` says how to make them again).
"""

from pathlib import Path

import numpy as np
import pytest

from analysis.answer import fit_table
from analysis.files import read_table
from orchestrator.budget import parse_budget
from trainer.data.source import parse_synthetic
from trainer.data.synthetic import entropy_rate

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def report():
    table = read_table(DATA / "entropy_simple.csv")
    assert (table.column("epochs") < 1).all()
    return fit_table(table, resamples=200, detail=False)


def test_the_table_is_that_of_its_budget():
    budget = parse_budget((DATA / "entropy_simple.yaml").read_text("utf-8"))
    tokens = read_table(DATA / "entropy_simple.csv").tokens
    asked = sorted(float(point.tokens) for point in budget.design.points)
    np.testing.assert_allclose(np.sort(tokens), asked, rtol=1e-3)


def test_the_interval_of_the_irreducible_loss_holds_the_exact_entropy_rate(report):
    budget = parse_budget((DATA / "entropy_simple.yaml").read_text("utf-8"))
    rate = entropy_rate(parse_synthetic(budget.data.corpus))
    assert rate == pytest.approx(1.2413, abs=1e-4)
    low, high = report.laws["chinchilla"]["interval"]["E"]
    assert low < rate < high
    # Small models learn this text in steps, so the interval is wide; the estimates are not.
    for name in ("chinchilla", "tied", "pinned", "skaling"):
        assert report.laws[name]["E"] == pytest.approx(rate, rel=0.03), name


def test_a_ratio_that_such_runs_cannot_carry_is_refused(report):
    assert report.status == "not_identified"
    assert "R4" in report.message
