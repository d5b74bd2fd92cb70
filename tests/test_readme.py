"""The README tells the truth: its commands exist, its budgets are valid, its links lead on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.budget import Budget, parse_budget

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z][a-z-]*)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_sweep_command_it_names_parses() -> None:
    commands = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    verbs = {words[1] for words in commands if words and words[0] == "sweep"}
    verbs |= set(re.findall(r"`sweep ([a-z]+)", README))
    assert verbs >= {"init", "plan", "run", "ui", "fit", "check"}
    for verb in verbs:
        subprocess.run(
            [sys.executable, "-m", "orchestrator", verb, "--help"], check=True, capture_output=True
        )


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_budgets_are_valid(text: str) -> None:
    parse_budget(text)


def test_it_explains_every_section_of_a_budget() -> None:
    rows = set(re.findall(r"^\| `([a-z]+)` \|", README, flags=re.MULTILINE))
    assert rows == set(Budget.model_fields) - {"name"}


def test_every_path_and_link_in_it_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for package in ("orchestrator", "trainer", "analysis"):
        tree = README.split(f"\n{package}/")[1].split("\n```")[0]
        section = re.split(r"\n[a-z]+/", tree)[0]
        for name in re.findall(r"\b([a-z_]+\.py)\b", section):
            assert list((ROOT / package).rglob(name)), f"{package}/{name}"
