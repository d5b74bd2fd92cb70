"""`sweep fit --law` and `--holdout`: what they add to the answer, and what they refuse."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.families import DATA_CONSTRAINED
from analysis.laws import Surface
from orchestrator.errors import BadInput
from orchestrator.fitting import fit_any_table
from orchestrator.views import print_family_fit, print_fit

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
        (("--law", "kaplan", "--holdout", "top"), "SWP-1333", "--holdout is for the laws of N"),
        (("--prior", "alpha=0.34"), "SWP-1332", "NAME=MEAN+-SD"),
        (("--prior", "E=2+-1", "--prior", "E=1+-1"), "SWP-1332", "takes one prior"),
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


def test_a_law_of_repeated_data_answers_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    N, D, times = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e8, 4e9, 4), np.geomspace(2e9, 6e10, 4), [1, 4, 16])
    )
    law = DATA_CONSTRAINED
    loss = law.loss(law.published, N=N, D=D, U=D / times)
    frame = pd.DataFrame({"params": N, "tokens": D, "unique": D / times, "loss": loss})
    frame["loss"] *= np.exp(0.002 * rng.standard_normal(len(N)))
    frame.to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--law", "data_constrained", "--map", "unique_tokens=unique")
    done = fit_command(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["schema"] == "sweep.fit/1"
    assert record["headline_law"] == "data_constrained"
    assert record["optimum"][0]["interval"][0] < record["optimum"][0]["tokens_per_parameter"]
    console = Console(file=io.StringIO(), width=200)
    print_family_fit(console, record, "data_constrained")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "the law that was asked for, fitted with 7 parameters to 48 runs" in text
    assert "R_D*" in text
    assert "source: Muennighoff et al. 2023" in text
    missing = fit_command("--law", "data_constrained", cwd=tmp_path)
    assert missing.returncode == 2
    assert "the data_constrained law needs 'unique_tokens'" in missing.stderr
    assert "nearest name is 'unique'" in missing.stderr


def test_a_prior_is_told_with_the_answer_without_it(table: Path) -> None:
    done = fit_command("--prior", "alpha=0.30+-0.01", "--prior", "E=1.7+-0.1", cwd=table.parent)
    assert done.returncode == 0, done.stderr
    assert "a prior was given: alpha = 0.3 +- 0.01 (Gaussian), E = 1.7 +- 0.1" in done.stdout
    assert "without it the runs say D/N" in done.stdout


def test_a_table_of_one_level_cannot_be_held_out(table: Path) -> None:
    frame = pd.read_csv(table)
    frame.iloc[:7].to_csv(table, index=False)
    with pytest.raises(BadInput, match="needs cheaper runs; 7 of 7"):
        fit_any_table(table, **options(holdout=True))


def printed(fit: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_fit(console, fit)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_fit_prints_bytes_beside_tokens_where_the_table_tells_their_number(table: Path) -> None:
    frame = pd.read_csv(table)
    assert "bytes per parameter" not in printed(fit_any_table(table, **options()))
    frame.assign(bpb=frame["loss"] / (np.log(2) * 4.2)).to_csv(table, index=False)
    fit = fit_any_table(table, **options())
    best = fit["optimum"][0]
    text = printed(fit)
    assert f"{4.2 * best['tokens_per_parameter']:.3g} bytes per parameter [" in text
    assert "in bytes (4.2 a token)" in text
    assert f"loss {best['loss'] / (np.log(2) * 4.2):.4f} bits per byte" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(tokens=20 * f["params"]), "R3"),
        (lambda f: f.assign(params=1e8), "R1"),
        (lambda f: f.assign(tokenizer=["a", "b"] * 14), "R8"),
        (lambda f: f.assign(loss_unit=["nats", "bits"] * 14), "R8"),
    ],
    ids=["one ratio", "one size", "two tokenizers", "two units of loss"],
)
def test_tables_that_carry_no_answer_are_refused_or_flagged_by_the_rule_s_name(
    table: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    change(pd.read_csv(table)).to_csv(table, index=False)
    fit = fit_any_table(table, **options())
    assert fit["status"] != "identified"
    assert words in {check["rule"] for check in fit["checks"] if not check["passed"]}


def test_tokens_in_billions_are_refused_with_the_import_that_mends_them(table: Path) -> None:
    frame = pd.read_csv(table)
    frame.assign(tokens=frame["tokens"] / 1e9).to_csv(table, index=False)
    with pytest.raises(BadInput, match=r"sweep import t\.csv --unit tokens=1e9"):
        fit_any_table(table, **options())


def test_a_table_takes_a_sweep_s_place_in_the_verbs(table: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=table.parent, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    predicted = command("predict", "t.csv", "--gpu-hours", "100", "--device-flops", "1e15",
                        "--mfu", "0.5", "--json")  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    record = json.loads(predicted.stdout)
    assert record["flops"] == pytest.approx(1.8e20)
    assert record["params_interval"][0] < record["params"] < record["params_interval"][1]
    reported = command("report", "t.csv")
    assert reported.returncode == 0, reported.stderr
    assert (table.parent / "t-report" / "report.html").is_file()
    no_speed = command("predict", "t.csv", "--gpu-hours", "100")
    assert (no_speed.returncode, "SWP-1341" in no_speed.stderr) == (2, True)


def test_the_target_of_a_table_is_asked_for_by_either_name(table: Path) -> None:
    for name in ("--target", "--target-flops"):
        fitted = fit_command(name, "2e21", "--json", cwd=table.parent)
        assert json.loads(fitted.stdout)["optimum"][0]["flops"] == 2e21, fitted.stderr


@pytest.mark.parametrize(
    "option", [("--convention", "total"), ("--map", "params=N"), ("--report", "there")]
)
def test_what_is_for_tables_only_is_refused_beside_a_sweep(
    tmp_path: Path, option: tuple[str, str]
) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "orchestrator", "fit", "my-sweep", *option],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert f"SWP-1343]: {option[0]} is for tables" in refused.stderr


def test_a_fit_prints_how_sure_each_floor_is_or_that_it_is_only_bounded(table: Path) -> None:
    fit = fit_any_table(table, **options())
    low, high = fit["laws"]["tied"]["interval"]["E"]
    assert f"tied: E {fit['laws']['tied']['E']:.5g} [{low:.4g}, {high:.4g}], A " in printed(fit)
    fit["laws"]["tied"]["interval"]["E"] = [0.0, high]
    assert f" (at most {high:.4g}), A " in printed(fit)
    assert f"pinned: E {fit['laws']['pinned']['E']:.5g}, A " in printed(fit)


def test_every_objective_is_printed_with_what_was_minimised(table: Path) -> None:
    fit = fit_any_table(table, **options())
    found = f"{fit['laws']['tied']['objective']:.8g}"
    fit["laws"]["tied"]["huber_delta"] = 1e-3
    assert f"; objective {found} (Huber width 0.001 in ln L)\n" in printed(fit)
    fit["laws"]["tied"]["huber_delta"] = None  # infinity, in JSON
    assert f"; objective {found} (least squares in ln L)\n" in printed(fit)
