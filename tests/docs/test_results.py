"""The page of the novels' sweep says what its table, its forecast and its budgets say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.budget import parse_budget

RESULTS = Path(__file__).parents[2] / "docs" / "results"
FOLDER = RESULTS / "novels-en"
PAGE = re.sub(r"\s+", " ", (RESULTS / "novels-en.md").read_text())


def test_its_answer_and_its_score_come_out_of_its_table_again() -> None:
    table = str(FOLDER / "losses.csv")
    command = ["fit", "--table", table, "--target", "1e14", "--holdout", "top"]
    reply = subprocess.run(
        [sys.executable, "-m", "orchestrator", *command], capture_output=True, text=True, check=True
    )
    printed = re.sub(r"\s+", " ", reply.stdout)
    assert "51.1 tokens per parameter [36, 72.6] (90% interval) at 1e+14 FLOPs: weakly" in printed
    assert "51.1 bytes per parameter, 90 % interval 36 to 72.6, at 1e14 FLOPs: weak" in PAGE
    score = "error of the loss 3.97% (mean +3.72%), 17% inside the 90% prediction interval"
    assert score in printed
    assert "D/N forecast 52.2 [37.9, 110], the level's own minimum is at 66: inside" in printed


def test_its_forecast_is_the_one_that_was_frozen() -> None:
    forecast = json.loads((FOLDER / "forecast.json").read_text())
    low, high = forecast["interval"]
    ratio = forecast["tokens_per_parameter"]
    assert f"{ratio:.3g}, 90 % interval {low:.3g} to {high:.3g}" in PAGE
    below, above = forecast["prediction_interval"]
    assert f"{forecast['loss']:.3f}, 90 % of runs between {below:.3f} and {above:.3f}" in PAGE


@pytest.mark.parametrize("name", ["budget.yaml", "top.yaml"])
def test_its_budgets_are_budgets(name: str) -> None:
    budget = parse_budget((FOLDER / name).read_text())
    assert budget.training.seeds == (0, 1)
