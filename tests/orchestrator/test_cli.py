"""The command as a person meets it: help, errors with places, exit codes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
VERBS = (
    "init", "check", "plan", "run", "status", "fit", "report", "plot", "ui", "doctor", "version",
)  # fmt: skip


def sweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_says_what_it_does(verb: str, tmp_path: Path) -> None:
    done = sweep(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert len(done.stdout.splitlines()) > 6


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("plan",), 2, "Missing argument"),
        (("no-such-verb",), 2, "No such command"),
        (("status", "nothing"), 2, "no sweep of this name"),
        (("fit",), 2, "needs a sweep or --table"),
        (("fit", "--table", "none.csv"), 2, "the table must exist"),
        (("check",), 2, "needs a budget file or --schema"),
        (("ui",), 2, "there are none yet"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = sweep(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_init_writes_a_budget_that_plans_and_never_replaces_a_file(tmp_path: Path) -> None:
    assert sweep("init", cwd=tmp_path).returncode == 0
    planned = sweep("plan", "budget.yaml", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    document = json.loads(planned.stdout)
    assert document["schema"] == "sweep.plan/1"
    assert document["levels"]
    again = sweep("init", cwd=tmp_path)
    assert again.returncode == 2
    assert "does not replace a file" in again.stderr


def test_a_plan_keeps_a_note_of_itself_alone_and_imports_neither_torch_nor_ray(
    tmp_path: Path,
) -> None:
    script = (
        "import sys; sys.argv = ['sweep', 'plan', sys.argv[1]]\n"
        "from orchestrator.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'datasets', 'pandas'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(SWEEPS / "quickstart.yaml")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Level 1" in done.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [tmp_path / "outputs" / "plans" / "quickstart.json"]


def test_show_defaults_prints_a_budget_that_means_the_same(tmp_path: Path) -> None:
    from orchestrator.budget import parse_budget

    path = SWEEPS / "quickstart.yaml"
    done = sweep("plan", str(path), "--show-defaults", cwd=tmp_path)
    assert done.returncode == 0
    assert parse_budget(done.stdout).digest == parse_budget(path.read_text()).digest


def test_check_prints_the_schema_for_editors(tmp_path: Path) -> None:
    schema = json.loads(sweep("check", "--schema", cwd=tmp_path).stdout)
    assert schema["title"] == "Isosweep budget"


def test_doctor_and_version_answer_in_json(tmp_path: Path) -> None:
    report = json.loads(sweep("doctor", "--json", cwd=tmp_path).stdout)
    assert report["schema"] == "sweep.doctor/1"
    looked_at = {finding["what"] for finding in report["findings"]}
    assert looked_at >= {"Python", "torch", "ray", "memory"}
    assert json.loads(sweep("version", "--json", cwd=tmp_path).stdout)["versions"]["torch"]


def test_a_published_table_gives_the_published_optimum_through_the_command(
    tmp_path: Path,
) -> None:
    table = Path(__file__).resolve().parents[3] / "shared/data/laws/epoch_chinchilla.csv"
    if not table.exists():
        pytest.skip("shared/data/laws/epoch_chinchilla.csv is not here")
    done = sweep(
        "fit", "--table", str(table), "--map", "excluded=excluded_by_epoch", "--map", "params=N",
        "--map", "tokens=D", "--huber-delta", "1e-3", "--target-flops", "5.76e23", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    fit = json.loads(done.stdout)
    assert fit["n_points"] == 240
    assert fit["laws"]["chinchilla"]["objective"] <= 0.0010184
    assert fit["laws"]["chinchilla"]["huber_delta"] == 1e-3
    assert fit["optimum"][0]["flops"] == 5.76e23
    assert fit["optimum"][0]["tokens_per_parameter"] == pytest.approx(17.9, abs=0.3)


def test_any_table_with_three_columns_is_fitted_and_reported(tmp_path: Path) -> None:
    rows = ["size,seen,nats"]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        for ratio in (5, 20, 80):
            d = ratio * n
            rows.append(f"{n},{d},{1.8 + 480 * n**-0.35 + 2100 * d**-0.37}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    done = sweep(
        "fit", "--table", "t.csv", "--map", "params=size", "--map", "tokens=seen",
        "--map", "loss=nats", "--target-flops", "1e21", "--report", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tokens per parameter" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
