"""Every budget file that is shipped is valid and plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.budget import Budget, parse_budget
from orchestrator.data import facts_of
from orchestrator.plan import Plan, make_plan
from orchestrator.throughput import CPU_CORE, GPU
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"
SHIPPED = sorted(SWEEPS.glob("*.yaml"))


ON_GPUS = {"one-gpu": 1, "eight-gpus": 8, "cluster": 16}
"""Budgets whose text and GPUs are the user's: (trials at a time)."""


def planned(path: Path, tmp_path: Path) -> tuple[Budget, Plan]:
    """A shipped budget and its plan: on two cores, or with GPUs and a corpus that are made up."""
    budget = parse_budget(path.read_text(), file=path.name)
    slots = ON_GPUS.get(path.stem)
    if slots is None:
        facts = facts_of(budget, SWEEPS, tmp_path)
        hardware = Hardware(slots=2, throughput=CPU_CORE, precision="fp32")
    else:
        facts = DataFacts(
            train_tokens=20_000_000_000,
            validation_tokens=10_000_000,
            vocab_size=int(budget.data.tokenizer.removeprefix("bpe:")),
            bytes_per_token=4.3,
            digest="d" * 64,
            exact=True,
        )
        hardware = Hardware(slots=slots, throughput=GPU, precision="bf16")
    return budget, make_plan(budget, facts, hardware)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_budget_plans_within_its_means(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("#"), "a shipped budget says what it is for"
    budget, plan = planned(path, tmp_path)
    assert budget.name == path.stem
    assert plan.cost_flops <= plan.budget_flops
    assert len(plan.levels) >= 3
    few = [trial for trial in plan.trials if trial.config.steps < 1000]
    assert len(few) <= 0.15 * len(plan.trials)
    assert max(trial.epochs for trial in plan.trials) <= 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_time_that_was_bought_is_used_and_not_exceeded(path: Path, tmp_path: Path) -> None:
    budget, plan = planned(path, tmp_path)
    spending = budget.budget
    hours = spending.gpu_hours or spending.cpu_hours
    if spending.wall_clock is not None:
        assert 0.85 * spending.wall_clock < plan.estimated_s <= spending.wall_clock
    elif hours is not None:
        assert 0.85 * hours < plan.device_hours <= hours


def test_the_list_of_shipped_budgets_names_all_of_them() -> None:
    text = (SWEEPS / "README.md").read_text()
    assert [path.name for path in SHIPPED if f"`{path.name}`" not in text] == []


def test_the_quickstart_is_about_fifteen_runs_at_three_levels(tmp_path: Path) -> None:
    budget = parse_budget((SWEEPS / "quickstart.yaml").read_text())
    hardware = Hardware(slots=2, throughput=CPU_CORE, precision="fp32")
    plan = make_plan(budget, facts_of(budget, SWEEPS, tmp_path), hardware)
    assert len(plan.levels) == 3
    assert 13 <= len(plan.trials) <= 17
    assert plan.estimated_s < 300
