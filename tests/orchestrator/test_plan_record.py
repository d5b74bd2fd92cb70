"""A plan against what was there before: what changed it, what is paid for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.plan import settle
from orchestrator.plan_record import compare, keep
from orchestrator.setting import Setting
from trainer.result import RunResult, RunStatus


def test_a_plan_says_which_key_changed_and_what_that_does(
    make_setting: Callable[..., Setting],
) -> None:
    first = make_setting()
    assert compare(first.outputs, first.budget, first.plan).changes == ()
    keep(first.outputs, first.budget, first.plan)
    same = compare(first.outputs, first.budget, first.plan)
    assert (same.changes, same.consequences) == ((), ())
    second = make_setting(first.budget_text.replace("sizes: 5", "sizes: 6"))
    changed = compare(second.outputs, second.budget, second.plan)
    assert changed.changes == ("design.sizes: 5 -> 6",)
    assert "trials: 15 -> 18" in changed.consequences
    assert any("of the 15 runs planned before are kept" in line for line in changed.consequences)


def test_a_plan_counts_the_runs_that_any_sweep_has_paid_for(
    make_setting: Callable[..., Setting],
) -> None:
    setting = make_setting()
    trials = setting.plan.trials

    def store(trial_id: str, status: RunStatus) -> None:
        folder: Path = setting.outputs / "other" / "trials" / trial_id
        folder.mkdir(parents=True)
        result = RunResult(trial_id=trial_id, status=status)
        (folder / "result.json").write_text(result.to_json())

    store(trials[0].trial_id, RunStatus.COMPLETED)
    store(trials[1].trial_id, RunStatus.DIVERGED)
    before = compare(setting.outputs, setting.budget, setting.plan)
    assert before.to_dict()["cached"] == [trials[0].trial_id]
    assert before.cached_flops == trials[0].cost_flops


def test_what_is_paid_for_counts_neither_as_time_nor_against_the_budget(
    make_setting: Callable[..., Setting],
) -> None:
    text = make_setting().budget_text
    setting = make_setting(text.replace("flops: 8e12", "flops: 7e12"))
    plan = setting.plan
    assert any("last trials will not be started" in line for line in plan.warnings)
    dearest = [t for t in plan.trials if t.level == 3][:2]
    left = settle(plan, [t.trial_id for t in dearest])
    assert not any("last trials will not be started" in line for line in left.warnings)
    due = plan.cost_flops - sum(t.cost_flops for t in dearest)
    assert left.due_flops == pytest.approx(due)
    assert left.estimated_s < plan.estimated_s
    assert left.device_hours < plan.device_hours
    assert [t.trial_id for t in left.trials] == [t.trial_id for t in plan.trials]
    assert settle(plan, []) == plan
