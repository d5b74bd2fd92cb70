"""Every verb of the design exists, explains itself, and takes `--json` with a versioned schema."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import app

VERBS = (
    *("init", "check", "plan", "bench", "tune", "run", "resume", "status", "logs", "show", "stop"),
    *("retry", "extend", "fit", "report", "plot", "predict", "next", "compare", "import"),
    *("export", "simulate", "sync", "ui", "serve", "submit", "ls", "clean", "doctor", "version"),
)
"""As `design.md` lists them."""
ROOT = Path(__file__).resolve().parents[2]
OTHERS = {"resume": "run"}
"""Verbs whose document is another verb's."""


@functools.cache
def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@functools.cache
def sources() -> str:
    folders = ("orchestrator", "analysis")
    files: Iterable[Path] = (p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    return "\n".join(path.read_text() for path in files)


def test_the_verbs_of_the_design_are_all_there() -> None:
    assert set(VERBS) - set(commands()) == set()


@pytest.mark.parametrize("verb", sorted({*VERBS}))
def test_a_verb_explains_itself_and_every_option_it_takes(verb: str) -> None:
    command = commands()[verb]
    assert re.match(r"[A-Z].+\.", command.help or ""), "a sentence for the list of verbs"
    for item in command.params:
        said = item.help if item.param_type_name == "option" else (item.help or item.metavar)
        assert said, f"{verb} {item.name} says nothing of itself"
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_prints_a_schema_of_its_name_with_a_version(verb: str) -> None:
    schema = f"sweep.{OTHERS.get(verb, verb)}/1"
    assert f'"{schema}"' in sources()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["version"],
        ["init", "new.yaml"],
        ["check", "b.yaml"],
        ["plan", "b.yaml"],
        ["import", "table.csv", "--out", "out.csv"],
        ["predict", "table.csv", "--params", "5M", "--tokens", "100M"],
    ],
    ids=lambda words: words[0],
)
def test_stdout_is_one_document_of_the_verbs_schema(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.measurements.RESAMPLES", 20, raising=False)
    (tmp_path / "b.yaml").write_text(
        "name: b\nbudget: {flops: 8e12}\nmodel: {context: 128}\n"
        "training: {batch_tokens: 512, min_steps: 300}\n"
        "design: {levels: [1e11, 3e11], sizes: 5, span: 3, tokens_per_parameter: 150}\n"
    )
    lines = ["params,tokens,loss"]
    for n in (1e6, 3e6, 1e7, 3e7):
        for d in (2e7, 6e7, 2e8, 6e8):
            lines.append(f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == f"sweep.{arguments[0]}/1"
