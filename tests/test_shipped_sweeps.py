"""Every budget file that is shipped is valid and plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.budget import parse_budget
from orchestrator.data import facts_of
from orchestrator.plan import make_plan
from orchestrator.throughput import CPU_CORE
from orchestrator.trial import Hardware

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"
SHIPPED = sorted(SWEEPS.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_budget_plans_within_its_means(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#"), "a shipped budget says what it is for"
    budget = parse_budget(text, file=path.name)
    assert budget.name == path.stem
    facts = facts_of(budget, SWEEPS, tmp_path)
    hardware = Hardware(slots=2, throughput=CPU_CORE, precision="fp32")
    plan = make_plan(budget, facts, hardware)
    assert plan.cost_flops <= plan.budget_flops
    assert len(plan.levels) >= 3


def test_the_quickstart_is_about_fifteen_runs_at_three_levels(tmp_path: Path) -> None:
    budget = parse_budget((SWEEPS / "quickstart.yaml").read_text())
    hardware = Hardware(slots=2, throughput=CPU_CORE, precision="fp32")
    plan = make_plan(budget, facts_of(budget, SWEEPS, tmp_path), hardware)
    assert len(plan.levels) == 3
    assert 13 <= len(plan.trials) <= 17
    assert plan.estimated_s < 300
