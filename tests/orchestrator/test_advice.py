"""`sweep next`: what the next run would buy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.advice import next_runs
from orchestrator.cli import app
from orchestrator.designs.adaptive import prior_law
from orchestrator.display import SilentDisplay
from orchestrator.errors import StateRefused
from orchestrator.executors.synthetic import SyntheticExecutor, Truth
from orchestrator.outcome import Answer
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.state import SweepState

TRUTH = Truth(law=prior_law(1e12, 120.0), noise_sd=0.004, seed=5)


@pytest.fixture
def swept(make_setting: Callable[..., Setting]) -> tuple[Setting, SweepState]:
    """A finished isoFLOP sweep of synthetic trials."""
    setting = make_setting()
    outcome = run_sweep(
        setting,
        make_executor=lambda: SyntheticExecutor(TRUTH),
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=0, interim=False, report=False),
    )
    return setting, outcome.state


def test_each_run_named_shrinks_the_interval_and_the_best_per_flop_comes_first(
    swept: tuple[Setting, SweepState],
) -> None:
    setting, state = swept
    found = next_runs(state, setting.budget, setting.data.facts, setting.hardware, count=4)
    assert len(found) == 4
    sds = [found[0].sd_before, *(advice.sd_after for advice in found)]
    assert sds == sorted(sds, reverse=True)
    dearest = max(trial.cost_flops for trial in state.trials.values())
    for advice in found:
        assert dearest / 31 < advice.flops < dearest * 1.1
        record: dict[str, Any] = advice.to_dict()
        assert record["fold_95_after"] < record["fold_95_before"]


def test_a_sweep_without_losses_gets_no_advice(make_setting: Callable[..., Setting]) -> None:
    setting = make_setting()
    empty = SweepState(opened={"name": "small", "budget_flops": 8e12, "target_flops": 1e13})
    with pytest.raises(StateRefused, match="has none"):
        next_runs(empty, setting.budget, setting.data.facts, setting.hardware)


def test_the_verb_prints_one_document(swept: tuple[Setting, SweepState]) -> None:
    setting, _ = swept
    command = ["next", "small", "--outputs", str(setting.outputs), "--count", "2", "--json"]
    document = json.loads(CliRunner().invoke(app, command).stdout)
    assert document["schema"] == "sweep.next/1"
    assert len(document["runs"]) == 2
