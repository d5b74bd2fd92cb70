"""`sweep fit --law` and `--holdout`: what they add to the answer, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws import Surface
from orchestrator.errors import BadInput
from orchestrator.fitting import fit_any_table

LAW = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A small table of four levels."""
    rng = np.random.default_rng(0)
    C = np.repeat(10 ** np.array([18, 18.5, 19, 19.5]), 7)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / 4, 4, 7), 4)
    D = C / (6 * N)
    loss = np.asarray(LAW.loss(N, D)) * np.exp(0.003 * rng.standard_normal(len(C)))
    path = tmp_path / "t.csv"
    pd.DataFrame({"params": N, "tokens": D, "loss": loss}).to_csv(path, index=False)
    return path


def fit_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "fit", "--table", "t.csv", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def options(**given: object) -> dict[str, object]:
    return {
        "mapping": {},
        "target_flops": None,
        "convention": "matmul",
        "huber_delta": None,
        "report_dir": None,
        **given,
    }


def test_the_command_forces_the_law_and_prints_the_forecast_of_the_top_level(table: Path) -> None:
    done = fit_command("--law", "tied", "--holdout", "top", cwd=table.parent)
    assert done.returncode == 0, done.stderr
    assert "the law that was asked for" in done.stdout
    assert "the headline law was chosen by the caller (tied)" in done.stdout
    assert "the 7 dearest runs (3.16e+19 FLOPs), held out" in done.stdout


def test_the_record_holds_the_forecast_beside_the_answer(table: Path) -> None:
    plain = fit_any_table(table, **options())
    held = fit_any_table(table, **options(holdout=True))
    forecast = held.pop("holdout")
    assert held == plain
    assert forecast["n_held_out"] == 7
    assert forecast["rms"] < 0.01
    assert set(forecast) >= {"law", "bias", "inside", "interval", "message"}
    json.dumps(forecast, allow_nan=False)


def test_the_law_reaches_the_fit(table: Path) -> None:
    assert fit_any_table(table, **options(law="skaling"))["headline_law"] == "skaling"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--law", "chinchila"), "SWP-1330", "chinchilla, skaling, tied, pinned, isoflop"),
        (("--holdout", "bottom"), "SWP-1331", "the dearest level: top"),
    ],
)
def test_unknown_choices_are_errors_with_a_code(
    table: Path, arguments: tuple[str, str], code: str, words: str
) -> None:
    done = fit_command(*arguments, cwd=table.parent)
    assert done.returncode == 2
    assert done.stdout == ""
    assert code in done.stderr
    assert words in done.stderr


def test_a_table_of_one_level_cannot_be_held_out(table: Path) -> None:
    frame = pd.read_csv(table)
    frame.iloc[:7].to_csv(table, index=False)
    with pytest.raises(BadInput, match="needs cheaper runs; 7 of 7"):
        fit_any_table(table, **options(holdout=True))
